//! The snapshot of a sidecar: one listener that lets peers of the mesh in, by intention, to the game server beside it.

use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, UpstreamConnectMode, tcp_proxy::ClusterSpecifier,
};

use super::admission::Admission;
use super::hold::{hold, secret_hold};
use super::resilience::Resilience;
use super::{
    access_log, clusters, connections, envoy, guard, listeners, rbac, resource, runtime, shape, tls,
};
use crate::mesh::{FilterModule, Identities, Intentions, Mesh};
use crate::model::Sidecars;
use crate::xds::{Hold, Ports, ResourceSet, Scope, Snapshot};

/// The listener, its statistics, and with `realmgate/` in front its filter of intentions.
const INBOUND: &str = "inbound";

/// The game server's cluster.
const APP: &str = "app";

/// A peer has this long for its TLS handshake.
const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// The peer, once it is proven. Envoy knows the words of a certificate before it has checked it, and says them of a refused
/// one, too; only RBAC's verdict and a connection to the game server come after the handshake.
const SOURCE: &str = "%CEL(has(upstream.address) || \
     has(connection.termination_details) && connection.termination_details.startsWith('rbac_') \
     ? connection.uri_san_peer_certificate : '')%";

/// Empty for those that were let in. Why a handshake failed may repeat a peer's words and is left out.
const AUTHZ: &str = "%CEL(has(connection.termination_details) ? connection.termination_details \
     : has(upstream.address) ? '' \
     : has(connection.transport_failure_reason) ? 'tls_handshake_failed' : 'no_data')%";

/// One JSON line a connection, at its close.
const ACCESS_LOG: [(&str, &str); 10] = [
    ("time", "%START_TIME%"),
    ("peer", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("source", SOURCE),
    ("destination", "%DOWNSTREAM_LOCAL_URI_SAN%"),
    ("authz", AUTHZ),
    ("duration_ms", "%DURATION%"),
    ("received", "%BYTES_RECEIVED%"),
    ("sent", "%BYTES_SENT%"),
    ("server", "%UPSTREAM_HOST%"),
    ("flags", "%RESPONSE_FLAGS%"),
];

/// All but peers that were asked for a certificate and have shown none. Envoy counts those as `fail_verify_no_cert`.
const NOT_NAMELESS: &str = "!(has(connection.transport_failure_reason) && \
     connection.transport_failure_reason.contains('PEER_DID_NOT_RETURN_A_CERTIFICATE'))";

/// All of a mesh that sidecars of a service are made from. There are thousands of them, and most changes are none of theirs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    /// Whether there is nothing to be said before its certificate has come.
    waits: bool,
    /// With the service's leaf alone.
    identities: Identities,
    intentions: Arc<Intentions>,
    /// The module of their guard, if there is to be one.
    guard: Option<FilterModule>,
    limits: Sidecars,
    access_log: Option<String>,
    hold: Option<Hold>,
}

impl Inputs {
    pub(super) fn of(mesh: &Mesh, scope: &Scope) -> Self {
        Self {
            waits: tls::Client::of(mesh, scope).waits(mesh),
            identities: mesh.identities.of(&scope.service),
            intentions: Arc::clone(&mesh.intentions),
            guard: mesh.policy.intentions_close.then(|| mesh.module.clone()),
            limits: mesh.policy.sidecars.clone(),
            access_log: mesh.edge.access_log.clone(),
            hold: hold(mesh),
        }
    }
}

/// Everything that a sidecar with these ports should have; nothing where its service has no certificate, and pending
/// until it has one that is wanted.
pub(super) fn compile(inputs: &Inputs, scope: &Scope, ports: &Ports) -> Snapshot {
    let none = || ResourceSet::new([]);
    if inputs.waits {
        return Snapshot::default();
    }
    if inputs.identities.leaf(&scope.service).is_none() {
        return Snapshot::new(none(), none(), none(), none())
            .with_runtime(runtime::layers())
            .holding(inputs.hold.clone());
    }
    let admission = Admission::of(&inputs.intentions, &scope.service);
    let trust_domain = &inputs.identities.trust_domain;
    let rbac = TypedExtensionConfig {
        name: super::filter::extension_name(INBOUND),
        typed_config: Some(envoy::any(&rbac::filter(&admission, trust_domain))),
    };
    let bound = connections::bounded(INBOUND, inputs.limits.connections);
    let mut extensions = vec![resource(rbac.name.clone(), &rbac), resource(bound.name.clone(), &bound)];
    let mut clusters = vec![resource(APP.to_owned(), &app(ports))];
    let guard = match &inputs.guard {
        Some(module) => guard::extension(&admission, trust_domain, module),
        None => Some(guard::none()),
    };
    clusters.extend(inputs.guard.as_ref().and_then(super::filter::module_cluster));
    let lacks_guard = guard.is_none();
    extensions.extend(guard.map(Arc::new));
    let listener = listener(inputs, scope, ports);
    Snapshot::new(
        ResourceSet::new(clusters),
        none(),
        ResourceSet::new([resource(INBOUND.to_owned(), &listener)]),
        ResourceSet::new(extensions),
    )
    .with_secrets(ResourceSet::on_demand(tls::secrets(&inputs.identities, &scope.service)))
    .with_runtime(runtime::layers())
    .lacking_filters(lacks_guard)
    .holding(inputs.hold.clone())
    .holding_secrets(secret_hold(&inputs.identities))
}

fn listener(inputs: &Inputs, scope: &Scope, ports: &Ports) -> Listener {
    let chain = FilterChain {
        filters: vec![connections::filter(INBOUND), intentions(), guard::filter(), proxy(&inputs.limits)],
        transport_socket: Some(tls::server(&inputs.identities, &scope.service)),
        transport_socket_connect_timeout: Some(envoy::duration(HANDSHAKE_TIMEOUT_MS)),
        ..FilterChain::default()
    };
    let access_log = inputs.access_log.iter();
    let filter = (!inputs.limits.log_nameless).then(|| access_log::cel(NOT_NAMELESS));
    let access_log =
        access_log.map(|path| AccessLog { filter: filter.clone(), ..access_log::json(path, &ACCESS_LOG) });
    Listener {
        filter_chains: vec![chain],
        // Of the listener, so that those are logged too whose handshake fails.
        access_log: access_log.chain([shape::connection_log()]).collect(),
        ..shape::listener(INBOUND, ports.inbound)
    }
}

/// By ECDS: a change of intentions then spares the connections that are open.
fn intentions() -> Filter {
    shape::slot(super::filter::extension_name(INBOUND))
}

/// RBAC decides at a peer's first byte: a connection to the game server before that would be one for peers that are
/// denied, too.
fn proxy(limits: &Sidecars) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: INBOUND.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(APP.to_owned())),
        upstream_connect_mode: UpstreamConnectMode::OnDownstreamData.into(),
        max_early_data_bytes: Some(envoy::uint32(listeners::EARLY_BYTES)),
        idle_timeout: Some(envoy::duration(limits.idle_timeout.as_millis())),
        ..TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(envoy::any(&proxy))),
    }
}

fn app(ports: &Ports) -> Cluster {
    let mut cluster = Cluster {
        name: APP.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(clusters::load_assignment(
            APP,
            vec![clusters::lb_endpoint(&ports.app.ip().to_string(), ports.app.port())],
        )),
        ..Cluster::default()
    };
    Resilience::default().of_one_endpoint().apply(&mut cluster);
    cluster
}
