//! `realmgate serve`: binds, starts the sources, and wires them to the servers in the order of the data.

mod endpoints;
mod policy;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use realmgate_filter::privacy::HashKey;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::api;
use crate::compile::Compiler;
use crate::mesh::catalog::Catalog;
use crate::mesh::failover::{self, Tracker};
use crate::mesh::identity::wanted_leaves;
use crate::mesh::{
    self, ConsulLink, ConsulStatus, EdgeSettings, EndpointScreen, GatewayStatus, Identities, Sources, Wanted,
};
use crate::model;
use crate::settings::{Delivery, MeshCa, Settings};
use crate::source::address_key::{AddressKeyError, AddressKeys};
use crate::source::ca::{CaConfig, CaError, EmbeddedCa};
use crate::source::consul::{self, ConsulConfig, ConsulSource};
use crate::source::filter_module::{self, FilterModuleConfig, FilterModuleSource, ModuleDelivery};
use crate::source::gateway_rules::{GatewayRulesConfig, GatewayRulesSource, RedisTlsFiles, StartError};
use crate::source::policy::{ApplyError, PolicySource};
use crate::source::policy_store::StoreError;
use crate::source::saved;
use crate::xds::{self, AdsServer, Listener, ListenerConfig, ListenerError, MeshDomain, Registry, TlsFiles};

/// Why the server cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address is taken or not ours.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Bind {
        /// The setting that says so.
        setting: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use data_dir {}: {source}", .path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The policy store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The old gateway's rules cannot be followed.
    #[error("game_gateway: {0}")]
    Gateway(#[from] StartError),
    /// The embedded authority cannot be taken up.
    #[error("mesh.ca: {0}")]
    Ca(#[from] CaError),
    /// Consul cannot be followed.
    #[error("consul: {0}")]
    Consul(#[from] consul::StartError),
    /// `policy.file` cannot be read.
    #[error("cannot read policy.file {}: {source}", .path.display())]
    PolicyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `policy.file` cannot be applied.
    #[error("policy.file {}: {source}", .path.display())]
    Apply {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ApplyError,
    },
    /// The secret of hashed client addresses cannot be used.
    #[error("edge.address_key_file: {0}")]
    AddressKey(#[from] AddressKeyError),
    /// A certificate or token file cannot be used.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// Metrics that clash, or a server that ended by itself.
    #[error("{0}")]
    Internal(String),
}

impl ServeError {
    /// Whether what the operator wrote is at fault.
    #[must_use]
    pub const fn is_invalid_configuration(&self) -> bool {
        matches!(
            self,
            Self::Apply { source: ApplyError::Invalid(_), .. }
                | Self::PolicyFile { .. }
                | Self::AddressKey(_)
                | Self::Listener(ListenerError::Tls(_) | ListenerError::Rules(_) | ListenerError::Tokens(_))
        )
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    raise_file_limit();
    for (setting, problem) in settings.cleartext() {
        tracing::warn!(setting, "{problem}");
    }
    let metrics = prometheus::Registry::new();
    let listener = Listener::open(listener_config(&settings), &metrics)?;
    let xds_listener = bind("xds.listen", settings.xds.listen)?;
    let api_listener = bind("api.listen", settings.api.listen)?;
    let data_dir = settings.data_dir.clone();
    saved::prepare(&data_dir).map_err(|source| ServeError::DataDir { path: data_dir.clone(), source })?;

    let edge = &settings.edge;
    let lifetime = edge.address_key_lifetime.get();
    let keys = AddressKeys::open(edge.address_key_file.as_deref(), &data_dir, lifetime)?;
    let mut tasks = JoinSet::new();
    let endpoint_policy = Arc::new(endpoints::policy(&settings));
    let endpoints = EndpointScreen::new(Arc::clone(&endpoint_policy), &metrics).map_err(internal)?;
    let refused_endpoints = endpoints.refused();
    let policy = policy::start(&settings, endpoint_policy, &metrics, &mut tasks).await?;
    let module = FilterModuleSource::new(module_config(&settings), &metrics).map_err(internal)?;
    let module = Arc::new(module);
    let gateway = start_gateway(&settings, &metrics)?;
    // It follows for as long as it lives.
    let (_consul, consul) = start_consul(&settings, &policy, &metrics)?.unzip();
    let consul_status = consul.as_ref().map(|link| link.status.clone());

    let identities = match settings.mesh.ca {
        MeshCa::None => None,
        MeshCa::Embedded => Some(start_ca(&settings, &policy, &metrics, &mut tasks)?),
        MeshCa::Consul => consul_status.as_ref().map(|consul| consul.identities.clone()),
    };

    let listener = match &identities {
        Some(identities) => {
            let catalog = consul_status.as_ref().map(|consul| consul.catalog.clone());
            listener.in_mesh(follow_mesh(identities.clone(), catalog, &mut tasks))
        }
        None => listener,
    };

    let (edge, edges) = watch::channel(Arc::new(edge_settings(&settings, keys.at(SystemTime::now()))));
    tasks.spawn(keys.rotate(edge));
    let (publish, mesh) = watch::channel(None);
    let sources = Sources {
        policy: policy.subscribe(),
        never_put: policy.never_put().into(),
        gateway: gateway.as_ref().map(|(_, status)| status.clone()),
        consul,
        identities: identities.clone(),
        module: module.subscribe(),
        edge: edges,
        endpoints,
        tracker: Tracker::default(),
        shown: Some(failover::Metrics::register(&metrics).map_err(internal)?),
    };
    let compiler = Arc::new(Compiler::new());
    tasks.spawn(mesh::join(sources, settings.xds.debounce.get(), publish));
    tasks.spawn(Arc::clone(&compiler).run(mesh));
    tasks.spawn({
        let module = Arc::clone(&module);
        async move { module.watch().await }
    });

    let proxies = Arc::new(Registry::new(&metrics).map_err(internal)?);
    let (unready, not_ready) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    let (close, closing) = watch::channel(false);
    let problems = api::problems::Metrics::register(&metrics).map_err(internal)?;
    let api_metrics = api::ListenerMetrics::register(&metrics).map_err(internal)?;
    let context = api::Context {
        problems,
        policy,
        module,
        gateway: gateway.as_ref().map(|(_, status)| status.clone()),
        identities,
        consul: consul_status,
        refused_endpoints,
        compiler: Arc::clone(&compiler),
        proxies: Arc::clone(&proxies),
        metrics,
        reading: Arc::default(),
        hosts: Arc::new(api_hosts(&settings)),
        stopping: not_ready,
    };
    let api = api::Api::new(context, settings.api.max_connections);
    let api = api.serve(api_listener, api_metrics, stopped(closing));
    let server = AdsServer::new(compiler, proxies);
    tasks.spawn(server.clone().cut_stalled());
    let xds = listener.serve(xds_listener, server, stopped(stopping));
    tracing::info!(xds = %settings.xds.listen, api = %settings.api.listen, data_dir = %data_dir.display(), "serving");

    let servers = async {
        let xds = async {
            xds.await;
            // The API says that we are not ready for as long as there are proxies to move on.
            close.send_replace(true);
        };
        tokio::join!(api, xds);
    };
    until_asked_to_stop(servers, &unready, &stop, settings.xds.drain.get()).await;
    if let Some((source, _)) = gateway {
        source.stop().await;
    }
    Ok(())
}

/// Runs the servers until they end, or until we are asked to: that we are not ready is said first, then proxies are moved on.
async fn until_asked_to_stop<T>(
    servers: impl Future<Output = T>,
    unready: &watch::Sender<bool>,
    stop: &watch::Sender<bool>,
    drain: Duration,
) {
    tokio::pin!(servers);
    tokio::select! {
        _ = &mut servers => {}
        () = asked_to_stop() => {
            tracing::info!("stopping");
            unready.send_replace(true);
            let moving_on = async {
                sleep(NOTICE).await;
                stop.send_replace(true);
            };
            // A client that holds a connection open must not hold the process.
            let _ = timeout(NOTICE + drain + xds::LAST_WORD, async { tokio::join!(servers, moving_on) }).await;
        }
    }
}

fn internal(error: impl std::fmt::Display) -> ServeError {
    ServeError::Internal(error.to_string())
}

fn bind(setting: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, ServeError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the connections of the process before to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| ServeError::Bind { setting, address, source })
}

/// How long `/readyz` has said that we stop before the xDS listener does: who looks there first is not refused.
const NOTICE: Duration = Duration::from_millis(250);

/// A whole fleet that comes back at once waits to be accepted; at the usual 128 the system resets the rest.
const BACKLOG: u32 = 4096;

/// Each proxy is a file descriptor, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "cannot raise the limit of open files");
    }
}

/// Starts whoever makes certificates, for the services that the policy of the moment needs them for.
fn start_ca(
    settings: &Settings,
    policy: &PolicySource,
    metrics: &prometheus::Registry,
    tasks: &mut JoinSet<()>,
) -> Result<watch::Receiver<Arc<Identities>>, ServeError> {
    let config = CaConfig {
        trust_domain: settings.mesh.trust_domain.clone(),
        datacenter: settings.mesh.datacenter.clone(),
        leaf_lifetime: settings.mesh.leaf_lifetime.get(),
        root_lifetime: settings.mesh.root_lifetime.get(),
    };
    let ca = EmbeddedCa::open(config, &settings.data_dir, metrics)?;
    let identities = ca.identities();
    let (mut policies, edge_service) = (policy.subscribe(), settings.edge.service.clone());
    let wanted = move |policy: &model::Policy| wanted_leaves(policy, &edge_service);
    let (want, leaves) = watch::channel(wanted(&policies.borrow_and_update().policy));
    tasks.spawn(ca.run(leaves));
    tasks.spawn(async move {
        while policies.changed().await.is_ok() {
            want.send_replace(wanted(&policies.borrow_and_update().policy));
        }
    });
    Ok(identities)
}

/// The mesh that proxies are in, by what its authority says; what datacenter is its own, Consul says beside that.
fn follow_mesh(
    mut identities: watch::Receiver<Arc<Identities>>,
    catalog: Option<watch::Receiver<Arc<Catalog>>>,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<Option<Arc<MeshDomain>>> {
    let mut catalog = catalog.unwrap_or_else(|| watch::channel(Arc::default()).1);
    let domain = |identities: &Identities, catalog: &Catalog| {
        let own = if identities.datacenter.is_empty() { &catalog.local } else { &identities.datacenter };
        let (trust_domain, datacenter) = (identities.trust_domain.clone(), own.clone());
        let is_known = identities.is_known() && !datacenter.is_empty();
        is_known.then(|| Arc::new(MeshDomain { trust_domain, datacenter }))
    };
    let first = domain(&identities.borrow_and_update(), &catalog.borrow_and_update());
    let (mesh, follower) = watch::channel(first);
    tasks.spawn(async move {
        loop {
            tokio::select! {
                Ok(()) = identities.changed() => {}
                Ok(()) = catalog.changed() => {}
                else => return,
            }
            let now = domain(&identities.borrow_and_update(), &catalog.borrow_and_update());
            mesh.send_if_modified(|mesh| {
                let is_other = *mesh != now;
                *mesh = now;
                is_other
            });
        }
    });
    follower
}

fn listener_config(settings: &Settings) -> ListenerConfig {
    let xds = &settings.xds;
    let tls = xds.tls.cert_file.clone().zip(xds.tls.key_file.clone());
    ListenerConfig {
        max_connections: xds.max_connections,
        drain: xds.drain.get(),
        tls: tls.map(|(cert, key)| TlsFiles { cert, key, client_ca: xds.tls.client_ca_file.clone() }),
        rules_file: xds.tls.rules_file.clone(),
        trust_domains: xds.tls.trust_domains().map(str::to_owned).collect(),
        token_file: xds.token_file.clone(),
        edge_service: settings.edge.service.clone(),
        ..ListenerConfig::default()
    }
}

fn module_config(settings: &Settings) -> FilterModuleConfig {
    let delivery = match settings.filter.delivery {
        Delivery::Path => ModuleDelivery::Path,
        Delivery::Http => {
            let advertise = settings.filter.advertise.as_ref().map(ToString::to_string);
            ModuleDelivery::Http(advertise.unwrap_or_else(|| settings.api.listen.to_string()))
        }
    };
    FilterModuleConfig {
        places: filter_module::places_here(&settings.filter.path),
        delivery,
        data_dir: settings.data_dir.clone(),
        look_every: filter_module::LOOK_EVERY,
    }
}

/// Envoys fetch the module under the name that they are told.
fn api_hosts(settings: &Settings) -> api::Hosts {
    let advertised = settings.filter.advertise.iter().map(|at| at.host().to_owned());
    api::Hosts::new(settings.api.listen.ip(), settings.api.hosts.iter().cloned().chain(advertised))
}

fn edge_settings(settings: &Settings, address_key: HashKey) -> EdgeSettings {
    let gateway = &settings.game_gateway;
    let listener = || model::Listener {
        clusters: gateway.clusters,
        proxy_protocol: gateway.proxy_protocol,
        trusted_proxies: gateway.trusted_proxies.0.clone(),
        ..EdgeSettings::gateway_listener(gateway.listen, gateway.limits.clone())
    };
    EdgeSettings {
        service: settings.edge.service.clone(),
        health_listen: settings.edge.health_listen,
        metrics_clients: settings.edge.metrics_clients.0.clone(),
        access_log: settings.edge.access_log.as_ref().map(|path| path.display().to_string()),
        address_key: Some(address_key),
        gateway: gateway.enabled.then(listener),
        gateway_framing: gateway.framing,
    }
}

fn start_gateway(
    settings: &Settings,
    metrics: &prometheus::Registry,
) -> Result<Option<(GatewayRulesSource, GatewayStatus)>, ServeError> {
    let gateway = &settings.game_gateway;
    if !gateway.enabled {
        return Ok(None);
    }
    if gateway.proxy_protocol && gateway.trusted_proxies.0.is_empty() {
        tracing::warn!(
            "game_gateway.proxy_protocol without game_gateway.trusted_proxies: whoever connects there directly can claim any address"
        );
    }
    let tls = &settings.redis.tls;
    let config = GatewayRulesConfig {
        url: settings.redis.url.expose().clone(),
        tls: RedisTlsFiles {
            ca: tls.ca_file.clone(),
            client: tls.cert_file.clone().zip(tls.key_file.clone()),
        },
        key_prefix: settings.game_gateway.key_prefix.clone(),
        refresh_interval: settings.game_gateway.refresh_interval.get(),
        data_dir: settings.data_dir.clone(),
    };
    let source = GatewayRulesSource::start(&config, metrics)?;
    let status = GatewayStatus {
        rules: source.rules(),
        health: source.health(),
        never_there: source.never_there().into(),
        trouble: source.trouble(),
    };
    Ok(Some((source, status)))
}

fn consul_config(settings: &Settings) -> ConsulConfig {
    let consul = &settings.consul;
    ConsulConfig {
        address: consul.address.clone(),
        token_file: consul.token_file.clone(),
        ca_file: consul.ca_file.clone(),
        datacenter: consul.datacenter.clone(),
        data_dir: settings.data_dir.clone(),
    }
}

fn start_consul(
    settings: &Settings,
    policy: &PolicySource,
    metrics: &prometheus::Registry,
) -> Result<Option<(ConsulSource, ConsulLink)>, ServeError> {
    if settings.consul.address.is_empty() {
        return Ok(None);
    }
    let is_authority = settings.mesh.ca == MeshCa::Consul;
    // From the start, since keys are not kept: proxies that have certificates are not served before we have them again.
    let policy = Arc::clone(&policy.subscribe().borrow().policy);
    let leaves = if is_authority { wanted_leaves(&policy, &settings.edge.service) } else { BTreeSet::new() };
    let (wanted, wants) = watch::channel(Wanted { leaves, ..Wanted::default() });
    let source = ConsulSource::start(&consul_config(settings), wants, metrics)?;
    let status = ConsulStatus {
        catalog: source.catalog(),
        intentions: source.intentions(),
        identities: source.identities(),
        health: source.health(),
        waits: source.waits(),
    };
    Ok(Some((source, ConsulLink { status, wanted, is_authority })))
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it everything else.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        tracing::error!("cannot listen for signals");
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            // Others read their settings again, or end with their terminal.
            _ = hangup.recv() => tracing::info!(
                "SIGHUP changes nothing: certificates, tokens and the filter module are read again by themselves, settings at a \
                 restart"
            ),
        }
    }
}
