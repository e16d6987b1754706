//! A game listener: the filter, by ECDS, in front of a `tcp_proxy` that waits for it.

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::{BackoffStrategy, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener as EnvoyListener, ListenerFilter, filter::ConfigType,
    listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, UpstreamConnectMode,
    tcp_proxy::{ClusterSpecifier, OnDemand},
};
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};

use super::access_log::access_log;
use super::{connections, envoy, filter, player_tls, shape};
use crate::mesh::EdgeSettings;
use crate::model::{ClusterDelivery, Listener};
use crate::xds::Scope;

/// Where the filter leaves the hash key. Only one can be named, so it must be the one of the proxy's version.
const HASHED_STRING: &str = "envoy.hashable_string";
const HASHED_ADDRESS: &str = "envoy.network.transport_socket.original_dst_address";

/// What the client may have sent before its backend connection stands: one message of the largest size and
/// its header. Beyond it Envoy stops reading from the client until the backend is there.
pub(super) const EARLY_BYTES: u32 = 8 + 65_535;

/// How long a connection may owe the header of the PROXY protocol, before any filter and limit of ours hears of it. Not
/// `header_timeout`: a change of this drains the listener. Envoy's own 15 s would hold a place three times as long.
const PROXY_HEADER_MS: u64 = 5_000;

/// How long a player may take for the TLS handshake, whatever the limits.
const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;

/// How long a player waits for a cluster on demand: as long as for a connection to a game server, and enough
/// for the control plane to restart meanwhile. Envoy's 60 s would outlast any player, and Envoy never asks again
/// for a cluster that it was told does not exist.
const CLUSTER_TIMEOUT_MS: u64 = 5_000;

/// The LDS resource of a game listener, whose access log has client addresses as Envoy writes them or, by `shows_clients`,
/// leaves them to the filter.
pub(super) fn listener(
    listener: &Listener,
    scope: &Scope,
    edge: &EdgeSettings,
    shows_clients: bool,
) -> EnvoyListener {
    let chain = FilterChain {
        filter_chain_match: chain_match(listener),
        filters: vec![
            connections::filter(&listener.name),
            shape::slot(filter::extension_name(&listener.name)),
            tcp_proxy_filter(listener, scope, access_log(listener, scope, edge, shows_clients)),
        ],
        transport_socket: player_tls::transport_socket(listener),
        transport_socket_connect_timeout: listener
            .tls
            .is_some()
            .then(|| envoy::duration(HANDSHAKE_TIMEOUT_MS)),
        ..FilterChain::default()
    };
    let proxy_protocol = listener.proxy_protocol.then(|| ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(envoy::any(&ProxyProtocol::default()))),
        ..ListenerFilter::default()
    });
    EnvoyListener {
        filter_chains: vec![chain],
        listener_filters: proxy_protocol.into_iter().collect(),
        listener_filters_timeout: listener.proxy_protocol.then(|| envoy::duration(PROXY_HEADER_MS)),
        // What `/drain_listeners?inboundonly` stops, while the health listener goes on.
        traffic_direction: TrafficDirection::Inbound.into(),
        ..shape::listener(&listener.name, listener.bind)
    }
}

/// Who gets to the filters: connections that no chain matches are closed. Behind the PROXY protocol a client's address is what
/// the header says, so it counts only where the other end of the connection is one that is believed.
fn chain_match(listener: &Listener) -> Option<FilterChainMatch> {
    let Listener { allowed_clients, trusted_proxies, .. } = listener;
    let is_for_all = allowed_clients.is_empty() && trusted_proxies.is_empty();
    (!is_for_all).then(|| FilterChainMatch {
        direct_source_prefix_ranges: trusted_proxies.iter().map(envoy::cidr).collect(),
        source_prefix_ranges: allowed_clients.iter().map(envoy::cidr).collect(),
        ..FilterChainMatch::default()
    })
}

fn tcp_proxy_filter(listener: &Listener, scope: &Scope, access_log: Option<AccessLog>) -> Filter {
    let hash_key = if scope.hashes_addresses { HASHED_ADDRESS } else { HASHED_STRING };
    let proxy = TcpProxy {
        stat_prefix: listener.name.clone(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(shape::NO_CLUSTER.to_owned())),
        upstream_connect_mode: UpstreamConnectMode::OnDownstreamData.into(),
        max_early_data_bytes: Some(envoy::uint32(EARLY_BYTES)),
        idle_timeout: Some(envoy::duration(listener.limits.idle_timeout.as_millis())),
        max_connect_attempts: Some(envoy::uint32(listener.connect_attempts)),
        backoff_options: Some(BackoffStrategy {
            base_interval: Some(envoy::duration(listener.connect_backoff.base.as_millis())),
            max_interval: Some(envoy::duration(listener.connect_backoff.max.as_millis())),
        }),
        hash_policy: vec![HashPolicy {
            policy_specifier: Some(hash_policy::PolicySpecifier::FilterState(hash_policy::FilterState {
                key: hash_key.to_owned(),
            })),
        }],
        access_log: access_log.into_iter().chain([shape::connection_log()]).collect(),
        on_demand: asks_for_clusters(listener, scope).then(on_demand),
        ..TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(envoy::any(&proxy))),
    }
}

/// Whether proxies of `scope` ask for the clusters of this listener one by one, with their first player. In
/// state of the world Envoy 1.40 asks for one by taking its wildcard back, and so loses every other cluster, and
/// 1.37 crashes: those proxies get all clusters at once.
pub(super) fn asks_for_clusters(listener: &Listener, scope: &Scope) -> bool {
    listener.clusters == ClusterDelivery::OnDemand && !scope.state_of_the_world
}

fn on_demand() -> OnDemand {
    OnDemand {
        odcds_config: Some(envoy::ads()),
        timeout: Some(envoy::duration(CLUSTER_TIMEOUT_MS)),
        ..OnDemand::default()
    }
}
