//! The snapshot of a sidecar: one listener that lets peers of the mesh in, by intention, to the game server beside it.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType},
};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, UpstreamConnectMode, tcp_proxy::ClusterSpecifier,
};
use prost::Name;

use super::admission::Admission;
use super::hold::{hold, secret_hold};
use super::resilience::Resilience;
use super::{access_log, clusters, envoy, guard, listeners, rbac, resource, tls};
use crate::mesh::{FilterModule, Identities, Intentions, Mesh};
use crate::xds::{Hold, Ports, ResourceSet, Scope, Snapshot};

/// The listener, its statistics, and with `realmgate/` in front its filter of intentions.
const INBOUND: &str = "inbound";

/// The game server's cluster.
const APP: &str = "app";

/// A peer has this long for its TLS handshake.
const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// What a session may be silent for. Edges end idle sessions long before; this is for what an edge forgot.
const IDLE_TIMEOUT_MS: u64 = 24 * 60 * 60 * 1000;

/// One JSON line a connection, at its close; `authz` is empty for those that were let in. As text for the reason that
/// [`access_log`] gives; why a handshake failed may repeat a peer's words and is left out.
const ACCESS_LOG: &str = concat!(
    r#"{"time":"%START_TIME%","peer":"%DOWNSTREAM_REMOTE_ADDRESS%","source":"%DOWNSTREAM_PEER_URI_SAN%","#,
    r#""destination":"%DOWNSTREAM_LOCAL_URI_SAN%","authz":"%CONNECTION_TERMINATION_DETAILS%","#,
    r#""duration_ms":%DURATION%,"received":%BYTES_RECEIVED%,"sent":%BYTES_SENT%,"server":"%UPSTREAM_HOST%","flags":"%RESPONSE_FLAGS%"}"#,
    "\n"
);

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
        return Snapshot::new(none(), none(), none(), none()).holding(inputs.hold.clone());
    }
    let admission = Admission::of(&inputs.intentions, &scope.service);
    let trust_domain = &inputs.identities.trust_domain;
    let rbac = TypedExtensionConfig {
        name: super::filter::extension_name(INBOUND),
        typed_config: Some(envoy::any(&rbac::filter(&admission, trust_domain))),
    };
    let mut extensions = vec![resource(rbac.name.clone(), &rbac)];
    let mut clusters = vec![resource(APP.to_owned(), &app(ports))];
    if let Some(module) = &inputs.guard {
        let guard = guard::extension(&admission, trust_domain, module);
        extensions.push(resource(guard.name.clone(), &guard));
        clusters.extend(super::filter::module_cluster(module));
    }
    let listener = listener(inputs, scope, ports);
    Snapshot::new(
        ResourceSet::new(clusters),
        none(),
        ResourceSet::new([resource(INBOUND.to_owned(), &listener)]),
        ResourceSet::new(extensions),
    )
    .with_secrets(ResourceSet::on_demand(tls::secrets(&inputs.identities, &scope.service)))
    .holding(inputs.hold.clone())
    .holding_secrets(secret_hold(&inputs.identities))
}

fn listener(inputs: &Inputs, scope: &Scope, ports: &Ports) -> Listener {
    let guard = inputs.guard.as_ref().map(|_| guard::filter());
    let chain = FilterChain {
        filters: [intentions()].into_iter().chain(guard).chain([proxy()]).collect(),
        transport_socket: Some(tls::server(&inputs.identities, &scope.service)),
        transport_socket_connect_timeout: Some(envoy::duration(HANDSHAKE_TIMEOUT_MS)),
        ..FilterChain::default()
    };
    let access_log = inputs.access_log.iter();
    let access_log = access_log.map(|path| access_log::written(path, ACCESS_LOG.to_owned()));
    Listener {
        name: INBOUND.to_owned(),
        address: Some(envoy::address(&ports.inbound.ip().to_string(), ports.inbound.port())),
        filter_chains: vec![chain],
        stat_prefix: INBOUND.to_owned(),
        // Of the listener, so that those are logged too whose handshake fails.
        access_log: access_log.collect(),
        ..Listener::default()
    }
}

/// By ECDS: a change of intentions then spares the connections that are open.
fn intentions() -> Filter {
    envoy::discovered_filter(super::filter::extension_name(INBOUND), Rbac::type_url())
}

/// RBAC decides at a peer's first byte: a connection to the game server before that would be one for peers that are
/// denied, too.
fn proxy() -> Filter {
    let proxy = TcpProxy {
        stat_prefix: INBOUND.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(APP.to_owned())),
        upstream_connect_mode: UpstreamConnectMode::OnDownstreamData.into(),
        max_early_data_bytes: Some(envoy::uint32(listeners::EARLY_BYTES)),
        idle_timeout: Some(envoy::duration(IDLE_TIMEOUT_MS)),
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
