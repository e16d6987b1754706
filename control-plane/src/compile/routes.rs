//! The order of all routes of a listener, and their shortest form for the filter.
//!
//! Precedence is settled here, once, by [`Rank`]; the filter only takes the first match. The same entries
//! answer `explain`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use realmgate_filter::config::{Destination, Framing, HashKey, Pick, PickStrategy, RouteConfig, Split};
use realmgate_filter::ranges::NumberSet;
use realmgate_wire::ServerId;

use super::names;
use crate::mesh::Mesh;
use crate::mesh::failover::{self, Leg};
use crate::model::{Instances, Route, Service, Strategy, WorldClass, Worlds};
use crate::source::gateway_rules::{GatewayRule, RuleOrigin};

/// Who wins: a listed world before a range before any world; at an equal world the policy before the old
/// gateway's rules, and listed instances before any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// A listed world and listed instances.
    ExactWorldInstances,
    /// A listed world.
    ExactWorld,
    /// A world's rule of the old gateway.
    GatewayWorld,
    /// A world of the realm mapping.
    RealmMapping,
    /// A range of worlds and listed instances.
    RangeInstances,
    /// A range of worlds.
    Range,
    /// Any world, listed instances.
    AnyWorldInstances,
    /// Any world.
    AnyWorld,
    /// An any-world rule of the old gateway.
    GatewayAnyWorld,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExactWorldInstances => "a listed world with listed instances",
            Self::ExactWorld => "a listed world",
            Self::GatewayWorld => "a game-gateway rule for this world",
            Self::RealmMapping => "the game-gateway realm mapping of this world",
            Self::RangeInstances => "a range of worlds with listed instances",
            Self::Range => "a range of worlds",
            Self::AnyWorldInstances => "any world with listed instances",
            Self::AnyWorld => "any world",
            Self::GatewayAnyWorld => "a game-gateway rule for any world",
        })
    }
}

/// Where an entry comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// A route of the policy.
    Policy(&'a Route),
    /// A rule in the old gateway's Redis.
    Rule(&'a GatewayRule),
}

/// One route of one rank.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Where it comes from.
    pub origin: Origin<'a>,
    /// Its place in the order.
    pub rank: Rank,
    /// What the filter is told.
    pub route: RouteConfig,
}

/// All entries of one listener, the first that matches wins.
#[derive(Clone, Debug)]
pub struct RouteTable<'a> {
    mesh: &'a Mesh,
    entries: Vec<Entry<'a>>,
    services: Arc<Services<'a>>,
}

/// The policy's routes by listener, and its services, looked through once for all listeners.
#[derive(Debug)]
pub(super) struct RouteIndex<'a> {
    mesh: &'a Mesh,
    services: Arc<Services<'a>>,
    /// With their places in the policy.
    of_all: Vec<(usize, &'a Route)>,
    of_listener: HashMap<&'a str, Vec<(usize, &'a Route)>>,
}

impl<'a> RouteIndex<'a> {
    pub(super) fn new(mesh: &'a Mesh) -> Self {
        let services = mesh.policy.services.iter().map(|s| (s.name.as_str(), s)).collect();
        let (mut of_all, mut of_listener) = (Vec::new(), HashMap::<_, Vec<_>>::new());
        for (place, route) in mesh.policy.routes.iter().enumerate() {
            if route.listeners.is_empty() {
                of_all.push((place, route));
            }
            for name in &route.listeners {
                let named = of_listener.entry(name.as_str()).or_default();
                // It may name a listener twice.
                if named.last().is_none_or(|(last, _)| *last != place) {
                    named.push((place, route));
                }
            }
        }
        Self { mesh, services: Arc::new(services), of_all, of_listener }
    }

    /// The routes that apply to `listener`, as the policy has them.
    fn routes(&self, listener: &str) -> impl Iterator<Item = &'a Route> {
        let named = self.of_listener.get(listener).map(Vec::as_slice).unwrap_or_default();
        let mut routes = [self.of_all.as_slice(), named].concat();
        routes.sort_by_key(|(place, _)| *place);
        routes.into_iter().map(|(_, route)| route)
    }
}

/// Services by name.
pub(super) type Services<'a> = HashMap<&'a str, &'a Service>;

impl<'a> RouteTable<'a> {
    /// The routes that apply to `listener`.
    #[must_use]
    pub fn new(mesh: &'a Mesh, listener: &str) -> Self {
        Self::of_listener(&RouteIndex::new(mesh), listener)
    }

    /// The same for one of many listeners.
    pub(super) fn of_listener(index: &RouteIndex<'a>, listener: &str) -> Self {
        let mut table = Self::of_rules(index.mesh);
        for route in index.routes(listener) {
            policy_entries(index.mesh, &index.services, route, &mut table.entries);
        }
        table.entries.sort_by_key(|entry| entry.rank);
        Self { services: Arc::clone(&index.services), ..table }
    }

    /// Those of game-gateway rules alone, which are the same for every listener.
    pub(super) fn of_rules(mesh: &'a Mesh) -> Self {
        let entries = mesh.rules.rules.iter().map(|rule| rule_entry(rule, mesh.edge.gateway_framing));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by_key(|entry| entry.rank);
        Self { mesh, entries, services: Arc::default() }
    }

    /// What the filter is told, in order.
    pub(super) fn lines(&self) -> impl Iterator<Item = (Rank, &RouteConfig)> {
        self.entries.iter().map(|entry| (entry.rank, &entry.route))
    }

    /// What it is made from.
    pub(super) const fn mesh(&self) -> &'a Mesh {
        self.mesh
    }

    /// The shares into which Consul splits a service; none = it does not.
    pub(super) fn legs(&self, service: &Service) -> Vec<Leg> {
        failover::legs(service, &self.mesh.catalog)
    }

    /// The service of this name.
    pub(super) fn service(&self, name: &str) -> Option<&'a Service> {
        self.services.get(name).copied()
    }

    /// The entries in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// The entries that take a message, the winner first.
    pub fn matching(&self, server_id: ServerId) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(move |entry| {
            entry.route.server_type == server_id.server_type()
                && entry.route.worlds.contains(server_id.world())
                && entry.route.instances.contains(u16::from(server_id.instance()))
        })
    }

    /// The same in the filter's words. Entries of one rank and name that differ in their worlds alone become
    /// one: entries of a rank never claim the same message, so joining them changes nothing, and two thousand
    /// rules of a world each are a single line.
    #[must_use]
    pub fn to_filter(&self) -> Vec<RouteConfig> {
        let mut joined: BTreeMap<(Rank, RouteConfig), Vec<(u16, u16)>> = BTreeMap::new();
        for entry in &self.entries {
            let mut key = entry.route.clone();
            let worlds = std::mem::take(&mut key.worlds);
            let ranges = joined.entry((entry.rank, key)).or_default();
            if let NumberSet::Ranges(more) = worlds {
                ranges.extend(more);
            }
        }
        let with_worlds = |((_, mut route), ranges): ((Rank, RouteConfig), Vec<_>)| {
            if !ranges.is_empty() {
                route.worlds = NumberSet::from_ranges(ranges);
            }
            route
        };
        joined.into_iter().map(with_worlds).collect()
    }
}

/// A policy route becomes up to two entries: its listed worlds and its ranges.
fn policy_entries<'a>(mesh: &Mesh, services: &Services<'a>, route: &'a Route, entries: &mut Vec<Entry<'a>>) {
    let any_instance = route.instances == Instances::Any;
    let mut push = |class, worlds| {
        let rank = match (class, any_instance) {
            (WorldClass::Exact, false) => Rank::ExactWorldInstances,
            (WorldClass::Exact, true) => Rank::ExactWorld,
            (WorldClass::Range, false) => Rank::RangeInstances,
            (WorldClass::Range, true) => Rank::Range,
            (WorldClass::Any, false) => Rank::AnyWorldInstances,
            (WorldClass::Any, true) => Rank::AnyWorld,
        };
        let route_config = RouteConfig {
            server_type: route.server_type,
            worlds,
            instances: route.instances.to_set(),
            hash_key: hash_key(route),
            to: destinations(mesh, services, route),
            split: route.split,
            name: route.name.clone(),
        };
        entries.push(Entry { origin: Origin::Policy(route), rank, route: route_config });
    };
    match &route.worlds {
        Worlds::Any => push(WorldClass::Any, NumberSet::Any),
        Worlds::Listed(ranges) => {
            for class in [WorldClass::Exact, WorldClass::Range] {
                let of_class: Vec<_> = ranges
                    .iter()
                    .copied()
                    .filter(|&(low, high)| WorldClass::of(low, high) == class)
                    .collect();
                if !of_class.is_empty() {
                    push(class, NumberSet::from_ranges(of_class));
                }
            }
        }
    }
}

/// Ring hash and Maglev without a key would place players at random.
fn hash_key(route: &Route) -> Option<HashKey> {
    let hashing = matches!(route.strategy, Strategy::RingHash | Strategy::Maglev);
    route.hash_key.or(hashing.then_some(HashKey::Instance))
}

fn destinations(mesh: &Mesh, services: &Services<'_>, route: &Route) -> Vec<Destination> {
    let targets = route.to.iter().filter_map(|to| Some((*services.get(to.service.as_str())?, to.weight)));
    let targets: Vec<_> =
        targets.map(|(service, weight)| (service, weight, failover::legs(service, &mesh.catalog))).collect();
    let mut weights = failover::weights(targets.iter().map(|(_, weight, legs)| (*weight, legs.as_slice())));
    let mut destination = |service: &Service, leg| {
        let cluster = names::leg_cluster(service, route.strategy, leg);
        let pick = pick(route.strategy, &cluster, endpoint_count(service));
        Destination { cluster, weight: weights.next().unwrap_or(1), pick, framing: service.framing }
    };
    let mut destinations = Vec::new();
    for (service, _, legs) in &targets {
        if legs.is_empty() {
            destinations.push(destination(service, None));
        }
        destinations.extend(legs.iter().map(|leg| destination(service, Some(leg))));
    }
    destinations
}

fn endpoint_count(service: &Service) -> usize {
    if service.dns.is_some() || service.failover().is_some() { 0 } else { service.endpoints.len() }
}

/// With one endpoint there is nothing to pick: its service's cluster is the endpoint's.
fn pick(strategy: Strategy, cluster: &str, endpoints: usize) -> Option<Pick> {
    let strategy = match strategy {
        Strategy::ConsistentHash => PickStrategy::ConsistentHash,
        Strategy::RealmBased => PickStrategy::RealmBased,
        _ => return None,
    };
    let of = u32::try_from(endpoints).ok().filter(|&n| n > 1)?;
    Some(Pick { strategy, of, cluster: names::pick_cluster(cluster, "{pick}") })
}

fn rule_entry(rule: &GatewayRule, framing: Framing) -> Entry<'_> {
    let rank = match (rule.origin, rule.world) {
        (RuleOrigin::RealmMapping, _) => Rank::RealmMapping,
        (RuleOrigin::Rules, Some(_)) => Rank::GatewayWorld,
        (RuleOrigin::Rules, None) => Rank::GatewayAnyWorld,
    };
    let cluster = names::rule_cluster(rule, "{world}");
    let pick = pick(rule.strategy, &cluster, rule.endpoints.len());
    let route = RouteConfig {
        server_type: rule.server_type,
        worlds: rule.world.map_or(NumberSet::Any, |w| NumberSet::Ranges(vec![(w, w)])),
        instances: NumberSet::Any,
        hash_key: None,
        to: vec![Destination { cluster, weight: 1, pick, framing }],
        split: Split::default(),
        name: names::rule_route(rule),
    };
    Entry { origin: Origin::Rule(rule), rank, route }
}
