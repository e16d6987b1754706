//! The bound on all connections of a listener: Envoy's own filter, in front of ours. It counts across workers and turns
//! players away before any wasm runs. By ECDS, so that another bound spares live connections.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;

use super::{envoy, shape};
use crate::model::Listener;

/// The ECDS name. Listener names have no slash.
fn extension_name(listener: &str) -> String {
    format!("realmgate/{listener}/connections")
}

/// Its place in the listener, which is there even without a bound: a listener that changes drains.
pub(super) fn filter(listener: &str) -> Filter {
    shape::slot(extension_name(listener))
}

/// The ECDS resource.
pub(super) fn extension(listener: &Listener) -> TypedExtensionConfig {
    bounded(&listener.name, listener.limits.connections)
}

/// The ECDS resource of a listener with this bound, 0 = none.
pub(super) fn bounded(listener: &str, bound: u32) -> TypedExtensionConfig {
    let bound = if bound == 0 { u64::MAX } else { bound.into() };
    extended(extension_name(listener), &limit(listener, bound))
}

/// What stands in a slot that is not needed: lets everybody pass, for two additions a connection.
pub(super) fn passes(name: String, stat_prefix: &str) -> TypedExtensionConfig {
    extended(name, &limit(stat_prefix, u64::MAX))
}

/// The filter that closes what is too much, with a count.
pub(super) fn limit(stat_prefix: &str, bound: u64) -> ConnectionLimit {
    ConnectionLimit {
        stat_prefix: stat_prefix.to_owned(),
        max_connections: Some(envoy::uint64(bound)),
        ..ConnectionLimit::default()
    }
}

fn extended(name: String, limit: &ConnectionLimit) -> TypedExtensionConfig {
    TypedExtensionConfig { name, typed_config: Some(envoy::any(limit)) }
}
