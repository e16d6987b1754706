//! From the mesh to named Envoy resources: a pure function of the mesh and a proxy's scope.

mod capabilities;
mod clusters;
mod compiler;
mod encoded;
mod envoy;
mod explain;
mod filter;
mod health;
mod listeners;
mod names;
mod resilience;
mod routes;

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use prost::Name;

use crate::mesh::{Mesh, ModuleLocation};
use crate::xds::{Resource, ResourceSet, Scope, Snapshot};

pub use compiler::Compiler;
use encoded::Encoded;
pub use explain::{Explanation, Question, explain};
pub use filter::config as filter_config;
pub use routes::{Entry, Origin, Rank, RouteTable};

/// Everything that proxies of `scope` should have.
#[must_use]
pub fn compile(mesh: &Mesh, scope: &Scope) -> Snapshot {
    compile_with(mesh, scope, &mut Encoded::default())
}

/// The same, with what is encoded already.
fn compile_with(mesh: &Mesh, scope: &Scope, encoded: &mut Encoded) -> Snapshot {
    let (mut eager, mut on_demand) = (clusters::Clusters::new(), clusters::Clusters::new());
    let mut extensions = Vec::new();
    let mut listeners = Vec::new();
    let mut has_routes = false;
    for listener in mesh.listeners(&scope.listeners) {
        let table = RouteTable::new(mesh, &listener.name);
        let asks = listeners::asks_for_clusters(listener, scope);
        let specs = if asks { &mut on_demand } else { &mut eager };
        for entry in table.entries() {
            clusters::collect(&table, entry, specs);
        }
        let config = filter::config(listener, table.to_filter());
        has_routes |= !config.routes.is_empty();
        let extension = filter::extension(&listener.name, &config, &mesh.module);
        extensions.push(resource(extension.name.clone(), &extension));
        listeners.push(resource(listener.name.clone(), &listeners::listener(listener, scope)));
    }
    if let Some(listen) = mesh.edge.health_listen {
        let listener = health::listener(listen, has_routes);
        listeners.push(resource(listener.name.clone(), &listener));
    }
    // A listener that does not ask must find what it names, whoever else names it.
    on_demand.retain(|name, _| !eager.contains_key(name));
    let module = match &mesh.module.location {
        ModuleLocation::Http(host) => module_cluster(host),
        ModuleLocation::Path(_) => None,
    };
    let (mut clusters, mut endpoints) = (Vec::from_iter(module), Vec::new());
    let eager = eager.iter().map(|named| (named, false));
    for ((name, spec), on_demand) in eager.chain(on_demand.iter().map(|named| (named, true))) {
        let resources = encoded.resources(name, spec, on_demand);
        clusters.push(resources.cluster);
        endpoints.extend(resources.endpoints);
    }
    Snapshot::new(
        ResourceSet::new(clusters),
        ResourceSet::new(endpoints),
        ResourceSet::new(listeners),
        ResourceSet::new(extensions),
    )
}

fn resource(name: String, message: &impl Name) -> Arc<Resource> {
    Arc::new(Resource::new(name, message))
}

/// Where proxies fetch the filter module when the control plane serves it. The address is checked with the
/// settings.
fn module_cluster(host: &str) -> Option<Arc<Resource>> {
    let endpoint: crate::model::Endpoint = host.parse().ok()?;
    let address = envoy::address(endpoint.host(), endpoint.port());
    let lb_endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let cluster = Cluster {
        name: filter::MODULE_CLUSTER.to_owned(),
        connect_timeout: Some(envoy::duration(5000)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: filter::MODULE_CLUSTER.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![lb_endpoint],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    };
    Some(resource(cluster.name.clone(), &cluster))
}
