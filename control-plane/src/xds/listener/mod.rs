//! The listener of the xDS server: takes connections in, knows who they come from, and lets them go.
//!
//! ```text
//!  accept ─► (TLS) ─► HTTP/2 ─► credentials ─► xDS service, with `Peer` in the request's extensions
//!    │         ▲                    ▲
//!  bound     files ── reload ── token file            drain: each connection's moment to go
//! ```
//! It is our own, since what tonic brings cannot bound connections, replace certificates, or move proxies on one
//! by one.

mod accept;
mod access;
mod connection;
mod drain;
mod identity;
mod metrics;
mod peer;
mod reload;
mod tls;
mod tokens;

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::rustls::ServerConfig;
use tonic::codegen::{Service, StdError};

use access::Access;
use connection::Shared;
pub(crate) use drain::LAST_WORD;
pub(super) use identity::Mismatch;
pub(super) use peer::{Cut, Peer};
use reload::{Files, Following, LoadError};
use tokens::Tokens;

use crate::telemetry::seldom::Seldom;
use crate::xds::budget::Room;

/// What the listener asks of those who connect, and how many it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Most connections at a time; further ones are closed.
    pub max_connections: u32,
    /// Longest time over which connections are told to go when the process ends.
    pub drain: Duration,
    /// Longest time from a connection to the first stream that is let in.
    pub admission: Duration,
    /// Longest quiet of a connection before its other end is asked for a sign of life, for which it has a third of this.
    pub keepalive: Duration,
    /// The certificate it shows; without, it speaks plain HTTP/2.
    pub tls: Option<TlsFiles>,
    /// Tokens that proxies may show, one a line.
    pub token_file: Option<PathBuf>,
    /// The service in the certificate of an edge whose node claims none.
    pub edge_service: String,
}

/// PEM files. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities whose client certificates are good; without, clients need none.
    pub client_ca: Option<PathBuf>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            // Twice the fleet we are made for: a fleet that reconnects is there twice for a while.
            max_connections: 20_000,
            drain: Duration::from_secs(2),
            // A proxy opens its stream with the connection's first bytes; who takes longer only holds a place.
            admission: Duration::from_secs(10),
            // A stream that is silent for hours is normal, so a vanished host shows only by pings: it is noticed within
            // 40 s, and the load balancers between (AWS 350 s, Azure 240 s) never see an idle connection.
            keepalive: Duration::from_secs(30),
            tls: None,
            token_file: None,
            edge_service: "realmgate-edge".to_owned(),
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The certificate, key or authorities cannot be used.
    #[error("xds.tls: {0}")]
    Tls(String),
    /// The tokens cannot be used.
    #[error("xds.token_file: {0}")]
    Tokens(String),
    /// Metrics that clash.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// A listener that is ready to serve.
pub struct Listener {
    max_connections: u32,
    drain: Duration,
    tls: Option<Following<ServerConfig>>,
    tokens: Option<Following<Tokens>>,
    shared: Arc<Shared>,
}

impl Listener {
    /// Reads the files that `config` names; its metrics go to `metrics`.
    pub fn open(config: ListenerConfig, metrics: &prometheus::Registry) -> Result<Self, ListenerError> {
        let metrics = metrics::ListenerMetrics::new(metrics)?;
        let certificates = config.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
        let tls =
            config.tls.map(|files| Files::new([files.cert, files.key].into_iter().chain(files.client_ca)));
        let tls = tls.map(|files| Following::open(files, tls::server_config)).transpose();
        let tls = tls.map_err(|error| ListenerError::Tls(error.to_string()))?;
        let tokens = config.token_file.map(|file| Following::open(Files::new([file]), tokens::from_file));
        let tokens = tokens.transpose().map_err(|error| ListenerError::Tokens(error.to_string()))?;
        let access = Access {
            certificates,
            tokens: tokens.as_ref().map(Following::value),
            edge_service: config.edge_service.into(),
        };
        let shared = Shared {
            tls: tls.as_ref().map(Following::value),
            access,
            metrics,
            log: Seldom::default(),
            room: Room::default(),
            admission: config.admission,
            http: connection::http(config.keepalive),
        };
        let (max_connections, drain) = (config.max_connections, config.drain);
        Ok(Self { max_connections, drain, tls, tokens, shared: Arc::new(shared) })
    }

    /// Serves `service` on `listener` until `shutdown` completes. Then nobody is let in any more, and each
    /// connection is told to go at its own moment within [`ListenerConfig::drain`]; returns when all are gone,
    /// or 3 s after the last was told.
    pub async fn serve<S, B>(self, listener: TcpListener, service: S, shutdown: impl Future<Output = ()>)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body + Default + Send + 'static,
        B::Data: Send,
        B::Error: Into<StdError>,
    {
        let Self { max_connections, drain, tls, tokens, shared } = self;
        let mut following = JoinSet::new();
        if let Some(tls) = tls {
            let shared = Arc::clone(&shared);
            following.spawn(tls.follow(move |outcome| {
                shared.metrics.tls_reload(told("certificates of the xDS listener", outcome));
            }));
        }
        if let Some(tokens) = tokens {
            let shared = Arc::clone(&shared);
            following.spawn(tokens.follow(move |outcome| {
                shared.metrics.token_reload(told("tokens of the xDS listener", outcome));
            }));
        }
        accept::run(listener, service, shared, accept::Bounds { max_connections, drain }, shutdown).await;
    }
}

/// Writes what became of changed files, and returns it as a metric's label.
fn told(what: &str, outcome: Result<(), LoadError>) -> &'static str {
    match outcome {
        Ok(()) => {
            tracing::info!("{what} replaced");
            "ok"
        }
        Err(error) => {
            tracing::error!(%error, "{what} have changed and cannot be used; the last good ones stay");
            "failed"
        }
    }
}
