//! What sources name as endpoints, without what may be none. Every source comes by here, at the join, so none can forget it;
//! what is left of a list serves, and what is not is told. Strategies that count endpoints count what is left: a list that was
//! refused as a whole would close its worlds to all players, after every start anew.

mod metrics;

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use serde::Serialize;
use tokio::sync::watch;

use self::metrics::Metrics;
use super::catalog::{Catalog, Instance, Lookup};
use crate::model::{
    self, Endpoint, EndpointPolicy, EndpointSource, OwnListeners, Policy, RefusedAddress, RefusedInPolicy,
    RefusedReason,
};
use crate::source::gateway_rules::GatewayRules;

/// Refusals that are logged when they appear.
const MAX_LOGGED: usize = 20;

/// Refusals that are kept of one source; all are counted. A document of rules could hold a million.
const MAX_KEPT: usize = 1_000;

/// An endpoint that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedEndpoint {
    /// `policy`, `game_gateway` or `consul`.
    pub source: &'static str,
    /// Where it stands there.
    pub place: String,
    /// As it is written there.
    pub endpoint: String,
    /// A short name, as in `realmgate_endpoints_refused`.
    pub reason: &'static str,
    /// What is wrong with it.
    pub error: String,
}

/// What is left out of one source.
#[derive(Debug, Default)]
struct Refusals {
    /// The first of them.
    list: Vec<RefusedEndpoint>,
    /// How many there are, by reason.
    counts: BTreeMap<RefusedReason, i64>,
}

impl Refusals {
    /// Counts one, and keeps it where there is room.
    fn add(&mut self, why: &RefusedAddress, of: impl FnOnce() -> RefusedEndpoint) {
        *self.counts.entry(why.reason).or_default() += 1;
        if self.list.len() < MAX_KEPT {
            self.list.push(of());
        }
    }
}

impl RefusedEndpoint {
    fn new(source: EndpointSource, place: String, endpoint: String, why: &RefusedAddress) -> Self {
        Self { source: source.label(), place, endpoint, reason: why.reason.label(), error: why.to_string() }
    }
}

/// What is left out of the latest values of all sources.
#[derive(Clone, Debug, Default)]
pub struct RefusedEndpoints {
    /// One for each endpoint, the first of each source.
    pub list: Vec<RefusedEndpoint>,
    /// How many there are, by source; a source that has none is not in it.
    pub counts: BTreeMap<EndpointSource, i64>,
    /// The policy as it is in force and what is left of it, where that is another one.
    pub policy: Option<(Arc<Policy>, Arc<Policy>)>,
}

impl RefusedEndpoints {
    /// Whether what is joined of this policy is that one: by value, since a mesh that would be as it was is not made anew and has an
    /// equal policy of before.
    #[must_use]
    pub fn is_left_of(&self, joined: &Arc<Policy>, policy: &Arc<Policy>) -> bool {
        is_same(joined, policy)
            || self.policy.as_ref().is_some_and(|(from, left)| is_same(from, policy) && is_same(left, joined))
    }
}

fn is_same(one: &Arc<Policy>, other: &Arc<Policy>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// Leaves out what may be no endpoint. Values that did not change are not looked at again.
#[derive(Debug)]
pub struct EndpointScreen {
    rules: Arc<EndpointPolicy>,
    policy: Option<Screened<Policy>>,
    gateway: Option<Screened<GatewayRules>>,
    consul: Option<Screened<Catalog>>,
    /// Where players' listeners are, by the policy that was looked at last.
    listeners: Arc<OwnListeners>,
    /// Those whose players are led to services that Consul knows.
    of_consul: Arc<OwnListeners>,
    refused: watch::Sender<Arc<RefusedEndpoints>>,
    metrics: Metrics,
}

/// A value and what was made of it.
#[derive(Debug)]
struct Screened<T> {
    from: Arc<T>,
    /// The listeners that it was held against.
    listeners: Arc<OwnListeners>,
    left: Arc<T>,
    refused: Refusals,
}

impl EndpointScreen {
    /// Registers its metric; fails if it is registered already.
    pub fn new(rules: Arc<EndpointPolicy>, registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Metrics::register(registry)?;
        Ok(Self {
            rules,
            policy: None,
            gateway: None,
            consul: None,
            listeners: Arc::default(),
            of_consul: Arc::default(),
            refused: watch::channel(Arc::default()).0,
            metrics,
        })
    }

    /// What is left out.
    #[must_use]
    pub fn refused(&self) -> watch::Receiver<Arc<RefusedEndpoints>> {
        self.refused.subscribe()
    }

    /// What is left of the policy; the others are held against its listeners.
    pub(super) fn policy(&mut self, policy: &Arc<Policy>) -> Arc<Policy> {
        if let Some(known) = self.policy.as_ref().filter(|known| Arc::ptr_eq(&known.from, policy)) {
            return Arc::clone(&known.left);
        }
        replace(&mut self.listeners, model::listeners(policy, &self.rules));
        replace(&mut self.of_consul, model::listeners_of_consul(policy, &self.rules));
        let (left, found) = match model::without_refused(policy, &self.rules) {
            None => (Arc::clone(policy), Vec::new()),
            Some((left, found)) => (Arc::new(left), found),
        };
        let mut refused = Refusals::default();
        for RefusedInPolicy { service, field, endpoint, why } in found {
            refused.add(&why, || {
                let place = format!("services.{service}.{field}");
                RefusedEndpoint::new(EndpointSource::Policy, place, endpoint, &why)
            });
        }
        let (from, listeners) = (Arc::clone(policy), Arc::clone(&self.listeners));
        self.policy = Some(Screened { from, listeners, left: Arc::clone(&left), refused });
        left
    }

    /// What is left of the old gateway's rules.
    pub(super) fn gateway(&mut self, rules: &Arc<GatewayRules>) -> Arc<GatewayRules> {
        if let Some(known) = known(self.gateway.as_ref(), rules, &self.listeners) {
            return known;
        }
        let mut refused = Refusals::default();
        let mut left = None;
        for (nth, rule) in rules.rules.iter().enumerate() {
            let check = |endpoint: &Endpoint| {
                let led = |ip, port| self.listeners.reached(ip, port).next();
                self.rules.check(EndpointSource::GameGateway, endpoint, &led)
            };
            if rule.endpoints.iter().all(|endpoint| check(endpoint).is_ok()) {
                continue;
            }
            let left = left.get_or_insert_with(|| GatewayRules::clone(rules));
            let Some(left) = left.rules.get_mut(nth) else { continue };
            left.endpoints.retain(|endpoint| {
                let Err(why) = check(endpoint) else { return true };
                refused.add(&why, || {
                    let place = format!("{} {}", rule.origin.redis_key(), rule.key);
                    RefusedEndpoint::new(EndpointSource::GameGateway, place, endpoint.to_string(), &why)
                });
                false
            });
        }
        let left = left.map_or_else(|| Arc::clone(rules), Arc::new);
        let (from, listeners) = (Arc::clone(rules), Arc::clone(&self.listeners));
        self.gateway = Some(Screened { from, listeners, left: Arc::clone(&left), refused });
        left
    }

    /// What is left of Consul's catalog.
    pub(super) fn consul(&mut self, catalog: &Arc<Catalog>) -> Arc<Catalog> {
        if let Some(known) = known(self.consul.as_ref(), catalog, &self.of_consul) {
            return known;
        }
        let mut refused = Refusals::default();
        let check = |instance: &Instance| {
            let Instance { address, port, .. } = instance;
            let led = |ip, port| self.of_consul.reached(ip, port).next();
            self.rules.check_address(EndpointSource::Consul, *address, *port, &led)
        };
        let mut changed: BTreeMap<Lookup, Arc<[Instance]>> = BTreeMap::new();
        for (lookup, instances) in &catalog.instances {
            let good = instances.iter().filter(|instance| {
                let Err(why) = check(instance) else { return true };
                refused.add(&why, || {
                    let Instance { id, node, address, port, .. } = instance;
                    let place = format!("{}/{} {id} at {node}", lookup.datacenter, lookup.service);
                    let endpoint = SocketAddr::new(*address, *port).to_string();
                    RefusedEndpoint::new(EndpointSource::Consul, place, endpoint, &why)
                });
                false
            });
            let good: Vec<_> = good.cloned().collect();
            if good.len() < instances.len() {
                changed.insert(lookup.clone(), good.into());
            }
        }
        let left = if changed.is_empty() {
            Arc::clone(catalog)
        } else {
            let mut left = Catalog::clone(catalog);
            left.instances.extend(changed);
            Arc::new(left)
        };
        let (from, listeners) = (Arc::clone(catalog), Arc::clone(&self.of_consul));
        self.consul = Some(Screened { from, listeners, left: Arc::clone(&left), refused });
        left
    }

    /// Tells what is left out by now: to metrics, to the log what is new, and to who subscribed.
    pub(super) fn tell(&mut self) {
        let refused = [
            (EndpointSource::Policy, self.policy.as_ref().map(|known| &known.refused)),
            (EndpointSource::GameGateway, self.gateway.as_ref().map(|known| &known.refused)),
            (EndpointSource::Consul, self.consul.as_ref().map(|known| &known.refused)),
        ];
        self.metrics.show(|source, reason| {
            let of_source = refused.iter().find(|(of, _)| *of == source).and_then(|(_, refused)| *refused);
            of_source.and_then(|refused| refused.counts.get(&reason)).copied().unwrap_or_default()
        });
        let count = |refused: &Refusals| refused.counts.values().sum();
        let counts = refused.iter().map(|(of, refused)| (*of, refused.map_or(0, count)));
        let counts: BTreeMap<_, i64> = counts.filter(|(_, count)| *count > 0).collect();
        let kept = refused.into_iter().filter_map(|(_, refused)| refused).flat_map(|refused| &refused.list);
        let list: Vec<_> = kept.cloned().collect();
        let policy = self.policy.as_ref().filter(|known| !Arc::ptr_eq(&known.from, &known.left));
        let policy = policy.map(|known| (Arc::clone(&known.from), Arc::clone(&known.left)));
        let before = self.refused.borrow().clone();
        let same = match (&before.policy, &policy) {
            (None, None) => true,
            (Some(before), Some(now)) => Arc::ptr_eq(&before.0, &now.0) && Arc::ptr_eq(&before.1, &now.1),
            _ => false,
        };
        if same && before.list == list && before.counts == counts {
            return;
        }
        let known: HashSet<_> = before.list.iter().map(|of| (of.source, &of.place, &of.endpoint)).collect();
        let mut more = 0;
        for (nth, of) in
            list.iter().filter(|of| !known.contains(&(of.source, &of.place, &of.endpoint))).enumerate()
        {
            if nth < MAX_LOGGED {
                let RefusedEndpoint { source, place, reason, error, .. } = of;
                tracing::warn!(
                    source,
                    place,
                    reason,
                    "endpoint refused; others of its list serve, and what hashes over the list hashes over those: {error}"
                );
            } else {
                more += 1;
            }
        }
        if more > 0 {
            let refused: i64 = counts.values().sum();
            tracing::warn!(more, refused, "further endpoints refused");
        }
        self.refused.send_replace(Arc::new(RefusedEndpoints { list, counts, policy }));
    }
}

/// Equal ones stay the same, so that what was held against them is not looked at again.
fn replace(known: &mut Arc<OwnListeners>, now: OwnListeners) {
    if **known != now {
        *known = Arc::new(now);
    }
}

/// What was made of a value before, if it was held against the same.
fn known<T>(known: Option<&Screened<T>>, value: &Arc<T>, listeners: &Arc<OwnListeners>) -> Option<Arc<T>> {
    let same =
        |known: &&Screened<T>| Arc::ptr_eq(&known.from, value) && Arc::ptr_eq(&known.listeners, listeners);
    known.filter(same).map(|known| Arc::clone(&known.left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::catalog::InstanceHealth;
    use crate::model::{Strategy, parse};
    use crate::source::gateway_rules::{GatewayRule, RuleOrigin};

    fn rules(endpoints: &[&str]) -> Arc<GatewayRules> {
        let rule = GatewayRule {
            origin: RuleOrigin::Rules,
            key: "17".to_owned(),
            server_type: 200,
            world: None,
            service: "old".to_owned(),
            strategy: Strategy::RealmBased,
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Arc::new(GatewayRules { rules: vec![rule], ..GatewayRules::default() })
    }

    fn catalog(addresses: &[&str]) -> Arc<Catalog> {
        let lookup = Lookup {
            datacenter: "aws".to_owned(),
            service: "game".to_owned(),
            sidecars: false,
            filter: String::new(),
        };
        let instance = |(n, address): (usize, &&str)| Instance {
            id: n.to_string(),
            node: "node".to_owned(),
            address: address.parse().unwrap(),
            port: 7000,
            weight: 1,
            health: InstanceHealth::Passing,
        };
        let instances = addresses.iter().enumerate().map(instance).collect();
        Arc::new(Catalog { instances: [(lookup, instances)].into(), ..Catalog::default() })
    }

    #[test]
    fn every_source_comes_by_and_what_is_left_serves() {
        let registry = Registry::new();
        let mut screen = EndpointScreen::new(Arc::default(), &registry).unwrap();
        let mut refused = screen.refused();
        let good = Arc::new(parse("services: [{name: a, endpoints: ['10.0.0.1:1']}]").unwrap());
        let (good_rules, good_catalog) = (rules(&["10.0.0.1:1"]), catalog(&["10.0.0.1"]));
        assert!(Arc::ptr_eq(&screen.policy(&good), &good));
        assert!(Arc::ptr_eq(&screen.gateway(&good_rules), &good_rules));
        assert!(Arc::ptr_eq(&screen.consul(&good_catalog), &good_catalog));
        screen.tell();
        assert!(!refused.has_changed().unwrap());

        let bad = "services: [{name: a, endpoints: ['10.0.0.1:1', '169.254.169.254:80']}]";
        let bad = Arc::new(parse(bad).unwrap());
        let left = screen.policy(&bad);
        assert_eq!(left.services[0].endpoints.len(), 1);
        let bad_rules = rules(&["[fe80::1]:1", "10.0.0.1:1", "0.0.0.0:2"]);
        assert_eq!(screen.gateway(&bad_rules).rules[0].endpoints.len(), 1);
        let bad_catalog = catalog(&["10.0.0.1", "::ffff:169.254.169.254"]);
        assert_eq!(screen.consul(&bad_catalog).instances.values().next().unwrap().len(), 1);
        screen.tell();
        let told = refused.borrow_and_update().clone();
        let places: Vec<_> = told
            .list
            .iter()
            .map(|of| (of.source, of.place.as_str(), of.endpoint.as_str(), of.reason))
            .collect();
        let wanted = [
            ("policy", "services.a.endpoints[1]", "169.254.169.254:80", "link_local"),
            ("game_gateway", "routing:rules 17", "[fe80::1]:1", "link_local"),
            ("game_gateway", "routing:rules 17", "0.0.0.0:2", "unspecified"),
            ("consul", "aws/game 1 at node", "[::ffff:169.254.169.254]:7000", "link_local"),
        ];
        assert_eq!(places, wanted);
        assert!(told.is_left_of(&left, &bad) && !told.is_left_of(&Arc::default(), &bad));
        let counted = |source, reason| screen.metrics.of(source, reason);
        assert_eq!(counted(EndpointSource::GameGateway, RefusedReason::LinkLocal), 1);
        assert_eq!(counted(EndpointSource::Consul, RefusedReason::Denied), 0);
        // The same values are the same again.
        assert!(Arc::ptr_eq(&screen.policy(&bad), &left));
        screen.tell();
        assert!(!refused.has_changed().unwrap());
        screen.policy(&good);
        screen.gateway(&good_rules);
        screen.consul(&good_catalog);
        screen.tell();
        assert!(refused.borrow().list.is_empty());
    }

    #[test]
    fn a_million_bad_endpoints_are_counted_and_not_kept() {
        let mut screen = EndpointScreen::new(Arc::default(), &Registry::new()).unwrap();
        let endpoints = vec!["0.0.0.0:1"; MAX_KEPT + 5];
        screen.gateway(&rules(&endpoints));
        screen.tell();
        let refused = screen.refused().borrow().clone();
        let all = i64::try_from(endpoints.len()).unwrap();
        assert_eq!((refused.list.len(), refused.counts[&EndpointSource::GameGateway]), (MAX_KEPT, all));
        let counted = screen.metrics.of(EndpointSource::GameGateway, RefusedReason::Unspecified);
        assert_eq!(counted, all);
    }

    #[test]
    fn players_are_not_led_back_whoever_says_so_and_whenever_the_listener_comes() {
        let mut screen = EndpointScreen::new(Arc::default(), &Registry::new()).unwrap();
        let (rules, catalog) = (rules(&["127.0.0.1:7000"]), catalog(&["127.0.0.1"]));
        let mut left = |bind: &str| {
            let policy = format!(
                "listeners: [{{name: a, bind: '{bind}'}}]\nservices: [{{name: s, consul: {{service: game}}}}]\n\
                 routes: [{{name: r, server_type: 200, to: [{{service: s}}]}}]"
            );
            let policy = parse(&policy).unwrap();
            screen.policy(&Arc::new(policy));
            let of_rules = screen.gateway(&rules).rules[0].endpoints.len();
            (of_rules, screen.consul(&catalog).instances.values().next().unwrap().len())
        };
        assert_eq!(left("0.0.0.0:7001"), (1, 1));
        assert_eq!(left("0.0.0.0:7000"), (0, 0));
        assert_eq!(left("10.0.0.1:7000"), (1, 1));
    }
}
