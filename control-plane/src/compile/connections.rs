//! The bound on all connections of a listener: Envoy's own filter, in front of ours. It counts across workers and turns
//! players away before any wasm runs. By ECDS, so that another bound spares live connections.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use prost::Name;

use super::envoy;
use crate::model::Listener;

/// The ECDS name. Listener names have no slash.
fn extension_name(listener: &str) -> String {
    format!("realmgate/{listener}/connections")
}

/// Its place in the listener, which is there even without a bound: a listener that changes drains.
pub(super) fn filter(listener: &str) -> Filter {
    envoy::discovered_filter(extension_name(listener), ConnectionLimit::type_url())
}

/// The ECDS resource.
pub(super) fn extension(listener: &Listener) -> TypedExtensionConfig {
    let limit = match listener.limits.connections {
        0 => u64::MAX,
        limit => limit.into(),
    };
    let config = ConnectionLimit {
        stat_prefix: listener.name.clone(),
        max_connections: Some(envoy::uint64(limit)),
        ..ConnectionLimit::default()
    };
    TypedExtensionConfig { name: extension_name(&listener.name), typed_config: Some(envoy::any(&config)) }
}
