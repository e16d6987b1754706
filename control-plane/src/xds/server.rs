//! The edge of the server: which gRPC method is which service, and who may open a stream.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use super::csds::ClientStatus;
use super::grpc::Messages;
use super::listener::Peer;
use super::message::Variant;
use super::names::NamePool;
use super::session::Session;
use super::{Registry, ResourceType, SnapshotSource};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a proxy may leave what it is given, at most. An Envoy that is busy with thousands of clusters takes
/// seconds.
const STALLED: Duration = Duration::from_secs(30);

/// The discovery services: aggregated and of single types, both variants. Cheap to clone.
#[derive(Clone)]
pub struct AdsServer(Arc<Shared>);

/// What all streams share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn SnapshotSource>,
    pub(super) registry: Arc<Registry>,
    pub(super) names: Arc<NamePool>,
}

/// What a gRPC method serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Method {
    /// The one type of a service of its own; `None` = all of them, aggregated.
    pub(super) kind: Option<ResourceType>,
    pub(super) variant: Variant,
}

impl Method {
    fn of(path: &str) -> Option<Self> {
        use ResourceType::{Cluster, Endpoints, Extension, Listener, Secret};
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
            _ => return None,
        };
        Some(Self { kind, variant })
    }
}

impl AdsServer {
    /// Serves the snapshots of `source`, and notes in `registry` who has what.
    #[must_use]
    pub fn new(source: Arc<dyn SnapshotSource>, registry: Arc<Registry>) -> Self {
        Self(Arc::new(Shared { source, registry, names: Arc::default() }))
    }

    /// Cuts off, for as long as it is polled, proxies that keep their connection alive and read nothing.
    pub async fn cut_stalled(self) {
        loop {
            tokio::time::sleep(STALLED / 2).await;
            self.0.registry.cut_stalled();
        }
    }

    /// All services of the xDS listener: discovery, and the status of clients.
    #[must_use]
    pub fn into_routes(self) -> Routes {
        let status = ClientStatus::service(Arc::clone(&self.0.registry));
        Routes::new(status).into_axum_router().fallback_service(self).into()
    }

    fn open(&self, request: Request<impl RequestBody>) -> Response<Body> {
        let Some(method) = Method::of(request.uri().path()) else {
            return Status::unimplemented("no such method").into_http();
        };
        let Some(from) = request.extensions().get::<Peer>().cloned() else {
            return Status::internal("not served by the xDS listener").into_http();
        };
        let requests = Messages::new(Body::new(request.into_body()));
        let session = Session::new(Arc::clone(&self.0), method, from, requests);
        let mut response = Response::new(Body::new(session.into_body()));
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
        let method = Method::of("/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints");
        assert_eq!(method, Some(Method { kind: Some(ResourceType::Endpoints), variant: Variant::Delta }));
        let method = Method::of("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets");
        assert_eq!(method, Some(Method { kind: Some(ResourceType::Secret), variant: Variant::Sotw }));
        assert_eq!(Method::of("/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes"), None);
        assert_eq!(Method::of("/"), None);
    }
}
