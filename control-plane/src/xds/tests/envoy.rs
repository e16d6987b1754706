//! Envoy as far as order matters: what it has in force, what warms, what it keeps back meanwhile, and what it says on a new
//! stream. It fails a test as soon as a filter names what is not there.

use std::collections::{BTreeSet, VecDeque};

use super::*;

/// The clusters that may be on demand.
pub(super) const ON_DEMAND: [&str; 2] = ["c", "d"];

/// The filter's version lists the clusters that it names, of one letter each, perhaps after a number and a dash.
fn named(version: &str) -> impl Iterator<Item = String> {
    version.split('-').next_back().into_iter().flat_map(str::chars).map(String::from)
}

/// What a cluster waits for before it comes into force, or takes the place of the one before.
#[derive(Debug)]
struct Warming {
    /// Whether endpoints came, and whether there were any.
    endpoints: Option<bool>,
    checked: bool,
}

pub(super) struct Envoy {
    variant: Variant,
    /// Whether it asks for some clusters on demand, and for which it did.
    on_demand: bool,
    pub(super) asked: BTreeSet<&'static str>,
    /// Whether clusters have health checks, which [`Self::check_health`] ends.
    slow: bool,
    /// What it was given, by version.
    pub(super) clusters: BTreeMap<String, String>,
    pub(super) endpoints: BTreeMap<String, String>,
    listeners: BTreeMap<String, String>,
    pub(super) filter: Option<String>,
    /// The latest response taken in, by type: what state of the world claims on a new stream.
    versions: BTreeMap<ResourceType, String>,
    /// Clusters in force, and whether they have endpoints.
    active: BTreeMap<String, bool>,
    warming: BTreeMap<String, Warming>,
    /// Clusters that went with the first answer of a stream in state of the world: there a proxy does not say which it has.
    lost: BTreeSet<String>,
    eds_nonce: String,
    pub(super) inbox: VecDeque<Response>,
    pub(super) outbox: VecDeque<Request>,
    /// Requests for clusters, while any warms.
    kept_back: VecDeque<Request>,
}

impl Envoy {
    pub(super) fn new(variant: Variant, on_demand: bool, slow: bool) -> Self {
        let mut envoy = Self {
            variant,
            on_demand,
            asked: BTreeSet::new(),
            slow,
            clusters: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            listeners: BTreeMap::new(),
            filter: None,
            versions: BTreeMap::new(),
            active: BTreeMap::new(),
            warming: BTreeMap::new(),
            lost: BTreeSet::new(),
            eds_nonce: String::new(),
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            kept_back: VecDeque::new(),
        };
        envoy.connect();
        envoy
    }

    /// The stream breaks: what was on its way is lost, and all is asked for again; clusters only when none warms.
    pub(super) fn connect(&mut self) {
        self.inbox.clear();
        self.outbox.clear();
        self.kept_back.clear();
        self.eds_nonce.clear();
        let endpoints: Vec<_> = self.clusters.keys().cloned().collect();
        let on_demand: Vec<_> = self.asked.iter().map(ToString::to_string).collect();
        let on_demand =
            if on_demand.is_empty() { vec![] } else { [vec!["*".to_owned()], on_demand].concat() };
        self.first(Cluster, &on_demand);
        if !endpoints.is_empty() {
            self.first(Endpoints, &endpoints);
        }
        self.first(Listener, &[]);
        self.first(Extension, &["x".to_owned()]);
    }

    /// The first request of a type on a stream.
    fn first(&mut self, kind: ResourceType, names: &[String]) {
        let has = match kind {
            Cluster => self.clusters.clone(),
            Endpoints => self.endpoints.clone(),
            Listener => self.listeners.clone(),
            _ => self.filter.iter().map(|version| ("x".to_owned(), version.clone())).collect(),
        };
        let asks = match self.variant {
            Variant::Delta => Asks::Change {
                subscribe: names.iter().collect(),
                unsubscribe: Texts::default(),
                initial: has.iter().flat_map(|(name, version)| [name, version]).collect(),
            },
            Variant::Sotw => {
                let version = self.versions.get(&kind).cloned().unwrap_or_default();
                Asks::All { names: names.iter().collect(), version }
            }
        };
        self.say(Request { kind, nonce: String::new(), error: None, asks });
    }

    fn say(&mut self, request: Request) {
        if request.kind == Cluster && !self.warming.is_empty() {
            self.kept_back.push_back(request);
        } else {
            self.outbox.push_back(request);
        }
    }

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

    /// The first player of a cluster on demand. Envoy asks for a cluster only once, whatever the answer.
    pub(super) fn ask(&mut self, name: &'static str) {
        if self.on_demand && self.asked.insert(name) {
            self.say(self.request(Cluster, "", &[name.to_owned()], &[]));
        }
    }

    /// Takes the next response in.
    pub(super) fn read(&mut self) {
        let Some(response) = self.inbox.pop_front() else { return };
        let kind = response.kind;
        self.versions.insert(kind, response.version.to_string());
        let came = || response.resources.iter().map(|r| (r.name().to_string(), r.version().to_owned()));
        match kind {
            Cluster => self.read_clusters(&response),
            Endpoints => self.read_endpoints(&response),
            Listener => self.listeners.extend(came()),
            Runtime | Secret => {}
            Extension => {
                if let Some((_, version)) = came().next_back() {
                    self.filter = Some(version);
                }
                self.check("a filter came");
            }
        }
        self.say(self.request(kind, &response.nonce, &[], &[]));
        self.warm();
    }

    fn read_clusters(&mut self, response: &Response) {
        let before: BTreeSet<String> = self.clusters.keys().cloned().collect();
        if self.variant == Variant::Sotw {
            self.clusters.retain(|name, _| response.resources.iter().any(|r| **r.name() == **name));
        }
        for resource in &response.resources {
            let name = resource.name().to_string();
            let old = self.clusters.insert(name.clone(), resource.version().to_owned());
            if old.as_deref() != Some(resource.version()) {
                self.warming.insert(name, Warming { endpoints: None, checked: !self.slow });
            }
        }
        for name in &response.removed {
            self.clusters.remove(&**name);
        }
        let clusters = &self.clusters;
        self.warming.retain(|name, _| clusters.contains_key(name));
        self.active.retain(|name, _| clusters.contains_key(name));
        self.endpoints.retain(|name, _| clusters.contains_key(name));
        let after: BTreeSet<String> = clusters.keys().cloned().collect();
        if self.variant == Variant::Sotw && response.nonce == "1" {
            self.lost.extend(before.difference(&after).cloned());
        }

        let add: Vec<String> = after.difference(&before).cloned().collect();
        let remove: Vec<String> = before.difference(&after).cloned().collect();
        if !add.is_empty() || !remove.is_empty() {
            let nonce = if self.variant == Variant::Sotw { &self.eds_nonce } else { "" };
            self.say(self.request(Endpoints, nonce, &add, &remove));
        }
        self.check("clusters changed");
    }

    fn read_endpoints(&mut self, response: &Response) {
        self.eds_nonce.clone_from(&response.nonce);
        // Envoy ignores endpoints of clusters that it does not have.
        let known = |r: &&Arc<Resource>| self.clusters.contains_key(&**r.name());
        for resource in response.resources.iter().filter(known) {
            let name = resource.name().to_string();
            match self.warming.get_mut(&name) {
                Some(warming) => warming.endpoints = Some(true),
                None => drop(self.active.insert(name.clone(), true)),
            }
            self.endpoints.insert(name, resource.version().to_owned());
        }
        for name in &response.removed {
            self.endpoints.remove(&**name);
            if let Some(warming) = self.warming.get_mut(&**name) {
                warming.endpoints.get_or_insert(false);
            }
        }
    }

    /// The health checks of what warms end, where there are endpoints to check.
    pub(super) fn check_health(&mut self) {
        for warming in self.warming.values_mut() {
            warming.checked |= warming.endpoints.is_some();
        }
        self.warm();
    }

    /// Endpoints that do not come within 15 s are waited for no longer: those of the cluster before do, if there were any.
    pub(super) fn give_endpoints_up(&mut self) {
        for (name, warming) in &mut self.warming {
            warming.endpoints.get_or_insert(self.endpoints.contains_key(name));
        }
        self.warm();
    }

    fn warm(&mut self) {
        let is_warm = |warming: &Warming| warming.checked && warming.endpoints.is_some();
        let warm = self.warming.iter().filter(|(_, warming)| is_warm(warming));
        self.active.extend(warm.map(|(name, warming)| (name.clone(), warming.endpoints == Some(true))));
        self.warming.retain(|_, warming| !is_warm(warming));
        self.lost.retain(|name| !self.active.contains_key(name));
        self.check("clusters came into force");
        if self.warming.is_empty() {
            self.outbox.append(&mut self.kept_back);
        }
    }

    /// Whether all that the filter names is there, or will be when Envoy asks.
    fn check(&self, when: &str) {
        let can_ask = |name: &String| self.on_demand && ON_DEMAND.contains(&name.as_str());
        let names = self.filter.iter().flat_map(|version| named(version));
        for name in names.filter(|name| !can_ask(name) && !self.lost.contains(name)) {
            match self.active.get(&name) {
                None => panic!("{when}: the filter names {name}, which is not in force"),
                Some(false) => panic!("{when}: the filter names {name}, which has no endpoints"),
                Some(true) => {}
            }
        }
    }
}
