//! `realmgate serve`: binds, starts the sources, and wires them to the servers in the order of the data.

use std::future::IntoFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryFutureExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api;
use crate::compile::Compiler;
use crate::mesh::{self, EdgeSettings, GatewayStatus, Mesh, ModuleLocation, Sources};
use crate::settings::{Delivery, Settings};
use crate::source::filter_module::FilterModuleSource;
use crate::source::gateway_rules::{GatewayRulesConfig, GatewayRulesSource, StartError};
use crate::source::policy::{ApplyError, PolicySource, Unreadable};
use crate::source::policy_store::{NewPolicy, PolicyStore, Precondition, StoreError};
use crate::xds::{self, AdsServer, Registry};

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
    /// The stored policy cannot be read.
    #[error(transparent)]
    Policy(#[from] Unreadable),
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
    /// Metrics that clash, or a server that ended by itself.
    #[error("{0}")]
    Internal(String),
}

impl ServeError {
    /// Whether what the operator wrote is at fault.
    #[must_use]
    pub const fn is_invalid_configuration(&self) -> bool {
        matches!(self, Self::Apply { source: ApplyError::Invalid(_), .. } | Self::PolicyFile { .. })
    }
}

/// Runs until SIGTERM or SIGINT.
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    let xds_listener = bind("xds.listen", settings.xds.listen).await?;
    let api_listener = bind("api.listen", settings.api.listen).await?;
    let data_dir = settings.data_dir.clone();
    std::fs::create_dir_all(&data_dir)
        .map_err(|source| ServeError::DataDir { path: data_dir.clone(), source })?;

    let policy = Arc::new(PolicySource::new(PolicyStore::open(&data_dir).await?)?);
    if let Some(path) = &settings.policy.file {
        import(&policy, path).await?;
    }
    let metrics = prometheus::Registry::new();
    let module = Arc::new(FilterModuleSource::new(settings.filter.path.clone(), module_location(&settings)));
    let gateway = start_gateway(&settings, &metrics)?;

    let (publish, mesh) = watch::channel(None);
    let sources = Sources {
        policy: policy.subscribe(),
        gateway: gateway.as_ref().map(|(_, status)| status.clone()),
        module: module.subscribe(),
        edge: Arc::new(edge_settings(&settings)),
    };
    let compiler = Arc::new(Compiler::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(mesh::join(sources, publish));
    tasks.spawn(follow(mesh, Arc::clone(&compiler)));
    tasks.spawn({
        let module = Arc::clone(&module);
        async move { module.watch().await }
    });

    let proxies = Arc::new(Registry::new(&metrics).map_err(internal)?);
    let (stop, stopping) = watch::channel(false);
    let context = api::Context {
        policy,
        module,
        gateway: gateway.as_ref().map(|(_, status)| status.clone()),
        compiler: Arc::clone(&compiler),
        proxies: Arc::clone(&proxies),
        metrics,
        stopping: stopping.clone(),
    };
    let api = axum::serve(api_listener, api::router(context))
        .with_graceful_shutdown(stopped(stopping.clone()))
        .into_future()
        .map_err(internal);
    let xds =
        xds::serve(xds_listener, AdsServer::new(compiler, proxies), stopped(stopping)).map_err(internal);
    tracing::info!(xds = %settings.xds.listen, api = %settings.api.listen, data_dir = %data_dir.display(), "serving");

    let servers = async { tokio::try_join!(api, xds) };
    tokio::pin!(servers);
    let result = tokio::select! {
        result = &mut servers => result,
        () = asked_to_stop() => {
            tracing::info!("stopping");
            stop.send_replace(true);
            // A client that holds a connection open must not hold the process.
            timeout(LONGEST_STOP, servers).await.unwrap_or(Ok(((), ())))
        }
    };
    if let Some((source, _)) = gateway {
        source.stop().await;
    }
    result.map(|_| ())
}

/// How long open requests may take once the process is asked to end.
const LONGEST_STOP: Duration = Duration::from_secs(5);

fn internal(error: impl std::fmt::Display) -> ServeError {
    ServeError::Internal(error.to_string())
}

async fn bind(setting: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { setting, address, source })
}

/// How versions that came from `policy.file` are signed.
const FILE_AUTHOR: &str = "policy.file";

/// Puts `policy.file` in force if it says something new: a restart with an unchanged file must not undo
/// what was applied through the API since.
async fn import(policy: &PolicySource, path: &Path) -> Result<(), ServeError> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| ServeError::PolicyFile { path: path.to_owned(), source })?;
    if policy.is_latest_of(FILE_AUTHOR, &text).await? {
        tracing::info!(file = %path.display(), "policy file has not changed since it was applied");
        return Ok(());
    }
    let new = NewPolicy { text, author: FILE_AUTHOR.to_owned(), message: path.display().to_string() };
    let applied = policy
        .apply(new, Precondition::Any)
        .await
        .map_err(|source| ServeError::Apply { path: path.to_owned(), source })?;
    let version = applied.current.stored.as_ref().map_or(0, |s| s.info.version);
    tracing::info!(file = %path.display(), version, changed = applied.changed, "policy file applied");
    Ok(())
}

fn module_location(settings: &Settings) -> ModuleLocation {
    match settings.filter.delivery {
        Delivery::Path => ModuleLocation::Path(settings.filter.path.display().to_string()),
        Delivery::Http => {
            let advertise = settings.filter.advertise.as_ref().map(ToString::to_string);
            ModuleLocation::Http(advertise.unwrap_or_else(|| settings.api.listen.to_string()))
        }
    }
}

fn edge_settings(settings: &Settings) -> EdgeSettings {
    let gateway = &settings.game_gateway;
    EdgeSettings {
        health_listen: settings.edge.health_listen,
        gateway: gateway
            .enabled
            .then(|| EdgeSettings::gateway_listener(gateway.listen, gateway.limits.clone())),
        gateway_framing: gateway.framing,
    }
}

fn start_gateway(
    settings: &Settings,
    metrics: &prometheus::Registry,
) -> Result<Option<(GatewayRulesSource, GatewayStatus)>, ServeError> {
    if !settings.game_gateway.enabled {
        return Ok(None);
    }
    let config = GatewayRulesConfig {
        url: settings.redis.url.expose().to_owned(),
        key_prefix: settings.game_gateway.key_prefix.clone(),
        refresh_interval: settings.game_gateway.refresh_interval.get(),
        data_dir: settings.data_dir.clone(),
    };
    let source = GatewayRulesSource::start(config, metrics)?;
    let status = GatewayStatus { rules: source.rules(), health: source.health() };
    Ok(Some((source, status)))
}

/// Compiles every new mesh.
async fn follow(mut mesh: watch::Receiver<Option<Arc<Mesh>>>, compiler: Arc<Compiler>) {
    while mesh.changed().await.is_ok() {
        let latest = mesh.borrow_and_update().clone();
        if let Some(latest) = latest {
            // Milliseconds of work for the largest policies: off the threads that serve streams.
            let compiler = Arc::clone(&compiler);
            let _ = tokio::task::spawn_blocking(move || compiler.update(latest)).await;
        }
    }
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it everything else.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen for signals");
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
}
