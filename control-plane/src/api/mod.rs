//! The management API: policy in, status out. It writes to the policy source and reads everything else.

mod applied;
mod body;
mod conditions;
mod error;
mod explain;
mod grpc;
mod guard;
mod health;
mod listener;
mod module;
mod policy;
pub mod problems;
mod proxies;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use self::error::ApiError;
use crate::compile::Compiler;
use crate::mesh::{ConsulStatus, GatewayStatus, Identities, RefusedEndpoints};
use crate::model;
use crate::source::filter_module::FilterModuleSource;
use crate::source::policy::PolicySource;
use crate::work::Work;
use crate::xds::{Registry, Scope};

pub use guard::Hosts;
pub use listener::ListenerMetrics;

/// What the handlers work with.
#[derive(Clone)]
pub struct Context {
    /// The policy, to read and to write.
    pub policy: Arc<PolicySource>,
    /// The filter module.
    pub module: Arc<FilterModuleSource>,
    /// The old gateway's rules; `None` where that source is off.
    pub gateway: Option<GatewayStatus>,
    /// The certificates of the mesh; `None` where nobody makes any.
    pub identities: Option<watch::Receiver<Arc<Identities>>>,
    /// What Consul tells; `None` where that source is off.
    pub consul: Option<ConsulStatus>,
    /// The endpoints that sources name and that are left out.
    pub refused_endpoints: watch::Receiver<Arc<RefusedEndpoints>>,
    /// The joined picture, once every source has been heard, and the snapshots made of it.
    pub compiler: Arc<Compiler>,
    /// The connected proxies.
    pub proxies: Arc<Registry>,
    /// All metrics.
    pub metrics: prometheus::Registry,
    /// Those of what is wrong with proxies.
    pub problems: problems::Metrics,
    /// Where long answers are made.
    pub(crate) reading: Arc<Work>,
    /// What the API is called.
    pub hosts: Arc<Hosts>,
    /// Becomes true when the process is asked to end: readiness goes first.
    pub stopping: watch::Receiver<bool>,
}

impl Context {
    /// An answer in JSON of megabytes, which takes a while to write: off the threads that serve.
    async fn written(
        &self,
        write: impl FnOnce() -> serde_json::Result<Vec<u8>> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let written =
            self.reading.run(move |_| write()).await?.map_err(|error| ApiError::internal(&error))?;
        Ok(([(CONTENT_TYPE, "application/json")], written).into_response())
    }

    /// Whether any listener of an edge of this scope has a route; nobody is said to have none before all is known.
    fn has_routes(&self) -> impl Fn(&Scope) -> bool {
        let mesh = self.compiler.compiled().borrow().clone();
        move |scope| mesh.as_ref().is_none_or(|mesh| mesh.has_routes(&scope.listeners))
    }
}

/// The API, to be served.
#[derive(Clone, Debug)]
pub struct Api {
    router: Router,
    hosts: Arc<Hosts>,
    max_connections: u32,
}

impl Api {
    /// One that takes so many connections.
    #[must_use]
    pub fn new(context: Context, max_connections: u32) -> Self {
        Self { hosts: Arc::clone(&context.hosts), router: router(context), max_connections }
    }
}

/// All routes of the API. What the guard refuses does not come here.
fn router(context: Context) -> Router {
    let grpc = grpc::service(context.clone());
    Router::new()
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/v1/policy", get(policy::show).put(policy::put))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/proxies", get(proxies::list))
        .route("/v1/filter/{file}", get(module::download))
        .route_service(&format!("/{}/{{method}}", grpc::NAME), grpc)
        .fallback(error::not_found)
        .layer(DefaultBodyLimit::max(model::MAX_BYTES))
        .with_state(context)
}
