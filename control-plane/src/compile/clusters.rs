//! Which clusters the routes need, as Envoy clusters and their endpoints.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig, LbPolicy, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};

use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;

use super::priorities::{Priorities, is_target};
use super::resilience::Resilience;
use super::routes::{Entry, Origin, RouteTable};
use super::tls::{Client, Security};
use super::{envoy, names, tls};
use crate::mesh::failover::{Leg, localities};
use crate::model::{Dns, Endpoint, Service, Strategy};
use crate::source::gateway_rules::RuleOrigin;

/// Whom a check that only connects looks for: all endpoints alike. No target is called so, since those have a slash.
const ANYBODY: &str = "anybody";

/// A cluster before it is an Envoy message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterSpec {
    /// Where its endpoints are.
    pub(super) discovery: Discovery,
    /// How Envoy chooses among them.
    pub(super) strategy: Strategy,
    /// What holds when its endpoints fail.
    pub(super) resilience: Resilience,
    /// How they are spoken to.
    pub(super) security: Security,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    /// A fixed list; names among it are resolved by Envoy.
    Fixed(Vec<Endpoint>),
    /// Every address of one name.
    Dns {
        /// The name and port.
        endpoint: (String, u16),
        /// Time between two resolutions, in milliseconds.
        refresh_ms: u64,
    },
    /// Instances and targets, by priority.
    Places(Priorities),
}

/// Clusters by name.
pub(super) type Clusters = BTreeMap<String, ClusterSpec>;

/// Adds the clusters that `entry` can choose at an edge that is this client.
pub(super) fn collect(
    table: &RouteTable<'_>,
    entry: &Entry<'_>,
    client: &Client<'_>,
    clusters: &mut Clusters,
) {
    match entry.origin {
        Origin::Rule(rule) => {
            let world = rule.world.map(|w| w.to_string()).unwrap_or_default();
            let name = names::rule_cluster(rule, &world);
            let resilience = match rule.origin {
                RuleOrigin::Rules => Resilience::default(),
                // A world's only endpoint.
                RuleOrigin::RealmMapping => Resilience::default().of_one_endpoint(),
            };
            let common = Common { strategy: rule.strategy, resilience, security: Security::Plain };
            add_fixed(name, &rule.endpoints, &common, clusters);
        }
        Origin::Policy(route) => {
            for service in route.to.iter().filter_map(|target| table.service(&target.service)) {
                let name = names::policy_cluster(service, route.strategy);
                let (resilience, security) = (Resilience::of(service), client.towards(service, &[]));
                let common = Common { strategy: route.strategy, resilience, security };
                match &service.dns {
                    None if service.failover().is_some() => {
                        add_places(table, service, client, &common, clusters);
                    }
                    None => add_fixed(name, &service.endpoints, &common, clusters),
                    Some(dns) => add_dns(&name, entry, dns, &common, clusters),
                }
            }
        }
    }
}

/// What all clusters of a service have alike.
struct Common {
    strategy: Strategy,
    resilience: Resilience,
    security: Security,
}

impl Common {
    fn spec(&self, discovery: Discovery, resilience: &Resilience) -> ClusterSpec {
        let (resilience, security) = (resilience.clone(), self.security.clone());
        ClusterSpec { discovery, strategy: self.strategy, resilience, security }
    }
}

fn add_fixed(name: String, endpoints: &[Endpoint], common: &Common, clusters: &mut Clusters) {
    let Common { strategy, resilience, .. } = common;
    let spec = |endpoints: &[Endpoint], resilience: &Resilience| {
        common.spec(Discovery::Fixed(endpoints.to_vec()), resilience)
    };
    let picks = matches!(strategy, Strategy::ConsistentHash | Strategy::RealmBased) && endpoints.len() > 1;
    if picks {
        let of_one = resilience.of_one_endpoint();
        for (i, endpoint) in endpoints.iter().enumerate() {
            clusters.insert(
                names::pick_cluster(&name, &i.to_string()),
                spec(std::slice::from_ref(endpoint), &of_one),
            );
        }
    }
    clusters.insert(name, spec(endpoints, resilience));
}

/// A cluster, or one for each leg of its split.
fn add_places(
    table: &RouteTable<'_>,
    service: &Service,
    client: &Client<'_>,
    common: &Common,
    clusters: &mut Clusters,
) {
    let mesh = table.mesh();
    let mut add = |leg: Option<&Leg>| {
        let name = names::leg_cluster(service, common.strategy, leg);
        // Another route's, and the same.
        if clusters.contains_key(&name) {
            return;
        }
        let localities = localities(service, leg, client.datacenter(), &mesh.catalog, &mesh.placement);
        let security = client.towards(service, &localities.ordered);
        let priorities = Priorities::new(localities, service.failover());
        let spec = common.spec(Discovery::Places(priorities), &common.resilience);
        clusters.insert(name, ClusterSpec { security, ..spec });
    };
    let legs = table.legs(service);
    if legs.is_empty() {
        add(None);
    }
    for leg in &legs {
        add(Some(leg));
    }
}

fn add_dns(template: &str, entry: &Entry<'_>, dns: &Dns, common: &Common, clusters: &mut Clusters) {
    let spec = |host: String| {
        let refresh_ms = dns.refresh.as_millis();
        common.spec(Discovery::Dns { endpoint: (host, dns.port), refresh_ms }, &common.resilience)
    };
    match &entry.route.worlds {
        realmgate_filter::ranges::NumberSet::Ranges(ranges) if dns.is_per_world() => {
            for world in ranges.iter().flat_map(|&(low, high)| low..=high) {
                clusters.insert(names::of_world(template, world), spec(dns.host_of(world)));
            }
        }
        _ => {
            clusters.insert(template.to_owned(), spec(dns.host.clone()));
        }
    }
}

impl ClusterSpec {
    /// Whether endpoints come by EDS: changes of them then touch no cluster.
    fn by_eds(&self) -> bool {
        if self.security == Security::Impossible {
            return true;
        }
        match &self.discovery {
            Discovery::Fixed(endpoints) => endpoints.iter().all(|endpoint| endpoint.ip().is_some()),
            Discovery::Dns { .. } => false,
            Discovery::Places(priorities) => priorities.are_addresses(),
        }
    }

    /// The cluster as Envoy wants it.
    pub(super) fn to_envoy(&self, name: &str) -> Cluster {
        let mut cluster = Cluster {
            name: name.to_owned(),
            lb_policy: match self.strategy {
                Strategy::RoundRobin | Strategy::ConsistentHash | Strategy::RealmBased => {
                    LbPolicy::RoundRobin
                }
                Strategy::LeastRequest => LbPolicy::LeastRequest,
                Strategy::RingHash => LbPolicy::RingHash,
                Strategy::Maglev => LbPolicy::Maglev,
            }
            .into(),
            ..Cluster::default()
        };
        self.resilience.apply(&mut cluster);
        match &self.security {
            Security::Plain => {}
            Security::Impossible => cluster.transport_socket = Some(tls::with_nobody()),
            Security::Mutual { service, targets } => {
                cluster.transport_socket = Some(service.transport_socket());
                let matches = targets.iter().map(|(target, mutual)| TransportSocketMatch {
                    name: target.clone(),
                    r#match: Some(is_target(target.clone())),
                    transport_socket: Some(mutual.transport_socket()),
                });
                cluster.transport_socket_matches = matches.collect();
                if self.resilience.only_connects() {
                    let socket = service.nameless_socket(targets);
                    for check in &mut cluster.health_checks {
                        check.transport_socket_match_criteria = Some(is_target(ANYBODY.to_owned()));
                    }
                    cluster.transport_socket_matches.push(TransportSocketMatch {
                        name: ANYBODY.to_owned(),
                        r#match: Some(is_target(ANYBODY.to_owned())),
                        transport_socket: Some(socket),
                    });
                }
            }
        }
        if self.by_eds() {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
            cluster.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(envoy::ads()), ..EdsClusterConfig::default() });
            return cluster;
        }
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(self.resolver()));
        cluster.load_assignment = Some(self.load_assignment(name));
        cluster
    }

    /// Every address of every name is an endpoint of its own, resolved again and again.
    fn resolver(&self) -> CustomClusterType {
        let refresh_ms = match self.discovery {
            Discovery::Dns { refresh_ms, .. } => refresh_ms,
            Discovery::Fixed(_) | Discovery::Places(_) => Dns::DEFAULT_REFRESH.as_millis(),
        };
        let resolver =
            DnsCluster { dns_refresh_rate: Some(envoy::duration(refresh_ms)), ..DnsCluster::default() };
        CustomClusterType { name: "envoy.clusters.dns".to_owned(), typed_config: Some(envoy::any(&resolver)) }
    }

    /// The endpoints that go by EDS, if they do.
    pub(super) fn to_envoy_endpoints(&self, name: &str) -> Option<ClusterLoadAssignment> {
        self.by_eds().then(|| self.load_assignment(name))
    }

    fn load_assignment(&self, name: &str) -> ClusterLoadAssignment {
        let lb_endpoints = match &self.discovery {
            _ if self.security == Security::Impossible => Vec::new(),
            Discovery::Fixed(endpoints) => {
                endpoints.iter().map(|e| lb_endpoint(e.host(), e.port())).collect()
            }
            Discovery::Dns { endpoint: (host, port), .. } => vec![lb_endpoint(host, *port)],
            Discovery::Places(priorities) => return priorities.to_envoy(name),
        };
        load_assignment(name, lb_endpoints)
    }
}

/// Endpoints in one locality.
pub(super) fn load_assignment(cluster: &str, lb_endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() }],
        ..ClusterLoadAssignment::default()
    }
}

/// One endpoint.
pub(super) fn lb_endpoint(host: &str, port: u16) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(envoy::address(host, port)),
            ..EnvoyEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}
