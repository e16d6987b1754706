//! The listener of the xDS server: takes connections in, knows who they come from, and lets them go.
//!
//! ```text
//!  accept ─► (TLS) ─► HTTP/2 ─► credentials ─► xDS service, with `Peer` in the request's extensions
//!    │         ▲                    ▲                        │
//!  bound     files ── reload ── tokens, rules       asked again at every push, and when something changes
//! ```
//! It is our own, since what tonic brings cannot bound connections, replace certificates, or move proxies on one
//! by one.

mod accept;
mod access;
mod binding;
mod connection;
mod credential;
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
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codegen::{Service, StdError};

use access::Access;
pub use access::MeshDomain;
pub(super) use access::Refusal;
use connection::Shared;
pub(crate) use drain::LAST_WORD;
pub(crate) use identity::is_trust_domain;
pub(super) use peer::{Cut, Peer};
use reload::{Files, Following, LoadError};
use tls::Tls;
pub(crate) use tokens::line as token_line;
use tokens::{Rules, Tokens};

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
    /// What certificates are good for other than by their id, one a line.
    pub rules_file: Option<PathBuf>,
    /// The trust domains of certificates; none = the mesh's own.
    pub trust_domains: Vec<String>,
    /// Tokens that proxies may show, one a line, with what they are good for.
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
            rules_file: None,
            trust_domains: Vec::new(),
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
    /// The rules cannot be used.
    #[error("xds.tls.rules_file: {0}")]
    Rules(String),
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
    tls: Option<Following<Tls>>,
    rules: Option<Following<Rules>>,
    tokens: Option<Following<Tokens>>,
    mesh: Option<watch::Receiver<Option<Arc<MeshDomain>>>>,
    shared: Arc<Shared>,
}

impl Listener {
    /// Reads the files that `config` names; its metrics go to `metrics`.
    pub fn open(config: ListenerConfig, metrics: &prometheus::Registry) -> Result<Self, ListenerError> {
        let metrics = metrics::ListenerMetrics::new(metrics)?;
        let certificates = config.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
        let tls =
            config.tls.map(|files| Files::new([files.cert, files.key].into_iter().chain(files.client_ca)));
        let tls = tls.map(|files| Following::open(files, tls::read)).transpose();
        let tls = tls.map_err(|error| ListenerError::Tls(error.to_string()))?;
        let edge_service = config.edge_service.clone();
        let read_rules = move |contents: &[Vec<u8>]| tokens::rules(contents, &edge_service);
        let rules = config.rules_file.map(|file| Following::open(Files::new([file]), read_rules));
        let rules = rules.transpose().map_err(|error| ListenerError::Rules(error.to_string()))?;
        let tokens = config.token_file.map(|file| Following::open(Files::new([file]), tokens::tokens));
        let tokens = tokens.transpose().map_err(|error| ListenerError::Tokens(error.to_string()))?;
        if let Some(rules) = &rules {
            warn_of_fleet("xds.tls.rules_file has a certificate", rules.value().current().fleet());
        }
        if let Some(tokens) = &tokens {
            warn_of_fleet("xds.token_file has a token", tokens.value().current().fleet());
        }
        let access = Access {
            certificates: tls.as_ref().filter(|_| certificates).map(Following::value),
            rules: rules.as_ref().map(Following::value),
            tokens: tokens.as_ref().map(Following::value),
            trust_domains: config.trust_domains.into(),
            mesh: watch::Sender::new(None),
            edge_service: config.edge_service.into(),
            changes: watch::Sender::new(()),
        };
        let shared = Shared {
            tls: tls.as_ref().map(Following::value),
            access: Arc::new(access),
            metrics,
            log: Seldom::default(),
            room: Room::default(),
            admission: config.admission,
            http: connection::http(config.keepalive),
        };
        let (max_connections, drain) = (config.max_connections, config.drain);
        Ok(Self { max_connections, drain, tls, rules, tokens, mesh: None, shared: Arc::new(shared) })
    }

    /// With the mesh whose certificates the proxies get: none until it is known.
    #[must_use]
    pub fn in_mesh(self, mesh: watch::Receiver<Option<Arc<MeshDomain>>>) -> Self {
        Self { mesh: Some(mesh), ..self }
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
        let Self { max_connections, drain, tls, rules, tokens, mesh, shared } = self;
        let mut following = JoinSet::new();
        if let Some(tls) = tls {
            let shared = Arc::clone(&shared);
            following.spawn(tls.follow(move |outcome| {
                shared.metrics.tls_reload(shared.told("certificates of the xDS listener", outcome));
            }));
        }
        if let Some(rules) = rules {
            let shared = Arc::clone(&shared);
            let value = rules.value();
            following.spawn(rules.follow(move |outcome| {
                if outcome.is_ok() {
                    warn_of_fleet("xds.tls.rules_file has a certificate", value.current().fleet());
                }
                shared.metrics.tls_reload(shared.told("rules for certificates of the xDS listener", outcome));
            }));
        }
        if let Some(tokens) = tokens {
            let shared = Arc::clone(&shared);
            let value = tokens.value();
            following.spawn(tokens.follow(move |outcome| {
                if outcome.is_ok() {
                    warn_of_fleet("xds.token_file has a token", value.current().fleet());
                }
                shared.metrics.token_reload(shared.told("tokens of the xDS listener", outcome));
            }));
        }
        if let Some(mut mesh) = mesh {
            let access = Arc::clone(&shared.access);
            access.set_mesh(mesh.borrow_and_update().clone());
            following.spawn(async move {
                while mesh.changed().await.is_ok() {
                    access.set_mesh(mesh.borrow_and_update().clone());
                }
            });
        }
        accept::run(listener, service, shared, accept::Bounds { max_connections, drain }, shutdown).await;
    }
}

impl Shared {
    /// Has everybody asked again by changed files, or writes why not; returns it as a metric's label.
    fn told(&self, what: &str, outcome: Result<(), LoadError>) -> &'static str {
        match outcome {
            Ok(()) => {
                self.access.changes.send_replace(());
                tracing::info!("{what} replaced");
                "ok"
            }
            Err(error) => {
                tracing::error!(%error, "{what} have changed and cannot be used; the last good ones stay");
                "failed"
            }
        }
    }
}

/// A credential of the whole fleet is a choice, which nobody should have made without knowing.
fn warn_of_fleet(what: &str, lines: &[usize]) {
    for line in lines {
        tracing::warn!(
            line,
            "{what} that is good for every service: whoever has it can be any proxy, and gets any \
             service's key; give each service one of its own (role=sidecar service=NAME)"
        );
    }
}
