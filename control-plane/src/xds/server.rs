//! The edge of the server: which gRPC method is which service, and who may open a stream.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::clients::Clients;
use super::csds::{Questions, StatusSession};
use super::end::Fault;
use super::grpc::Messages;
use super::listener::Peer;
use super::message::Variant;
use super::names::NamePool;
use super::session::Session;
use super::{Registry, ResourceType, SnapshotSource};
use crate::telemetry::seldom::Seldom;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a client may leave what it is given, at most. An Envoy that is busy with thousands of clusters takes
/// seconds.
const STALLED: Duration = Duration::from_secs(30);

/// The discovery services, aggregated and of single types, both variants, and the status of clients. Cheap to clone.
#[derive(Clone)]
pub struct AdsServer(Arc<Shared>);

/// What all streams share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn SnapshotSource>,
    pub(super) registry: Arc<Registry>,
    /// How long a client may leave what it is given.
    pub(super) stalled: Duration,
    pub(super) names: Arc<NamePool>,
    /// The scopes of each client.
    pub(super) clients: Clients,
    /// One place: answers of CSDS are made and taken one by one.
    pub(super) answers: Arc<Semaphore>,
    log: Seldom,
}

impl Shared {
    /// Counts what a client did to end its stream and writes about it, but not as often as it can be caused.
    pub(super) fn note(&self, fault: &Fault, address: SocketAddr) {
        let reason = fault.label();
        self.registry.metrics().stream_refused(reason);
        if let Some(left_out) = self.log.now(reason, Instant::now()) {
            tracing::warn!(%address, reason, left_out, "stream ended: {fault}");
        }
    }
}

/// What a gRPC method serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Discovery(Discovery),
    Status(Questions),
}

/// A method of a discovery service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Discovery {
    /// The one type of a service of its own; `None` = all of them, aggregated.
    pub(super) kind: Option<ResourceType>,
    pub(super) variant: Variant,
}

impl Method {
    fn of(path: &str) -> Option<Self> {
        use ResourceType::{Cluster, Endpoints, Extension, Listener, Runtime, Secret};
        let (package, method) = path.strip_prefix("/envoy.service.")?.split_once('/')?;
        let (kind, variant) = match (package, method) {
            ("discovery.v3.AggregatedDiscoveryService", "StreamAggregatedResources") => (None, Variant::Sotw),
            ("discovery.v3.AggregatedDiscoveryService", "DeltaAggregatedResources") => (None, Variant::Delta),
            ("cluster.v3.ClusterDiscoveryService", "StreamClusters") => (Some(Cluster), Variant::Sotw),
            ("cluster.v3.ClusterDiscoveryService", "DeltaClusters") => (Some(Cluster), Variant::Delta),
            ("endpoint.v3.EndpointDiscoveryService", "StreamEndpoints") => (Some(Endpoints), Variant::Sotw),
            ("endpoint.v3.EndpointDiscoveryService", "DeltaEndpoints") => (Some(Endpoints), Variant::Delta),
            ("listener.v3.ListenerDiscoveryService", "StreamListeners") => (Some(Listener), Variant::Sotw),
            ("listener.v3.ListenerDiscoveryService", "DeltaListeners") => (Some(Listener), Variant::Delta),
            ("extension.v3.ExtensionConfigDiscoveryService", "StreamExtensionConfigs") => {
                (Some(Extension), Variant::Sotw)
            }
            ("extension.v3.ExtensionConfigDiscoveryService", "DeltaExtensionConfigs") => {
                (Some(Extension), Variant::Delta)
            }
            ("secret.v3.SecretDiscoveryService", "StreamSecrets") => (Some(Secret), Variant::Sotw),
            ("secret.v3.SecretDiscoveryService", "DeltaSecrets") => (Some(Secret), Variant::Delta),
            ("runtime.v3.RuntimeDiscoveryService", "StreamRuntime") => (Some(Runtime), Variant::Sotw),
            ("runtime.v3.RuntimeDiscoveryService", "DeltaRuntime") => (Some(Runtime), Variant::Delta),
            ("status.v3.ClientStatusDiscoveryService", "StreamClientStatus") => {
                return Some(Self::Status(Questions::Any));
            }
            ("status.v3.ClientStatusDiscoveryService", "FetchClientStatus") => {
                return Some(Self::Status(Questions::One));
            }
            _ => return None,
        };
        Some(Self::Discovery(Discovery { kind, variant }))
    }
}

impl AdsServer {
    /// Serves the snapshots of `source`, and notes in `registry` who has what.
    #[must_use]
    pub fn new(source: Arc<dyn SnapshotSource>, registry: Arc<Registry>) -> Self {
        Self::with_stalled(source, registry, STALLED)
    }

    pub(super) fn with_stalled(
        source: Arc<dyn SnapshotSource>,
        registry: Arc<Registry>,
        stalled: Duration,
    ) -> Self {
        let (names, answers, log) = (Arc::default(), Arc::new(Semaphore::new(1)), Seldom::default());
        let clients = Clients::default();
        Self(Arc::new(Shared { source, registry, stalled, names, clients, answers, log }))
    }

    /// Cuts off, for as long as it is polled, proxies that keep their connection alive and read nothing.
    pub async fn cut_stalled(self) {
        loop {
            tokio::time::sleep(self.0.stalled / 2).await;
            self.0.registry.cut_stalled();
        }
    }

    fn open(&self, request: Request<impl RequestBody>) -> Response<Body> {
        let Some(method) = Method::of(request.uri().path()) else {
            return Status::unimplemented("no such method").into_http();
        };
        let Some(from) = request.extensions().get::<Peer>().cloned() else {
            return Status::internal("not served by the xDS listener").into_http();
        };
        let shared = Arc::clone(&self.0);
        let requests = Messages::new(Body::new(request.into_body()), from.cut.account());
        let body = match method {
            Method::Discovery(discovery) => {
                Body::new(Session::new(shared, discovery, from, requests).into_body())
            }
            Method::Status(questions) => {
                Body::new(StatusSession::new(shared, from, requests, questions).into_body())
            }
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

/// Bodies as HTTP libraries give them.
pub trait RequestBody: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static {}

impl<B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static> RequestBody for B {}

impl<B: RequestBody> Service<Request<B>> for AdsServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.open(request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_path() {
        let discovery = |kind, variant| Some(Method::Discovery(Discovery { kind: Some(kind), variant }));
        let method = Method::of("/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints");
        assert_eq!(method, discovery(ResourceType::Endpoints, Variant::Delta));
        let method = Method::of("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets");
        assert_eq!(method, discovery(ResourceType::Secret, Variant::Sotw));
        let method = Method::of("/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus");
        assert_eq!(method, Some(Method::Status(Questions::One)));
        let method = Method::of("/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime");
        assert_eq!(method, discovery(ResourceType::Runtime, Variant::Delta));
        assert_eq!(Method::of("/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes"), None);
        assert_eq!(Method::of("/"), None);
    }
}
