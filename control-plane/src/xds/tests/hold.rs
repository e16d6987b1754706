//! Snapshots of which a source was never heard: who comes with something of it loses nothing, until the source is heard.

use proptest::prelude::*;

use super::*;
use crate::xds::{Hold, SyncState};

/// What the source that was never heard would name starts with `p`.
fn is_of_source(kind: ResourceType, name: &str) -> bool {
    matches!(kind, Cluster | Endpoints | Listener | Extension) && name.starts_with('p')
}

fn held(snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
    let hold = Hold::new("no policy was ever put", is_of_source);
    Arc::new(Snapshot::clone(snapshot).holding(Some(hold)))
}

/// A proxy as far as it matters here: what it has.
struct Model {
    proxy: Proxy,
    has: BTreeMap<ResourceType, BTreeMap<String, String>>,
    /// The version of each type that state of the world says on reconnect.
    versions: BTreeMap<ResourceType, String>,
}

impl Model {
    fn started(variant: Variant, wanted: &Arc<Snapshot>) -> Self {
        let (has, versions) = (BTreeMap::new(), BTreeMap::new());
        let mut model = Self { proxy: Proxy::new(variant, wanted), has, versions };
        model.connect(wanted);
        model
    }

    /// Opens a stream as Envoy does, saying what it has.
    fn connect(&mut self, wanted: &Arc<Snapshot>) {
        self.proxy = Proxy::new(self.proxy.variant, wanted);
        let mut came = Vec::new();
        for kind in [Cluster, Endpoints, Listener, Extension] {
            let of = match kind {
                Endpoints => Cluster,
                Extension => Listener,
                _ => kind,
            };
            let names: Vec<String> = if kind == of { vec![] } else { self.of(of).keys().cloned().collect() };
            let asks = match self.proxy.variant {
                Variant::Sotw => {
                    let version = self.versions.get(&kind).cloned().unwrap_or_default();
                    Asks::All { names: names.iter().collect(), version }
                }
                Variant::Delta => Asks::Change {
                    subscribe: names.iter().collect(),
                    unsubscribe: Texts::default(),
                    initial: self.of(kind).iter().flat_map(|(name, version)| [name, version]).collect(),
                },
            };
            self.proxy.names.insert(kind, names);
            came.extend(self.proxy.send(kind, "", None, asks));
        }
        self.take(came);
    }

    fn of(&self, kind: ResourceType) -> BTreeMap<String, String> {
        self.has.get(&kind).cloned().unwrap_or_default()
    }

    fn want(&mut self, wanted: &Arc<Snapshot>) {
        let came = self.proxy.want(wanted);
        self.take(came);
    }

    /// Takes and acknowledges until nothing more comes, asking for the endpoints and filters of what is new.
    fn take(&mut self, came: Vec<Response>) {
        let mut queue: std::collections::VecDeque<_> = came.into();
        while let Some(response) = queue.pop_front() {
            let (kind, sotw) = (response.kind, self.proxy.variant == Variant::Sotw);
            let has = self.has.entry(kind).or_default();
            if sotw && matches!(kind, Cluster | Listener) {
                has.clear();
            }
            has.extend(response.resources.iter().map(|r| (r.name().to_string(), r.version().to_owned())));
            response.removed.iter().for_each(|name| drop(has.remove(&**name)));
            self.versions.insert(kind, response.version.to_string());
            queue.extend(self.proxy.ack(&response));
            let follows = match kind {
                Cluster => Endpoints,
                Listener => Extension,
                _ => continue,
            };
            let known = self.proxy.names.get(&follows).cloned().unwrap_or_default();
            let new: Vec<_> = self.of(kind).into_keys().filter(|name| !known.contains(name)).collect();
            if !new.is_empty() {
                queue.extend(self.proxy.ask(follows, &new.iter().map(String::as_str).collect::<Vec<_>>()));
            }
        }
    }
}

type Named = BTreeMap<String, u8>;

fn named(pattern: &'static str) -> impl Strategy<Value = Named> {
    proptest::collection::btree_map(pattern, 0..3_u8, 0..4)
}

/// Clusters with endpoints of the same names, listeners with filters of the same names.
fn snapshot_of((clusters, listeners): &(Named, Named), of_namers: u8) -> Arc<Snapshot> {
    let make = |of: &Named, more: u8| -> ResourceSet {
        let texts: Vec<_> = of.iter().map(|(name, version)| format!("{name}@{}", version + more)).collect();
        set(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    Arc::new(Snapshot::new(
        make(clusters, 0),
        make(clusters, of_namers),
        make(listeners, 0),
        make(listeners, of_namers),
    ))
}

fn versions(set: &ResourceSet) -> BTreeMap<String, String> {
    set.iter().map(|r| (r.name().to_string(), r.version().to_owned())).collect()
}

fn run(variant: Variant, before: &(Named, Named), lost: &[(Named, Named)], then: &(Named, Named)) {
    let first = snapshot_of(before, 0);
    let mut model = Model::started(variant, &first);
    let had = model.has.clone();
    let of = |kind| had.get(&kind).cloned().unwrap_or_default();
    assert_eq!((of(Cluster), of(Extension)), (versions(first.of(Cluster)), versions(first.of(Extension))));
    let is_of_it = |kind: &ResourceType| of(*kind).keys().any(|name| is_of_source(*kind, name));
    let keeps = [Cluster, Listener].iter().any(is_of_it);
    let mut connected = false;
    for (number, lost) in (1..).zip(lost) {
        let lost = held(&snapshot_of(lost, number));
        if connected {
            model.want(&lost);
        } else {
            model.connect(&lost);
        }
        connected = true;
        let wait = model.proxy.wait(Duration::from_secs(3));
        model.take(wait);
        if keeps {
            for kind in [Cluster, Endpoints, Listener, Extension] {
                let has = model.of(kind);
                for (name, version) in of(kind) {
                    let now = has.get(&name).unwrap_or_else(|| panic!("{kind:?} {name} is gone"));
                    let may_change = matches!(kind, Cluster | Endpoints) && !name.starts_with('p');
                    assert!(may_change || *now == version, "{kind:?} {name} is {now}, was {version}");
                }
            }
        }
    }
    let then = snapshot_of(then, 100);
    model.want(&then);
    let wait = model.proxy.wait(Duration::from_secs(3));
    model.take(wait);
    for kind in [Cluster, Listener] {
        assert_eq!(model.of(kind), versions(then.of(kind)), "{kind:?} when the source was heard");
    }
    for kind in [Endpoints, Extension] {
        for (name, version) in versions(then.of(kind)) {
            assert_eq!(model.of(kind).get(&name), Some(&version), "{kind:?} {name}");
        }
    }
    assert_eq!(model.proxy.stream.sync(), SyncState::Synced);
}

proptest! {
    #[test]
    fn whoever_comes_with_what_is_not_known_loses_nothing_until_it_is(
        before in (named("[pr][1-3]"), named("[pr][1-3]")),
        lost in proptest::collection::vec((named("r[1-3]"), named("r[1-3]")), 1..4),
        then in (named("[pr][1-3]"), named("[pr][1-3]")),
    ) {
        for variant in BOTH {
            run(variant, &before, &lost, &then);
        }
    }
}

#[test]
fn a_fresh_proxy_is_served_what_there_is_and_what_was_sent_here_may_go() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &held(&snapshot(&["r@1", "p@1"], &[], &["l@1"], &["l@1"])));
        let came = proxy.want(&held(&snapshot(&["r@2"], &[], &["l@2"], &["l@2"])));
        proxy.settle(came);
        proxy.wait(Duration::from_secs(3));
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        assert_eq!(proxy.stream.of(Cluster).kept(proxy.stream.wanted().of(Cluster)), Some(0));
    }
}

#[test]
fn what_is_of_other_sources_comes_and_goes_as_ever() {
    let wanted = held(&snapshot(&["r@2"], &[], &["l@2"], &["l@2"]));
    let mut proxy = Proxy::new(Variant::Delta, &wanted);
    let mut came = proxy.send(Cluster, "", None, again(&[], &[("r", "1"), ("rest", "1")]));
    came.extend(proxy.send(Listener, "", None, again(&[], &[("l", "1")])));
    came.extend(proxy.send(Extension, "", None, again(&["l"], &[("l", "1")])));
    let came = trace(&proxy.settle(came));
    assert_eq!(came, ["cds: r@2", "lds: l@2", "ecds: l@2", "cds: -rest"]);
}

#[test]
fn an_unknown_name_is_answered_once_it_is_known_what_there_is() {
    let mut proxy = Proxy::new(Variant::Delta, &held(&snapshot(&[], &[], &[], &[])));
    proxy.send(Cluster, "", None, again(&["*"], &[("p", "1")]));
    assert!(trace(&proxy.ask(Cluster, &["p-on-demand"])).is_empty(), "a player waits");
    let wanted = &proxy.stream.wanted().clone();
    assert_eq!(proxy.stream.of(Cluster).kept(wanted.of(Cluster)), Some(1));
    assert_eq!(trace(&proxy.want(&snapshot(&["p@1"], &[], &[], &[]))), ["cds: -p-on-demand"]);
}

#[test]
fn certificates_of_a_new_authority_go_to_those_who_have_none_of_another() {
    let secrets = |version: &str| {
        let of = |name: &str| Resource::encoded("", name.into(), version.into(), version.as_bytes());
        ResourceSet::on_demand([of("roots"), of("leaf")])
    };
    let wanted = Snapshot::clone(&snapshot(&["a@2"], &[], &[], &[])).with_secrets(secrets("new"));
    let is_roots = |kind, name: &str| kind == Secret && name == "roots";
    let held = Arc::new(wanted.clone().holding_secrets(Some(Hold::new("the authority is new", is_roots))));
    let names = ["roots", "leaf"];

    let mut old = Proxy::new(Variant::Delta, &held);
    assert_eq!(
        trace(&old.send(Cluster, "", None, again(&[], &[("a", "1")]))),
        ["cds: a@2"],
        "the rest goes on"
    );
    let came = old.send(Secret, "", None, again(&names, &[("roots", "old"), ("leaf", "old")]));
    assert!(came.is_empty(), "{:?}", trace(&came));
    assert_eq!(old.stream.held().map(|held| held.resources), Some(Some(2)));
    assert_eq!(trace(&old.want(&Arc::new(wanted))), ["sds: leaf@new roots@new"]);
    assert_eq!(old.stream.held(), None);

    let mut fresh = Proxy::new(Variant::Delta, &held);
    assert_eq!(trace(&fresh.send(Secret, "", None, again(&names, &[]))), ["sds: leaf@new roots@new"]);
    // Leaves are made anew with each start; who has these roots gets one.
    let mut ours = Proxy::new(Variant::Delta, &held);
    let came = ours.send(Secret, "", None, again(&names, &[("roots", "new"), ("leaf", "before")]));
    assert_eq!(trace(&came), ["sds: leaf@new"]);
}

#[test]
fn endpoints_of_which_nobody_knows_better_replace_none_that_a_proxy_came_with() {
    let of = |endpoints: Vec<Arc<Resource>>| {
        Arc::new(Snapshot::new(set(&["a@1"]), ResourceSet::new(endpoints), set(&[]), set(&[])))
    };
    let empty = || Resource::encoded("", "a".into(), "empty".into(), b"");
    let hollow = of(vec![Arc::new(empty().hollow())]);
    let mut old = Proxy::new(Variant::Delta, &hollow);
    assert!(old.send(Cluster, "", None, again(&[], &[("a", "1")])).is_empty());
    assert!(old.send(Endpoints, "", None, again(&["a"], &[("a", "1")])).is_empty());
    let came = old.want(&of(vec![Arc::new(Resource::encoded("", "a".into(), "2".into(), b""))]));
    assert_eq!(trace(&old.settle(came)), ["eds: a@2"]);
    // What was known here, and is no more, is gone.
    assert_eq!(trace(&old.want(&of(vec![Arc::new(empty())]))), ["eds: a@empty"]);

    let mut known = Proxy::new(Variant::Delta, &of(vec![Arc::new(empty())]));
    known.send(Cluster, "", None, again(&[], &[("a", "1")]));
    assert_eq!(trace(&known.send(Endpoints, "", None, again(&["a"], &[("a", "1")]))), ["eds: a@empty"]);
    let mut fresh = Proxy::new(Variant::Delta, &hollow);
    fresh.ask(Cluster, &[]);
    assert_eq!(trace(&fresh.ask(Endpoints, &["a"])), ["eds: a@empty"]);
}

#[test]
fn secrets_that_are_kept_keep_no_clusters() {
    let hold = |snapshot: &Arc<Snapshot>| {
        let is_roots = |kind, name: &str| kind == Secret && name == "roots";
        let secrets = Snapshot::clone(snapshot).with_secrets(set(&["roots@2"]));
        Arc::new(secrets.holding_secrets(Some(Hold::new("the authority is new", is_roots))))
    };
    let snapshot_of = |number: usize| {
        let cluster = format!("c{number}@1");
        hold(&snapshot(&[&cluster], &[&cluster], &["l@1"], &[&format!("l@{number}")]))
    };
    let mut model = Model::started(Variant::Delta, &snapshot_of(0));
    model.connect(&snapshot_of(0));
    let came = model.proxy.send(Secret, "", None, again(&["roots"], &[("roots", "1")]));
    model.take(came);
    for number in 1..10 {
        let came = model.proxy.wait(Duration::from_mins(1));
        model.take(came);
        model.want(&snapshot_of(number));
    }
    assert!(model.proxy.stream.keeps());
    assert_eq!(model.of(Cluster).len(), 1, "{:?}", model.of(Cluster));
}

#[test]
fn who_comes_with_other_lists_and_asks_for_nothing_of_the_source_is_served() {
    for variant in BOTH {
        let mut model = Model::started(variant, &held(&snapshot(&["r@1"], &["r@1"], &["l@1"], &["l@r"])));
        model.connect(&held(&snapshot(&["r@1", "s@1"], &["r@1", "s@1"], &["l@2"], &["l@rs"])));
        assert_eq!(model.of(Extension).get("l").map(String::as_str), Some("rs"), "{variant:?}");
        let came = model.proxy.wait(Duration::from_secs(3));
        model.take(came);
        assert_eq!(model.proxy.stream.sync(), SyncState::Synced, "{variant:?}");
        assert!(!model.proxy.stream.keeps());
    }
    // Who asks for neither endpoints nor filters has time to do so.
    let mut proxy = Proxy::new(Variant::Sotw, &held(&snapshot(&["r@1"], &[], &[], &[])));
    let asks = Asks::All { names: Texts::default(), version: "before".to_owned() };
    assert!(proxy.send(Cluster, "", None, asks).is_empty());
    let patience = proxy.stream.deadline(proxy.now).expect("it is looked at again") - proxy.now;
    assert_eq!(trace(&proxy.wait(patience)), ["cds: r@1"]);
    // Where names tell nothing, nothing is sent.
    let hold = Hold::new("no rules were ever there", is_of_source).with_nameless();
    let rules = Arc::new(Snapshot::clone(&snapshot(&["r@2"], &[], &[], &[])).holding(Some(hold)));
    let mut proxy = Proxy::new(Variant::Sotw, &rules);
    let asks = Asks::All { names: Texts::default(), version: "before".to_owned() };
    assert!(proxy.send(Cluster, "", None, asks).is_empty());
    assert!(proxy.wait(Duration::from_mins(1)).is_empty());
}
