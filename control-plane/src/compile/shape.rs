//! The shape of listeners, which is a contract: Envoy drains every session of a listener that changes in any byte. So what
//! may have to change stands in slots, whose filters come by ECDS, or behind switches, which RTDS turns; neither touches a
//! listener. `tests/listeners` records the shape, and a change of it has to be announced in the CHANGELOG.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, RuntimeFilter, access_log, access_log_filter::FilterSpecifier,
};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, ConfigSource, ExtensionConfigSource, GrpcService, TcpKeepalive,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, Listener, filter};
use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor::Entry,
};
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::dynamic_modules::v3::DynamicModuleNetworkFilter;
use envoy_types::pb::envoy::extensions::filters::network::ratelimit::v3::RateLimit;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use prost::{Message, Name};
use realmgate_filter::access_log::PROPERTY;

use super::envoy;

/// Never a cluster: what names it is refused and not guessed.
pub(super) const NO_CLUSTER: &str = "realmgate-none";

/// Our cluster in every bootstrap.
const CONTROL_PLANE: &str = "realmgate-control-plane";

/// Statistics of the connections that were closed since a slot had no filter yet.
const UNCONFIGURED: &str = "realmgate_unconfigured";

/// The share of connections that are told to the control plane, in percent; none unless RTDS says otherwise.
const CONNECTION_LOG_SWITCH: &str = "realmgate.connection_log";

/// Clouds forget a flow that is silent for four minutes (Azure) or six (AWS), and tell neither end.
const KEEPALIVE_AFTER_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_PROBES: u32 = 4;

/// What Envoy holds of a connection before it stops reading the other end: two of the largest messages and more. Its own
/// 1 MiB would be 10 GB for 10,000 players who do not read.
const BUFFER_BYTES: u32 = 256 * 1024;

/// Connections that wait to be accepted: a crowd that comes back at once. Linux allows no more unless it is told to.
const BACKLOG: u32 = 4_096;

/// A TCP listener with what all of ours have in common.
pub(super) fn listener(name: &str, at: SocketAddr) -> Listener {
    Listener {
        name: name.to_owned(),
        stat_prefix: name.to_owned(),
        address: Some(envoy::address(&at.ip().to_string(), at.port())),
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: Some(envoy::uint32(KEEPALIVE_PROBES)),
            keepalive_time: Some(envoy::uint32(KEEPALIVE_AFTER_S)),
            keepalive_interval: Some(envoy::uint32(KEEPALIVE_INTERVAL_S)),
        }),
        tcp_backlog_size: Some(envoy::uint32(BACKLOG)),
        per_connection_buffer_limit_bytes: Some(envoy::uint32(BUFFER_BYTES)),
        ..Listener::default()
    }
}

/// A place for a filter, which comes by ECDS under this name. Envoy cuts a filter chain off at the first filter that it has
/// no configuration of, and filters before it then hear of an end without a beginning (`connection_limit` counts below
/// zero, and refuses everybody for ever). So a slot is never empty: until its filter is there, or where Envoy refuses it,
/// connections are closed.
pub(super) fn slot(name: String) -> Filter {
    let source = ExtensionConfigSource {
        config_source: Some(envoy::ads()),
        default_config: Some(envoy::any(&closes())),
        // All that may ever stand there; Envoy minds no name that it does not know.
        type_urls: vec![
            Wasm::type_url(),
            DynamicModuleNetworkFilter::type_url(),
            Rbac::type_url(),
            ConnectionLimit::type_url(),
            RateLimit::type_url(),
        ],
        ..ExtensionConfigSource::default()
    };
    Filter { name, config_type: Some(filter::ConfigType::ConfigDiscovery(source)) }
}

/// A place for the filter at the end of a chain, which comes by ECDS under this name. Until it is there, for so long at
/// most, the listener waits; after that, or where Envoy refuses it, `default` stands there.
pub(super) fn last_slot<M: Message + Name>(name: &str, default: &M, patience_ms: u64) -> Filter {
    let source = ExtensionConfigSource {
        config_source: Some(ConfigSource {
            initial_fetch_timeout: Some(envoy::duration(patience_ms)),
            ..envoy::ads()
        }),
        default_config: Some(envoy::any(default)),
        type_urls: vec![M::type_url()],
        ..ExtensionConfigSource::default()
    };
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::ConfigDiscovery(source)) }
}

/// Closes each connection as it comes: a rate limit is asked for where nobody answers, and who gets no answer is refused.
/// Of Envoy's filters it is the one that closes before a byte is read, is not the end of a chain, and counts.
fn closes() -> RateLimit {
    let entry = Entry { key: "slot".to_owned(), value: "empty".to_owned() };
    RateLimit {
        stat_prefix: UNCONFIGURED.to_owned(),
        domain: "realmgate".to_owned(),
        descriptors: vec![RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() }],
        failure_mode_deny: true,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(grpc(NO_CLUSTER)),
            transport_api_version: ApiVersion::V3.into(),
        }),
        ..RateLimit::default()
    }
}

/// Connections told to the control plane as they end, switched on by RTDS. Off it opens no stream.
pub(super) fn connection_log() -> AccessLog {
    let config = TcpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: "realmgate".to_owned(),
            grpc_service: Some(grpc(CONTROL_PLANE)),
            transport_api_version: ApiVersion::V3.into(),
            filter_state_objects_to_log: vec![format!("wasm.{PROPERTY}")],
            ..CommonGrpcAccessLogConfig::default()
        }),
    };
    let switch = RuntimeFilter {
        runtime_key: CONNECTION_LOG_SWITCH.to_owned(),
        percent_sampled: Some(FractionalPercent::default()),
        // Otherwise it is a header of HTTP that decides.
        use_independent_randomness: true,
    };
    AccessLog {
        name: "envoy.access_loggers.tcp_grpc".to_owned(),
        filter: Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::RuntimeFilter(switch)) }),
        config_type: Some(access_log::ConfigType::TypedConfig(envoy::any(&config))),
    }
}

fn grpc(cluster: &str) -> GrpcService {
    let cluster = EnvoyGrpc { cluster_name: cluster.to_owned(), ..EnvoyGrpc::default() };
    GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(cluster)), ..GrpcService::default() }
}
