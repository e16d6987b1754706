//! Where players of a service go: which instances, in which datacenter, in which order. Pure.
//!
//! ```text
//! policy (service, targets) --+
//! Consul's entries -----------+--> candidates --> residency --> localities, the first choice first
//! Consul's instances ---------+                                      ^
//! placement (latency order, what has just come back) ----------------+
//! ```

mod candidates;
mod latency;
mod metrics;
mod placement;
mod split;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::catalog::{Catalog, Instance, InstanceHealth};
use crate::model::{Endpoint, Order, Service};
pub use candidates::wanted;
use candidates::{Candidate, Place};
pub use metrics::Metrics;
pub use placement::{Placement, Tracker};
pub use split::{Leg, legs, weights};

/// Instances of a service that stand for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Their datacenter; empty = not known.
    pub datacenter: String,
    /// What they are in the mesh: in Consul, and of fixed endpoints what the service itself is.
    pub service: String,
    /// The subset of it; empty = all.
    pub subset: String,
    /// Who they are.
    pub members: Members,
    /// Percent of its players that it is given; less than 100 while it comes back.
    pub share: u32,
    /// Why it stands where it stands.
    pub why: String,
}

/// Who serves in a locality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Fixed endpoints, of whose health only edges know.
    Fixed(Vec<Endpoint>),
    /// What Consul knows.
    Instances {
        /// All of them.
        all: Arc<[Instance]>,
        /// Whether those in warning are no choice.
        only_passing: bool,
    },
}

/// Where players of a service go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Localities {
    /// The first choice first.
    pub ordered: Vec<Locality>,
    /// What might have been, and why it is not.
    pub refused: Vec<String>,
    /// Whether some place was never seen to have anybody: that there is nobody may be for want of knowing.
    pub never_seen: bool,
}

/// Where players of `leg` of `service` go from an edge in the datacenter `from`; empty = the control plane's.
#[must_use]
pub fn localities(
    service: &Service,
    leg: Option<&Leg>,
    from: &str,
    catalog: &Catalog,
    placement: &Placement,
) -> Localities {
    let home = home(service, leg, from, catalog);
    let (candidates, refused) = candidates::candidates(service, leg, home, catalog);
    let is_unseen = |candidate: &Candidate| match &candidate.place {
        Place::Fixed(_) => false,
        Place::Consul { lookup, .. } => !placement.is_seen(lookup),
    };
    let never_seen = candidates.iter().any(is_unseen);
    let mut ordered: Vec<_> =
        candidates.into_iter().map(|candidate| locality(service, candidate, catalog, placement)).collect();
    if service.failover().is_some_and(|failover| failover.order == Order::LowestLatency) {
        latency::order(&mut ordered, home, &catalog.local, &placement.nearest);
    }
    Localities { ordered, refused, never_seen }
}

/// The datacenter that counts as an edge's own: where nothing was asked about its own, the control plane's.
fn home<'a>(service: &Service, leg: Option<&Leg>, from: &'a str, catalog: &'a Catalog) -> &'a str {
    let asked = || {
        candidates::lookups(service, leg, from, catalog)
            .iter()
            .any(|lookup| lookup.datacenter == from && catalog.instances.contains_key(lookup))
    };
    let is_consul = service.consul.is_some() && service.datacenter.is_empty();
    if from.is_empty() || (is_consul && from != catalog.local && !asked()) { &catalog.local } else { from }
}

fn locality(service: &Service, candidate: Candidate, catalog: &Catalog, placement: &Placement) -> Locality {
    let Candidate { datacenter, place, why } = candidate;
    match place {
        Place::Fixed(endpoints) => Locality {
            datacenter,
            service: service.mesh_name().to_owned(),
            subset: String::new(),
            members: Members::Fixed(endpoints),
            share: 100,
            why,
        },
        Place::Consul { lookup, subset, only_passing } => Locality {
            datacenter,
            subset,
            members: Members::Instances {
                all: catalog.instances.get(&lookup).cloned().unwrap_or_default(),
                only_passing,
            },
            share: placement.share(&service.name, &lookup),
            service: lookup.service,
            why,
        },
    }
}

impl Locality {
    /// Whether anybody in it may be given players, as far as is known here.
    #[must_use]
    pub fn serves(&self) -> bool {
        match &self.members {
            Members::Fixed(endpoints) => !endpoints.is_empty(),
            Members::Instances { all, only_passing } => all.iter().any(|i| i.serves(*only_passing)),
        }
    }
}

impl Instance {
    /// Whether it may be given players.
    #[must_use]
    pub fn serves(&self, only_passing: bool) -> bool {
        match self.health {
            InstanceHealth::Passing => true,
            InstanceHealth::Warning => !only_passing,
            InstanceHealth::Critical => false,
        }
    }
}
