//! Encoded clusters and endpoints, kept from one compilation to the next and shared by all scopes: what did not
//! change is not encoded again.

use std::collections::HashMap;
use std::sync::Arc;

use super::clusters::{ClusterSpec, Discovery};
use crate::xds::Resource;

/// Resources by name, eager ones and those on demand apart: a cluster can be one for new proxies and the other
/// for old ones. There are several of a name where edges of different datacenters have different first choices.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    eager: HashMap<String, Vec<Kept>>,
    on_demand: HashMap<String, Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    spec: ClusterSpec,
    resources: ClusterResources,
}

/// A cluster's resources.
#[derive(Clone, Debug)]
pub(super) struct ClusterResources {
    pub(super) cluster: Arc<Resource>,
    /// `None` where the cluster has its endpoints inside.
    pub(super) endpoints: Option<Arc<Resource>>,
}

impl Encoded {
    /// The resources of the cluster of this name.
    pub(super) fn resources(&mut self, name: &str, spec: &ClusterSpec, on_demand: bool) -> ClusterResources {
        let all = if on_demand { &mut self.on_demand } else { &mut self.eager };
        if let Some(kept) = all.get(name).and_then(|of| of.iter().find(|kept| kept.spec == *spec)) {
            return kept.resources.clone();
        }
        let resources = encode(name, spec, on_demand);
        let kept = Kept { spec: spec.clone(), resources: resources.clone() };
        all.entry(name.to_owned()).or_default().push(kept);
        resources
    }

    /// Forgets what no snapshot has any more. Of a cluster whose endpoints alone have changed, a snapshot has the new
    /// endpoints and still the cluster that was encoded with the old ones: either is enough.
    pub(super) fn sweep(&mut self) {
        let is_held = |resource: &Arc<Resource>| Arc::strong_count(resource) > 1;
        for all in [&mut self.eager, &mut self.on_demand] {
            all.retain(|_, of| {
                of.retain(|Kept { resources: ClusterResources { cluster, endpoints }, .. }| {
                    is_held(cluster) || endpoints.as_ref().is_some_and(is_held)
                });
                !of.is_empty()
            });
        }
    }
}

fn encode(name: &str, spec: &ClusterSpec, on_demand: bool) -> ClusterResources {
    let cluster = Resource::new(name, &spec.to_envoy(name));
    let cluster = Arc::new(if on_demand { cluster.on_demand() } else { cluster });
    let endpoints = spec.to_envoy_endpoints(name).map(|endpoints| Resource::new(name, &endpoints));
    let never_seen = matches!(&spec.discovery, Discovery::Places(priorities) if priorities.never_seen);
    let endpoints = endpoints.map(|of| Arc::new(if never_seen { of.hollow() } else { of }));
    ClusterResources { cluster, endpoints }
}
