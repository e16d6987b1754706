//! From the mesh to named Envoy resources: a pure function of the mesh and a proxy's scope.

mod access_log;
mod admission;
mod capabilities;
mod clusters;
mod compiler;
mod connections;
mod encoded;
mod envoy;
mod explain;
mod filter;
mod guard;
mod health;
mod listeners;
mod names;
mod player_tls;
mod priorities;
mod rbac;
mod resilience;
mod routes;
mod sidecar;
mod tls;

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use prost::Name;

use crate::mesh::{FilterModule, Mesh, ModuleLocation};
use crate::xds::{Resource, ResourceSet, Scope, Snapshot};

pub use compiler::Compiler;
use encoded::Encoded;
pub use explain::{Explanation, PossibleCluster, PossibleTarget, Question, explain};
pub use filter::config as filter_config;
pub use health::NAME as HEALTH_LISTENER;
pub use routes::{Entry, Origin, Rank, RouteTable};

/// Everything that proxies of `scope` should have.
#[must_use]
pub fn compile(mesh: &Mesh, scope: &Scope) -> Snapshot {
    compile_with(mesh, scope, &mut Encoded::default())
}

/// The same, with what is encoded already.
fn compile_with(mesh: &Mesh, scope: &Scope, encoded: &mut Encoded) -> Snapshot {
    if let Some(ports) = &scope.sidecar {
        return sidecar::compile(mesh, scope, ports);
    }
    let client = tls::Client::of(mesh, scope);
    let (mut eager, mut on_demand) = (clusters::Clusters::new(), clusters::Clusters::new());
    let mut extensions = Vec::new();
    let mut listeners = Vec::new();
    let mut secrets = client.secrets();
    let mut has_routes = false;
    for listener in mesh.listeners(&scope.listeners) {
        let table = RouteTable::new(mesh, &listener.name);
        let asks = listeners::asks_for_clusters(listener, scope);
        let specs = if asks { &mut on_demand } else { &mut eager };
        for entry in table.entries() {
            clusters::collect(&table, entry, &client, specs);
        }
        let config = filter::config(listener, table.to_filter());
        has_routes |= !config.routes.is_empty();
        let extension = filter::extension(&listener.name, &config, &mesh.module);
        extensions.push(resource(extension.name.clone(), &extension));
        let bound = connections::extension(listener);
        extensions.push(resource(bound.name.clone(), &bound));
        listeners.push(resource(listener.name.clone(), &listeners::listener(listener, scope, &mesh.edge)));
        secrets.extend(player_tls::secrets(listener));
    }
    if let Some(listen) = mesh.edge.health_listen {
        let listener = health::listener(listen, has_routes);
        listeners.push(resource(listener.name.clone(), &listener));
    }
    // A listener that does not ask must find what it names, whoever else names it.
    on_demand.retain(|name, _| !eager.contains_key(name));
    let (mut clusters, mut endpoints) = (Vec::from_iter(module_cluster(&mesh.module)), Vec::new());
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
    .with_secrets(secrets)
}

fn resource(name: String, message: &impl Name) -> Arc<Resource> {
    Arc::new(Resource::new(name, message))
}

/// Where proxies fetch the filter module when the control plane serves it. The address is checked with the
/// settings.
fn module_cluster(module: &FilterModule) -> Option<Arc<Resource>> {
    let ModuleLocation::Http(host) = &module.location else { return None };
    let endpoint: crate::model::Endpoint = host.parse().ok()?;
    let endpoints = vec![clusters::lb_endpoint(endpoint.host(), endpoint.port())];
    let cluster = Cluster {
        name: filter::MODULE_CLUSTER.to_owned(),
        connect_timeout: Some(envoy::duration(5000)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())),
        load_assignment: Some(clusters::load_assignment(filter::MODULE_CLUSTER, endpoints)),
        ..Cluster::default()
    };
    Some(resource(cluster.name.clone(), &cluster))
}
