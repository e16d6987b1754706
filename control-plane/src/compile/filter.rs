//! The filter of a listener: its routes as small JSON, and the module that runs them.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use envoy_types::pb::envoy::config::core::v3::{
    AsyncDataSource, DataSource, HttpUri, RemoteDataSource, TypedExtensionConfig, async_data_source,
    data_source, http_uri::HttpUpstreamType,
};
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm;
use envoy_types::pb::envoy::extensions::wasm::v3::{
    FailurePolicy, PluginConfig, VmConfig, plugin_config::Vm,
};
use envoy_types::pb::google::protobuf::StringValue;
use realmgate_filter::config::{FilterConfig, RouteConfig};
use realmgate_filter::privacy::ClientAddress;

use super::capabilities::{self, Told};
use super::{clusters, envoy, resource};
use crate::mesh::{EdgeSettings, FilterModule, Mesh, ModuleLocation};
use crate::model::{ClientAddresses, Endpoint, Listener};
use crate::xds::{Resource, Scope};

/// The cluster from which proxies fetch the module over HTTP.
const MODULE_CLUSTER: &str = "realmgate-filter-module";

/// The ECDS name of a listener's filter.
pub(super) fn extension_name(listener: &str) -> String {
    format!("realmgate/{listener}")
}

/// What the filter of this listener is told.
#[must_use]
pub fn config(listener: &Listener, routes: Vec<RouteConfig>, edge: &EdgeSettings) -> FilterConfig {
    // The model bounds times to a year, which fits 32 bits of milliseconds only up to 49 days.
    let header_timeout_ms = u32::try_from(listener.limits.header_timeout.as_millis()).unwrap_or(u32::MAX);
    let limits = &listener.limits;
    FilterConfig {
        header_timeout_ms,
        max_message_bytes: limits.max_message_bytes,
        connections_per_ip: limits.connections_per_ip,
        new_connections_per_ip_per_second: limits.new_connections_per_ip_per_second,
        access_log: edge.access_log.is_some(),
        client_address: None,
        routes,
    }
}

/// How the filters of `scope` write client addresses into the access log; `None` = Envoy writes them, whole, or nobody does.
pub(super) fn client_address(mesh: &Mesh, scope: &Scope) -> Option<ClientAddress> {
    mesh.edge.access_log.as_ref()?;
    let place = mesh.place(&scope.datacenter);
    match (mesh.policy.privacy.client_addresses(place), &mesh.edge.address_key) {
        (ClientAddresses::Full, _) => None,
        (ClientAddresses::Hashed, Some(key)) => Some(ClientAddress::Hashed(key.clone())),
        // Without a key nothing more is shown than may be.
        (ClientAddresses::Truncated | ClientAddresses::Hashed, _) => Some(ClientAddress::Truncated),
    }
}

/// The ECDS resource; `None` without a module.
pub(super) fn extension(listener: &str, config: &FilterConfig, module: &FilterModule) -> Option<Resource> {
    // Numbers and strings alone: this cannot fail.
    let json = serde_json::to_string(config).unwrap_or_default();
    plugin(listener, "realmgate", json, Told::of(config), module)
}

/// The ECDS resource of a plugin of the module, with its configuration; `None` without a module.
pub(super) fn plugin(
    name: &str,
    root_id: &str,
    json: String,
    told: Told,
    module: &FilterModule,
) -> Option<Resource> {
    let vm = VmConfig {
        // What VMs share belongs to this id: a new module goes on counting where the old one is.
        vm_id: "realmgate".to_owned(),
        // VMs of one id, configuration and code are one. A new module is a new VM, even behind the same path: this makes
        // it another resource, and Envoy reads the code again. What it is told of is the VM's, too.
        configuration: Some(envoy::any(&StringValue {
            value: format!("{}{}", module.sha256, told.suffix()),
        })),
        runtime: "envoy.wasm.runtime.v8".to_owned(),
        code: Some(AsyncDataSource { specifier: Some(code(module)?) }),
        // Envoy would acknowledge a filter before it has fetched its code, and keep it without any when that fails. So it
        // refuses until it has the code, says so, and what it had serves on; it is told again after a while.
        nack_on_code_cache_miss: matches!(module.location, ModuleLocation::Http(_)),
        ..VmConfig::default()
    };
    let plugin = PluginConfig {
        name: name.to_owned(),
        root_id: root_id.to_owned(),
        configuration: Some(envoy::any(&StringValue { value: json })),
        // The default refuses every player of a worker for ever after one trap.
        failure_policy: FailurePolicy::FailReload.into(),
        vm: Some(Vm::VmConfig(vm)),
        ..PluginConfig::default()
    };
    let mut wasm = envoy::any(&Wasm { config: Some(plugin) });
    capabilities::restrict(&mut wasm, told);
    let extension = TypedExtensionConfig { name: extension_name(name), typed_config: Some(wasm) };
    Some(Resource::new(extension.name.clone(), &extension).with_code(module.sha256.as_str()))
}

fn code(module: &FilterModule) -> Option<async_data_source::Specifier> {
    Some(match &module.location {
        ModuleLocation::Nowhere => return None,
        ModuleLocation::Path(path) => async_data_source::Specifier::Local(DataSource {
            specifier: Some(data_source::Specifier::Filename(path.clone())),
            ..DataSource::default()
        }),
        ModuleLocation::Http(host) => async_data_source::Specifier::Remote(RemoteDataSource {
            http_uri: Some(HttpUri {
                uri: format!("http://{host}/v1/filter/{}.wasm", module.sha256),
                timeout: Some(envoy::duration(10_000)),
                http_upstream_type: Some(HttpUpstreamType::Cluster(MODULE_CLUSTER.to_owned())),
            }),
            sha256: module.sha256.clone(),
            ..RemoteDataSource::default()
        }),
    })
}

/// Where proxies fetch the module when the control plane serves it. The address is checked with the settings.
pub(super) fn module_cluster(module: &FilterModule) -> Option<Arc<Resource>> {
    let ModuleLocation::Http(host) = &module.location else { return None };
    let endpoint: Endpoint = host.parse().ok()?;
    let endpoints = vec![clusters::lb_endpoint(endpoint.host(), endpoint.port())];
    let cluster = Cluster {
        name: MODULE_CLUSTER.to_owned(),
        connect_timeout: Some(envoy::duration(5000)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())),
        load_assignment: Some(clusters::load_assignment(MODULE_CLUSTER, endpoints)),
        ..Cluster::default()
    };
    Some(resource(cluster.name.clone(), &cluster))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::catalog::Catalog;
    use crate::mesh::{Identities, Unheard};
    use crate::model::parse;

    #[test]
    fn an_edge_that_names_no_datacenter_is_in_ours() {
        let shown = |local: &str, own: &str, claimed: &str| {
            let policy = parse("privacy: {datacenters: {eu: truncated}}").expect("the policy is valid");
            let edge = EdgeSettings { access_log: Some("/log".to_owned()), ..EdgeSettings::default() };
            let mesh = Mesh {
                policy: Arc::new(policy),
                rules: Arc::default(),
                identities: Arc::new(Identities { datacenter: own.to_owned(), ..Identities::default() }),
                intentions: Arc::default(),
                module: FilterModule { sha256: String::new(), location: ModuleLocation::Nowhere },
                edge: Arc::new(edge),
                catalog: Arc::new(Catalog { local: local.to_owned(), ..Catalog::default() }),
                placement: Arc::default(),
                unheard: Unheard::default(),
            };
            client_address(&mesh, &Scope { datacenter: claimed.to_owned(), ..Scope::default() })
        };
        for (local, own, claimed, whole) in [
            ("eu", "", "", false),
            ("", "eu", "", false),
            ("eu", "dc1", "", false),
            ("us", "us", "eu", false),
            ("us", "us", "", true),
            ("eu", "eu", "us", true),
            ("", "", "", true),
        ] {
            assert_eq!(shown(local, own, claimed).is_none(), whole, "{local} {own} {claimed}");
        }
    }
}
