//! The snapshot of an edge, in two parts: game-gateway rules change their endpoints by the minute, which touches nothing but
//! their own clusters. All the rest is kept until something else changes.

use std::sync::Arc;

use realmgate_filter::config::{FilterConfig, RouteConfig};

use super::clusters::{self, Clusters};
use super::encoded::Encoded;
use super::routes::{Origin, Rank, RouteIndex, RouteTable};
use super::{connections, filter, health, listeners, player_tls, resource, runtime, tls};
use crate::mesh::{Mesh, ModuleLocation};
use crate::xds::{Resource, ResourceSet, Scope, Snapshot};

/// Everything but the clusters of game-gateway rules.
#[derive(Debug)]
pub(super) struct Base {
    /// What it is made from: the mesh without its rules, and the routes of these.
    mesh: Mesh,
    rules: Vec<(Rank, RouteConfig)>,
    clusters: Vec<Arc<Resource>>,
    endpoints: Vec<Arc<Resource>>,
    listeners: Arc<ResourceSet>,
    extensions: Arc<ResourceSet>,
    secrets: Arc<ResourceSet>,
    /// Whether every listener asks for the clusters that it needs, those of rules among them.
    all_ask: bool,
    /// Whether there is no module for its listeners' filters.
    lacks_filters: bool,
}

/// The snapshot of an edge of `scope`, pending while it waits for its certificate, whose base is made anew where it has to be.
pub(super) fn compile(
    mesh: &Mesh,
    scope: &Scope,
    base: &mut Option<Base>,
    encoded: &mut Encoded,
) -> Snapshot {
    let client = tls::Client::of(mesh, scope);
    if client.waits(mesh) {
        return Snapshot::default();
    }
    let rules = RouteTable::of_rules(mesh);
    let base = match base {
        Some(base) if base.is_of(mesh, &rules) => base,
        _ => base.insert(Base::new(mesh, scope, &rules, encoded)),
    };
    let mut of_rules = Clusters::new();
    for entry in rules.entries() {
        clusters::collect(&rules, entry, &client, &mut of_rules);
    }
    let (mut clusters, mut endpoints) = (base.clusters.clone(), base.endpoints.clone());
    encode(&of_rules, base.all_ask, encoded, &mut clusters, &mut endpoints);
    let (clusters, endpoints) = (ResourceSet::new(clusters), ResourceSet::new(endpoints));
    Snapshot::new(clusters, endpoints, Arc::clone(&base.listeners), Arc::clone(&base.extensions))
        .with_secrets(Arc::clone(&base.secrets))
        .with_runtime(runtime::layers())
        .lacking_filters(base.lacks_filters)
}

impl Base {
    fn new(mesh: &Mesh, scope: &Scope, rules: &RouteTable<'_>, encoded: &mut Encoded) -> Self {
        let client = tls::Client::of(mesh, scope);
        let (mut eager, mut on_demand) = (Clusters::new(), Clusters::new());
        let (mut listeners, mut extensions) = (Vec::new(), Vec::new());
        let mut secrets = client.secrets();
        let (mut has_routes, mut all_ask) = (false, true);
        let index = RouteIndex::new(mesh);
        let client_address = filter::client_address(mesh, scope);
        for listener in mesh.listeners(&scope.listeners) {
            let table = RouteTable::of_listener(&index, &listener.name);
            let asks = listeners::asks_for_clusters(listener, scope);
            all_ask &= asks;
            let specs = if asks { &mut on_demand } else { &mut eager };
            for entry in table.entries().iter().filter(|entry| matches!(entry.origin, Origin::Policy(_))) {
                clusters::collect(&table, entry, &client, specs);
            }
            let config = FilterConfig {
                client_address: client_address.clone(),
                ..filter::config(listener, table.to_filter(), &mesh.edge)
            };
            has_routes |= !config.routes.is_empty();
            let extension = filter::extension(&listener.name, &config, &mesh.module);
            extensions.extend(extension.map(Arc::new));
            let bound = connections::extension(listener);
            extensions.push(resource(bound.name.clone(), &bound));
            let envoys = listeners::listener(listener, scope, &mesh.edge, client_address.is_none());
            listeners.push(resource(listener.name.clone(), &envoys));
            secrets.extend(player_tls::secrets(listener));
        }
        if let Some(listen) = mesh.edge.health_listen {
            let readiness = health::Readiness::of(listeners.len(), has_routes);
            let listener = health::listener(listen);
            listeners.push(resource(listener.name.clone(), &listener));
            // Without a module nothing is said: who serves with an earlier one goes on, and all others are not ready.
            if mesh.module.location != ModuleLocation::Nowhere {
                extensions.push(Arc::new(health::extension(readiness, &mesh.edge.metrics_clients)));
            }
        }
        // A listener that does not ask must find what it names, whoever else names it.
        on_demand.retain(|name, _| !eager.contains_key(name));
        let (mut clusters, mut endpoints) =
            (Vec::from_iter(filter::module_cluster(&mesh.module)), Vec::new());
        encode(&eager, false, encoded, &mut clusters, &mut endpoints);
        encode(&on_demand, true, encoded, &mut clusters, &mut endpoints);
        let lacks_filters = mesh.module.location == ModuleLocation::Nowhere && !listeners.is_empty();
        Self {
            mesh: mesh.without_rules(),
            rules: rules.lines().map(|(rank, route)| (rank, route.clone())).collect(),
            clusters,
            endpoints,
            listeners: Arc::new(ResourceSet::new(listeners)),
            extensions: Arc::new(ResourceSet::new(extensions)),
            secrets: Arc::new(ResourceSet::on_demand(secrets)),
            all_ask,
            lacks_filters,
        }
    }

    /// Whether it is what it would be if it were made anew.
    fn is_of(&self, mesh: &Mesh, rules: &RouteTable<'_>) -> bool {
        let known = self.rules.iter().map(|(rank, route)| (*rank, route));
        self.mesh == mesh.without_rules() && known.eq(rules.lines())
    }
}

fn encode(
    specs: &Clusters,
    on_demand: bool,
    encoded: &mut Encoded,
    clusters: &mut Vec<Arc<Resource>>,
    endpoints: &mut Vec<Arc<Resource>>,
) {
    for (name, spec) in specs {
        let resources = encoded.resources(name, spec, on_demand);
        clusters.push(resources.cluster);
        endpoints.extend(resources.endpoints);
    }
}
