//! Where players of a service go, as priorities of one cluster's endpoints.
//!
//! One cluster and not one per target: the filter names one, its hash policy and its health checks stay one, and an edge
//! changes priorities by itself, whether or not a control plane is there.

use std::collections::{HashSet, VecDeque};

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Locality as EnvoyLocality, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    cluster_load_assignment::Policy, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use super::envoy;
use crate::mesh::failover::{Localities, Locality, Members};
use crate::model::Failover;

/// Localities by priority, the first choice first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Priorities {
    levels: Vec<Vec<Locality>>,
    overprovisioning_factor: u32,
    /// What might have been among them, and why it is not; for `explain`.
    pub(super) refused: Vec<String>,
    /// Whether there is nobody, and it may be for want of knowing: proxies that know somebody keep him.
    pub(super) never_seen: bool,
}

/// The metadata that Envoy's `transport_socket_matches` look at, and the key that says who an endpoint is there:
/// `<datacenter>/<service>`. Only one key: the order of several is not settled once encoded.
const SOCKET_MATCH: &str = "envoy.transport_socket_match";
const TARGET: &str = "target";

/// Everybody goes to the first choice while one in a thousand of it is well; Consul's own number.
const NEVER_SPILLS: u32 = 100_000;

/// What the weights of a level with several localities add up to where that fits: a hundredth of a share of ten thousand
/// instances is still a weight.
const WEIGHTS: u64 = 100_000_000;

/// Maglev and ring hash take no locality whose weights add up to more. Held for all localities of a level together, and
/// whatever the load balancer: one that changes must not make endpoints invalid that were not.
const MOST: u64 = u32::MAX as u64;

/// An endpoint on its way into the message.
struct Backend {
    host: String,
    port: u16,
    weight: u64,
    health: HealthStatus,
}

impl Backend {
    fn serves(&self) -> bool {
        self.health == HealthStatus::Unknown
    }
}

impl Priorities {
    /// A level for each locality that has anybody. One that comes back shares its level with the next that serves all.
    pub(super) fn new(localities: Localities, failover: Option<&Failover>) -> Self {
        let Localities { ordered, refused, never_seen } = localities;
        let spill_below = failover.map_or(0, |failover| failover.spill_below);
        let overprovisioning_factor = 10_000u32.checked_div(spill_below).unwrap_or(NEVER_SPILLS);
        let mut rest: VecDeque<_> = ordered.into_iter().filter(|locality| !is_empty(locality)).collect();
        let mut levels = Vec::new();
        while let Some(mut first) = rest.pop_front() {
            let next = rest.iter().position(|other| other.share == 100 && other.serves());
            let other = next.filter(|_| first.share < 100).and_then(|next| rest.remove(next));
            match other {
                None => {
                    first.share = 100;
                    levels.push(vec![first]);
                }
                Some(other) if first.share == 0 => {
                    levels.push(vec![other]);
                    // Better than nobody.
                    first.share = 100;
                    levels.push(vec![first]);
                }
                Some(mut other) => {
                    other.share = 100 - first.share;
                    levels.push(vec![first, other]);
                }
            }
        }
        let never_seen = never_seen && levels.is_empty();
        Self { levels, overprovisioning_factor, refused, never_seen }
    }

    /// Priority and locality of each, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Locality)> {
        self.levels
            .iter()
            .enumerate()
            .flat_map(|(priority, level)| level.iter().map(move |of| (priority, of)))
    }

    /// Whether every endpoint has an address, which is what EDS can carry.
    pub(super) fn are_addresses(&self) -> bool {
        self.iter().all(|(_, locality)| match &locality.members {
            Members::Fixed(endpoints) => endpoints.iter().all(|endpoint| endpoint.ip().is_some()),
            Members::Instances { .. } => true,
        })
    }

    /// The endpoints as Envoy wants them. An address that stands in several places counts where it stands first.
    pub(super) fn to_envoy(&self, cluster: &str) -> ClusterLoadAssignment {
        let mut seen = HashSet::new();
        let mut endpoints = Vec::new();
        let mut priority = 0;
        for level in &self.levels {
            let before = endpoints.len();
            let mut members: Vec<_> = level.iter().map(backends).collect();
            for backends in &mut members {
                backends.retain(|backend| seen.insert((backend.host.clone(), backend.port)));
            }
            if level.len() > 1 {
                for (backends, locality) in members.iter_mut().zip(level) {
                    share(backends, locality.share);
                }
            }
            fit(&mut members);
            for (backends, locality) in members.iter().zip(level).filter(|(backends, _)| !backends.is_empty())
            {
                let identity = metadata(locality);
                endpoints.push(LocalityLbEndpoints {
                    locality: Some(EnvoyLocality {
                        region: locality.datacenter.clone(),
                        zone: locality.service.clone(),
                        sub_zone: locality.subset.clone(),
                    }),
                    lb_endpoints: backends.iter().map(|backend| lb_endpoint(backend, &identity)).collect(),
                    priority,
                    ..LocalityLbEndpoints::default()
                });
            }
            // Envoy wants priorities without gaps.
            priority += u32::from(endpoints.len() > before);
        }
        ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            endpoints,
            policy: Some(Policy {
                overprovisioning_factor: Some(envoy::uint32(self.overprovisioning_factor)),
                ..Policy::default()
            }),
            ..ClusterLoadAssignment::default()
        }
    }
}

fn is_empty(locality: &Locality) -> bool {
    match &locality.members {
        Members::Fixed(endpoints) => endpoints.is_empty(),
        Members::Instances { all, .. } => all.is_empty(),
    }
}

fn backends(locality: &Locality) -> Vec<Backend> {
    match &locality.members {
        Members::Fixed(endpoints) => {
            let backend = |endpoint: &crate::model::Endpoint| Backend {
                host: endpoint.host().to_owned(),
                port: endpoint.port(),
                weight: 1,
                health: HealthStatus::Unknown,
            };
            endpoints.iter().map(backend).collect()
        }
        Members::Instances { all, only_passing } => {
            let backend = |instance: &crate::mesh::catalog::Instance| Backend {
                host: instance.address.to_string(),
                port: instance.port,
                weight: instance.weight.max(1).into(),
                // Kept, so that its sessions are; and not healthy, but unknown: the edge's own check has a say too.
                health: if instance.serves(*only_passing) {
                    HealthStatus::Unknown
                } else {
                    HealthStatus::Unhealthy
                },
            };
            all.iter().map(backend).collect()
        }
    }
}

/// Weights that give those that serve `percent` of their level, in their own proportion. One that does not serve weighs no
/// more than all that do: it counts when nobody serves, and must not take their proportion from the others.
fn share(backends: &mut [Backend], percent: u32) {
    let whole = backends.iter().filter(|of| of.serves()).map(|of| of.weight).sum::<u64>().max(1);
    let all = u128::from(percent) * u128::from(WEIGHTS / 100);
    for backend in backends {
        let scaled = u128::from(backend.weight.min(whole)) * all / u128::from(whole);
        backend.weight = u64::try_from(scaled).unwrap_or(u64::MAX).max(1);
    }
}

/// Weights of a level that add up to no more than Envoy takes, each at least 1, in the proportion that they have.
fn fit(level: &mut [Vec<Backend>]) {
    let sum = |level: &[Vec<Backend>]| level.iter().flatten().map(|backend| backend.weight).sum::<u64>();
    let count = level.iter().map(Vec::len).sum::<usize>();
    let room = MOST.saturating_sub(u64::try_from(count).unwrap_or(MOST));
    let all = sum(level);
    if all <= MOST {
        return;
    }
    for backend in level.iter_mut().flatten() {
        let scaled = u128::from(backend.weight) * u128::from(room) / u128::from(all);
        backend.weight = u64::try_from(scaled).unwrap_or(MOST).max(1);
    }
}

fn lb_endpoint(backend: &Backend, identity: &Metadata) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(envoy::address(&backend.host, backend.port)),
            ..EnvoyEndpoint::default()
        })),
        health_status: backend.health.into(),
        load_balancing_weight: (backend.weight > 1)
            .then(|| envoy::uint32(u32::try_from(backend.weight).unwrap_or(u32::MAX))),
        metadata: Some(identity.clone()),
    }
}

/// Who the endpoints of a locality are.
fn metadata(locality: &Locality) -> Metadata {
    let identity = is_target(target(locality));
    Metadata { filter_metadata: [(SOCKET_MATCH.to_owned(), identity)].into(), ..Metadata::default() }
}

/// Who they are, in one text.
pub(super) fn target(locality: &Locality) -> String {
    format!("{}/{}", locality.datacenter, locality.service)
}

/// What their metadata say, and what a transport socket for them has to match.
pub(super) fn is_target(target: String) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(target)) };
    Struct { fields: [(TARGET.to_owned(), value)].into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mesh::catalog::{Instance, InstanceHealth};

    fn locality(number: u8, weights: &[(u32, InstanceHealth)], share: u32) -> Locality {
        let instance = |(i, &(weight, health)): (u8, &(u32, InstanceHealth))| Instance {
            id: i.to_string(),
            node: String::new(),
            address: [10, number, 0, i].into(),
            port: 1,
            weight,
            health,
        };
        Locality {
            datacenter: format!("dc{number}"),
            service: "game".to_owned(),
            subset: String::new(),
            members: Members::Instances {
                all: (0..).zip(weights).map(instance).collect(),
                only_passing: false,
            },
            share,
            why: String::new(),
        }
    }

    const WELL: (u32, InstanceHealth) = (1, InstanceHealth::Passing);
    const DEAD: (u32, InstanceHealth) = (1, InstanceHealth::Critical);

    fn priorities(ordered: Vec<Locality>) -> Priorities {
        Priorities::new(Localities { ordered, ..Localities::default() }, None)
    }

    fn levels(localities: Vec<Locality>) -> Vec<Vec<(String, u32)>> {
        let priorities = priorities(localities);
        let level = |level: &Vec<Locality>| level.iter().map(|l| (l.datacenter.clone(), l.share)).collect();
        priorities.levels.iter().map(level).collect()
    }

    fn named(levels: &[&[(&str, u32)]]) -> Vec<Vec<(String, u32)>> {
        levels
            .iter()
            .map(|level| level.iter().map(|&(name, share)| (name.to_owned(), share)).collect())
            .collect()
    }

    #[test]
    fn who_comes_back_shares_with_the_next_that_serves() {
        let three =
            |share| vec![locality(1, &[WELL], share), locality(2, &[WELL], 100), locality(3, &[WELL], 100)];
        assert_eq!(levels(three(100)), named(&[&[("dc1", 100)], &[("dc2", 100)], &[("dc3", 100)]]));
        assert_eq!(levels(three(30)), named(&[&[("dc1", 30), ("dc2", 70)], &[("dc3", 100)]]));
        assert_eq!(levels(three(0)), named(&[&[("dc2", 100)], &[("dc1", 100)], &[("dc3", 100)]]));
        // Nobody else serves: all of it, at once.
        let alone = vec![locality(1, &[WELL], 0), locality(2, &[DEAD], 100), locality(3, &[WELL], 20)];
        assert_eq!(levels(alone), named(&[&[("dc1", 100)], &[("dc2", 100)], &[("dc3", 100)]]));
        // No gaps: Envoy counts priorities from 0.
        assert_eq!(levels(vec![locality(1, &[], 100), locality(2, &[WELL], 100)]), named(&[&[("dc2", 100)]]));
    }

    #[test]
    fn an_address_counts_where_it_stands_first() {
        let twice =
            vec![locality(1, &[WELL, WELL], 100), locality(1, &[WELL], 100), locality(2, &[WELL], 100)];
        let assignment = priorities(twice).to_envoy("c");
        let levels: Vec<_> =
            assignment.endpoints.iter().map(|of| (of.priority, of.lb_endpoints.len())).collect();
        assert_eq!(levels, [(0, 2), (1, 1)]);
    }

    fn any_weight() -> impl Strategy<Value = u32> {
        prop_oneof![1..=128_u32, Just(0), Just(1), Just(u32::MAX), any::<u32>()]
    }

    fn health() -> impl Strategy<Value = InstanceHealth> {
        prop_oneof![
            Just(InstanceHealth::Passing),
            Just(InstanceHealth::Warning),
            Just(InstanceHealth::Critical)
        ]
    }

    fn all_weights(assignment: &ClusterLoadAssignment) -> Vec<Vec<u64>> {
        let weight = |of: &LbEndpoint| of.load_balancing_weight.map_or(1, |weight| u64::from(weight.value));
        let locality = |of: &LocalityLbEndpoints| of.lb_endpoints.iter().map(weight).collect();
        assignment.endpoints.iter().map(locality).collect()
    }

    #[test]
    fn one_that_is_down_with_a_great_weight_leaves_the_others_theirs() {
        let warning = (1, InstanceHealth::Warning);
        let back = vec![
            locality(1, &[warning, warning, (100, InstanceHealth::Critical)], 90),
            locality(2, &[WELL], 100),
        ];
        let weights = all_weights(&priorities(back).to_envoy("c"));
        assert_eq!(weights, [vec![45_000_000, 45_000_000, 90_000_000], vec![10_000_000]]);
        let mut one_of_fifty = vec![DEAD; 50];
        one_of_fifty[7] = WELL;
        let back = vec![locality(1, &one_of_fifty, 90), locality(2, &[WELL], 100)];
        let weights = all_weights(&priorities(back).to_envoy("c"));
        let sum: u64 = weights.iter().flatten().sum();
        assert!(sum <= MOST && sum > MOST / 2, "{sum}");
        assert_eq!(weights[0][7] / weights[1][0], 9);
    }

    proptest! {
        #[test]
        fn envoy_takes_whatever_weights_there_are(
            one in prop::collection::vec((any_weight(), health()), 1..200),
            two in prop::collection::vec((any_weight(), health()), 0..200),
            share in 0..=100_u32,
        ) {
            let assignment = priorities(vec![locality(1, &one, share), locality(2, &two, 100)]).to_envoy("c");
            for weights in all_weights(&assignment) {
                prop_assert!(weights.iter().all(|weight| *weight >= 1));
                prop_assert!(weights.iter().sum::<u64>() <= MOST);
            }
            for priority in 0..2 {
                let of = assignment.endpoints.iter().zip(all_weights(&assignment));
                let level = of.filter(|(locality, _)| locality.priority == priority);
                prop_assert!(level.map(|(_, weights)| weights.iter().sum::<u64>()).sum::<u64>() <= MOST);
            }
        }

        #[test]
        fn shares_hold_whatever_those_weigh_that_are_down(
            one in prop::collection::vec(any_weight(), 0..100),
            two in prop::collection::vec(any_weight(), 0..100),
            share in 1..100_u32,
        ) {
            let with_well = |down: &[u32]| -> Vec<_> {
                let down = down.iter().map(|weight| (*weight, InstanceHealth::Critical));
                [(7, InstanceHealth::Passing), (3, InstanceHealth::Passing)].into_iter().chain(down).collect()
            };
            let both = vec![locality(1, &with_well(&one), share), locality(2, &with_well(&two), 100)];
            let weights = all_weights(&priorities(both).to_envoy("c"));
            let number = |weight: u64| f64::from(u32::try_from(weight).unwrap());
            let well = |of: &[u64]| number(of[0]) + number(of[1]);
            let given = 100.0 * well(&weights[0]) / (well(&weights[0]) + well(&weights[1]));
            prop_assert!((given - f64::from(share)).abs() < 0.01, "{given} instead of {share}");
            for of in &weights {
                prop_assert!((number(of[0]) / well(of) - 0.7).abs() < 0.001);
            }
        }

        #[test]
        fn shares_and_weights_hold(
            one in prop::collection::vec((1u32..=128, health()), 1..40),
            two in prop::collection::vec((1u32..=128, health()), 1..40),
            share in 1u32..100,
        ) {
            let serves = |of: &[(u32, InstanceHealth)]| of.iter().any(|(_, h)| *h != InstanceHealth::Critical);
            prop_assume!(serves(&one) && serves(&two));
            let both = vec![locality(1, &one, share), locality(2, &two, 100)];
            let assignment = priorities(both).to_envoy("c");
            let weights = |i: usize| -> Vec<f64> {
                let of = &assignment.endpoints[i];
                let healthy = of.lb_endpoints.iter().filter(|e| e.health_status() == HealthStatus::Unknown);
                healthy.map(|e| f64::from(e.load_balancing_weight.map_or(1, |w| w.value))).collect()
            };
            let sum = |i| weights(i).iter().sum::<f64>();
            let given = 100.0 * sum(0) / (sum(0) + sum(1));
            prop_assert!((given - f64::from(share)).abs() < 0.01, "{} instead of {}", given, share);
            let wanted: Vec<_> = one.iter().filter(|(_, h)| *h != InstanceHealth::Critical).collect();
            for (weight, (want, _)) in weights(0).iter().zip(&wanted) {
                let per = sum(0) / wanted.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
                prop_assert!((weight / per - f64::from(*want)).abs() < 0.01);
            }
        }
    }
}
