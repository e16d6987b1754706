//! Random histories against a model of Envoy: whatever happens in whatever order, a filter never names a
//! cluster that is not there with its endpoints (or, on demand, can be asked for), and in the end everything is as
//! wanted.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::xds::SyncState;
use crate::xds::subscription::PATIENCE;

#[derive(Clone, Debug)]
enum Step {
    /// Another snapshot: which of four clusters exist, and a version for each kind.
    Want {
        clusters: u8,
        cluster: u8,
        endpoints: u8,
    },
    /// Envoy takes the next response in.
    Read,
    /// Envoy's requests reach us.
    Flush,
    /// The first player of a cluster on demand.
    Ask(&'static str),
    Wait,
}

/// The clusters that may be on demand.
const ON_DEMAND: [&str; 2] = ["c", "d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => proptest::sample::select(&ON_DEMAND[..]).prop_map(Step::Ask),
        2 => (0..16_u8, 0..3_u8, 0..3_u8)
            .prop_map(|(clusters, cluster, endpoints)| Step::Want { clusters, cluster, endpoints }),
        4 => Just(Step::Read),
        4 => Just(Step::Flush),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

/// The filter's version lists the clusters that it names.
fn wanted(clusters: u8, cluster: u8, endpoints: u8, on_demand: bool) -> Arc<Snapshot> {
    let names: Vec<_> =
        ["a", "b", "c", "d"].into_iter().enumerate().filter(|(i, _)| clusters >> i & 1 == 1).collect();
    let make = |version: u8| names.iter().map(|(_, name)| format!("{name}@{version}")).collect::<Vec<_>>();
    let (clusters, endpoints) = (make(cluster), make(endpoints));
    let filter = format!("x@{}", names.iter().map(|(_, name)| *name).collect::<String>());
    let refer = |list: &[String]| set(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let (lazy, eager): (Vec<_>, Vec<_>) = refer(&clusters)
        .iter()
        .cloned()
        .partition(|cluster| on_demand && ON_DEMAND.contains(&&**cluster.name()));
    let clusters = with_on_demand(eager, lazy);
    Arc::new(Snapshot::new(clusters, refer(&endpoints), set(&["l@1"]), set(&[&filter])))
}

/// Envoy as far as it matters: what it has, what warms, what it keeps back meanwhile.
struct Envoy {
    variant: Variant,
    /// Whether it asks for some clusters on demand, and for which it did.
    on_demand: bool,
    asked: BTreeSet<&'static str>,
    clusters: BTreeMap<String, String>,
    endpoints: BTreeMap<String, String>,
    warming: BTreeSet<String>,
    filter: Option<String>,
    inbox: VecDeque<Response>,
    outbox: VecDeque<Request>,
    kept_back: VecDeque<Request>,
}

impl Envoy {
    fn request(&self, kind: ResourceType, nonce: &str, add: &[String], remove: &[String]) -> Request {
        let asks = match (self.variant, kind) {
            (Variant::Delta, _) => Asks::Change {
                subscribe: add.iter().collect(),
                unsubscribe: remove.iter().collect(),
                initial: Texts::default(),
            },
            (Variant::Sotw, Endpoints) => {
                Asks::All { names: self.clusters.keys().collect(), version: String::new() }
            }
            (Variant::Sotw, Extension) => {
                Asks::All { names: ["x"].into_iter().collect(), version: String::new() }
            }
            (Variant::Sotw, _) => Asks::All { names: Texts::default(), version: String::new() },
        };
        Request { kind, nonce: nonce.to_owned(), error: None, asks }
    }

    /// Envoy asks for a cluster only once, whatever the answer.
    fn ask(&mut self, name: &'static str) {
        if self.on_demand && self.asked.insert(name) {
            self.outbox.push_back(self.request(Cluster, "", &[name.to_owned()], &[]));
        }
    }

    fn read(&mut self, eds_nonce: &mut String) {
        let Some(response) = self.inbox.pop_front() else { return };
        let kind = response.kind;
        match kind {
            Cluster => self.read_clusters(&response, eds_nonce),
            Endpoints => {
                eds_nonce.clone_from(&response.nonce);
                // Envoy ignores endpoints of clusters that it does not have.
                let known = |r: &&Arc<Resource>| self.clusters.contains_key(&**r.name());
                for resource in response.resources.iter().filter(known) {
                    self.endpoints.insert(resource.name().to_string(), resource.version().to_owned());
                    self.warming.remove(&**resource.name());
                }
                for name in &response.removed {
                    self.warming.remove(&**name);
                }
            }
            Runtime | Secret | Listener => {}
            Extension => {
                for resource in &response.resources {
                    self.filter = Some(resource.version().to_owned());
                }
                self.check("a filter came");
            }
        }
        let ack = self.request(kind, &response.nonce, &[], &[]);
        if kind == Cluster {
            self.kept_back.push_back(ack);
        } else {
            self.outbox.push_back(ack);
        }
        if self.warming.is_empty() {
            self.outbox.append(&mut self.kept_back);
        }
    }

    fn read_clusters(&mut self, response: &Response, eds_nonce: &str) {
        let before: BTreeSet<String> = self.clusters.keys().cloned().collect();
        if self.variant == Variant::Sotw {
            self.clusters.retain(|name, _| response.resources.iter().any(|r| **r.name() == **name));
        }
        for resource in &response.resources {
            let old = self.clusters.insert(resource.name().to_string(), resource.version().to_owned());
            if old.as_deref() != Some(resource.version()) {
                self.warming.insert(resource.name().to_string());
            }
        }
        for name in &response.removed {
            self.clusters.remove(&**name);
        }
        let clusters = &self.clusters;
        self.warming.retain(|name| clusters.contains_key(name));
        self.endpoints.retain(|name, _| clusters.contains_key(name));
        let after: BTreeSet<String> = clusters.keys().cloned().collect();
        let add: Vec<String> = after.difference(&before).cloned().collect();
        let remove: Vec<String> = before.difference(&after).cloned().collect();
        if !add.is_empty() || !remove.is_empty() {
            let nonce = if self.variant == Variant::Sotw { eds_nonce } else { "" };
            self.outbox.push_back(self.request(Endpoints, nonce, &add, &remove));
        }
        self.check("clusters changed");
    }

    /// Whether all that the filter names is there, or will be when Envoy asks.
    fn check(&self, when: &str) {
        let can_ask = |name: &String| self.on_demand && ON_DEMAND.contains(&name.as_str());
        let names = self.filter.iter().flat_map(|names| names.chars()).map(String::from);
        for name in names.filter(|name| !can_ask(name)) {
            assert!(self.clusters.contains_key(&name), "{when}: the filter names {name}, which is gone");
            assert!(self.endpoints.contains_key(&name), "{when}: the filter names {name} without endpoints");
        }
    }
}

fn run(variant: Variant, on_demand: bool, steps: Vec<Step>) {
    let mut last = wanted(3, 0, 0, on_demand);
    let mut proxy = Proxy::new(variant, &last);
    let mut envoy = Envoy {
        variant,
        on_demand,
        asked: BTreeSet::new(),
        clusters: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        warming: BTreeSet::new(),
        filter: None,
        inbox: VecDeque::new(),
        outbox: VecDeque::new(),
        kept_back: VecDeque::new(),
    };
    let mut eds_nonce = String::new();
    let first_filter = if variant == Variant::Delta { vec!["x".to_owned()] } else { vec![] };
    for (kind, names) in [(Cluster, &[][..]), (Listener, &[]), (Extension, &first_filter)] {
        envoy.outbox.push_back(envoy.request(kind, "", names, &[]));
    }
    let rest = (0..200).flat_map(|_| [Step::Flush, Step::Read, Step::Read, Step::Wait]);
    for step in steps.into_iter().chain(rest) {
        let came = match step {
            Step::Want { clusters, cluster, endpoints } => {
                last = wanted(clusters, cluster, endpoints, on_demand);
                proxy.want(&last)
            }
            Step::Ask(name) => {
                envoy.ask(name);
                vec![]
            }
            Step::Wait => proxy.wait(PATIENCE / 8),
            Step::Read => {
                envoy.read(&mut eds_nonce);
                vec![]
            }
            Step::Flush => {
                let request = envoy.outbox.pop_front();
                request.map_or_else(Vec::new, |r| {
                    proxy.stream.on_request(r, proxy.now, SystemTime::now()).unwrap().0
                })
            }
        };
        envoy.inbox.extend(came);
    }
    let has = |name: &str| !last.of(Cluster).is_on_demand(name) || envoy.asked.contains(name);
    let versions = |set: &ResourceSet| -> BTreeMap<String, String> {
        set.iter().filter(|r| has(r.name())).map(|r| (r.name().to_string(), r.version().to_owned())).collect()
    };
    assert_eq!(proxy.stream.sync(), SyncState::Synced);
    assert_eq!(envoy.clusters, versions(last.of(Cluster)));
    assert_eq!(envoy.endpoints, versions(last.of(Endpoints)));
    assert_eq!(envoy.filter.as_deref(), last.of(Extension).iter().next().map(|r| r.version()));
    assert!(envoy.inbox.is_empty() && envoy.outbox.is_empty());
}

proptest! {
    #[test]
    fn s22_s23_sotw_histories_end_as_wanted_and_never_break(steps in steps()) {
        run(Variant::Sotw, false, steps);
    }

    #[test]
    fn s22_s23_delta_histories_end_as_wanted_and_never_break(steps in steps()) {
        run(Variant::Delta, false, steps);
    }

    #[test]
    fn s11_s22_s23_delta_histories_on_demand_end_with_what_was_asked_for(steps in steps()) {
        run(Variant::Delta, true, steps);
    }
}
