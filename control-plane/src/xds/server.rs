//! The edge of the server: gRPC streams, the clock and the snapshots around the pure [`Stream`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::message::{Response, Variant};
use super::node::{NodeError, user_agent};
use super::status::{Connection, Peer};
use super::stream::{Stream, StreamError};
use super::wire::{Delta, StateOfTheWorld, Wire};
use super::{Registry, ResourceType, Scope, Snapshot, SnapshotSource, listener};

/// Largest request: a reconnect names all it has, 30,000 names and versions are about 2 MB.
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Largest response: 2,000 clusters are about 2 MB. Beyond this a stream fails rather than the process.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Responses that may wait for the network. More would only be outdated when they leave.
const OUTGOING: usize = 1;
/// How long a proxy may take to make room for the reason why its stream ends.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Envoy sends its node in the first packet; who opens a stream and says nothing is no proxy.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// The aggregated discovery service, both variants. Cheap to clone.
#[derive(Clone)]
pub struct AdsServer {
    source: Arc<dyn SnapshotSource>,
    registry: Arc<Registry>,
}

impl AdsServer {
    /// Serves the snapshots of `source`, and notes in `registry` who has what.
    #[must_use]
    pub fn new(source: Arc<dyn SnapshotSource>, registry: Arc<Registry>) -> Self {
        Self { source, registry }
    }

    /// The service to mount in a tonic server, with its message limits.
    #[must_use]
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_RESPONSE_BYTES)
    }

    fn open<W: Wire>(&self, request: GrpcRequest<Streaming<W::Request>>) -> Responses<W::Response> {
        let from = request.extensions().get::<listener::Peer>().cloned();
        let (outgoing, responses) = mpsc::channel(OUTGOING);
        let server = self.clone();
        tokio::spawn(async move {
            let end = server.run::<W>(request.into_inner(), from, &outgoing).await;
            if let Err(status) = end {
                // The proxy may be gone already, or never read again.
                let _ = tokio::time::timeout(LAST_WORD, outgoing.send(Err(status))).await;
            }
        });
        Box::pin(ReceiverStream::new(responses))
    }

    async fn run<W: Wire>(
        &self,
        mut requests: Streaming<W::Request>,
        from: Option<listener::Peer>,
        outgoing: &mpsc::Sender<Result<W::Response, Status>>,
    ) -> Result<(), Status> {
        let Some(mut from) = from else { return Err(Status::internal("not served by the xDS listener")) };
        let first = tokio::select! {
            first = tokio::time::timeout(FIRST_REQUEST, requests.message()) => first,
            () = from.turn.come() => return Err(stopping()),
        };
        let first = first.map_err(|_| Status::deadline_exceeded("no request within 10 s"))?;
        let Some(mut first) = first? else { return Ok(()) };
        let peer = peer::<W>(&mut first, from.address).map_err(|error| {
            self.registry.metrics().stream_refused(error.label());
            Status::invalid_argument(error.to_string())
        })?;
        from.may_be(&peer.scope).map_err(|mismatch| {
            self.registry.metrics().stream_refused("identity");
            Status::permission_denied(mismatch.to_string())
        })?;
        let mut snapshots = self.source.subscribe(&peer.scope);
        let now = Instant::now();
        let wanted = Arc::clone(&snapshots.borrow_and_update());
        let node = peer.id.clone();
        let mut session = Serving::<W> {
            registry: &self.registry,
            connection: Connection::open(&self.registry, peer, now),
            stream: Stream::new(W::VARIANT, wanted, now),
            outgoing,
            warned: false,
        };
        session.connection.wanted(&session.stream, now);
        tracing::info!(
            node,
            stream = session.connection.stream(),
            address = %from.address,
            "proxy connected"
        );
        let end = session.serve(first, requests, &mut snapshots, &mut from.turn).await;
        // A proxy that is stopped breaks its stream off: the library's account of it is for debugging only.
        tracing::debug!(node, ?end, "stream ended");
        tracing::info!(node, stream = session.connection.stream(), "proxy disconnected");
        end
    }
}

/// One stream while it is served.
struct Serving<'a, W: Wire> {
    registry: &'a Registry,
    connection: Connection<'a>,
    stream: Stream,
    outgoing: &'a mpsc::Sender<Result<W::Response, Status>>,
    /// Whether the log has said that the proxy asks for a type we do not serve.
    warned: bool,
}

/// What wakes a stream up.
enum Event<R> {
    Request(R),
    Snapshot,
    SourceGone,
    Tick,
}

impl<W: Wire> Serving<'_, W> {
    async fn serve(
        &mut self,
        first: W::Request,
        mut requests: Streaming<W::Request>,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        turn: &mut listener::Turn,
    ) -> Result<(), Status> {
        let mut event = Event::Request(first);
        let mut source_lives = true;
        loop {
            let responses = match event {
                Event::Request(request) => self.on_request(request)?,
                Event::Snapshot => {
                    let wanted = Arc::clone(&snapshots.borrow_and_update());
                    self.on_snapshot(wanted)
                }
                Event::SourceGone => {
                    source_lives = false;
                    Vec::new()
                }
                Event::Tick => self.stream.tick(Instant::now()),
            };
            self.connection.update(&self.stream, Instant::now());
            tokio::select! {
                sent = self.send(responses) => if !sent { return Ok(()) },
                () = turn.come() => return Err(stopping()),
            }
            let deadline = self.stream.deadline(Instant::now());
            event = tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => Event::Request(request),
                    None => return Ok(()),
                },
                changed = snapshots.changed(), if source_lives => match changed {
                    Ok(()) => Event::Snapshot,
                    Err(_) => Event::SourceGone,
                },
                () = sleep_until(deadline) => Event::Tick,
                () = turn.come() => return Err(stopping()),
            };
        }
    }

    fn on_request(&mut self, request: W::Request) -> Result<Vec<Response>, Status> {
        let Some(kind) = ResourceType::from_url(W::type_url(&request)) else {
            self.registry.metrics().unknown_type();
            if !std::mem::replace(&mut self.warned, true) {
                let kind: String = W::type_url(&request).chars().take(256).collect();
                tracing::warn!(stream = self.connection.stream(), kind, "request for a type not served");
            }
            return Ok(Vec::new());
        };
        let taken = self.stream.on_request(W::request(request, kind), Instant::now(), SystemTime::now());
        let (responses, refused) = taken.map_err(|error| {
            self.registry.metrics().stream_refused(match error {
                StreamError::TooManyNames => "too_many_names",
                StreamError::NameTooLong => "name_too_long",
            });
            Status::resource_exhausted(error.to_string())
        })?;
        if refused {
            self.registry.metrics().rejected(kind);
            if let Some(nack) = &self.stream.of(kind).nack {
                let (stream, kind) = (self.connection.stream(), kind.label());
                tracing::warn!(stream, kind, version = nack.version, message = nack.message, "proxy refuses");
            }
        }
        Ok(responses)
    }

    fn on_snapshot(&mut self, wanted: Arc<Snapshot>) -> Vec<Response> {
        let now = Instant::now();
        let responses = self.stream.on_snapshot(wanted, now);
        self.connection.wanted(&self.stream, now);
        responses
    }

    /// Waits while the proxy is slow; meanwhile the stream reads nothing and skips snapshots, so that a slow
    /// proxy delays only itself. False when it is gone.
    async fn send(&self, responses: Vec<Response>) -> bool {
        for response in responses {
            self.registry.metrics().pushed(response.kind, response.size());
            if self.outgoing.send(Ok(W::response(response))).await.is_err() {
                return false;
            }
        }
        true
    }
}

fn peer<W: Wire>(first: &mut W::Request, address: SocketAddr) -> Result<Peer, NodeError> {
    let node: Node = W::node(first).ok_or(NodeError::Missing)?;
    let scope = Scope::from_node(&node)?;
    let user_agent = user_agent(&node);
    let variant = match W::VARIANT {
        Variant::Sotw => "sotw",
        Variant::Delta => "delta",
    };
    Ok(Peer { id: node.id, scope, address: Some(address), user_agent, variant })
}

fn stopping() -> Status {
    Status::unavailable("the control plane is shutting down")
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

type Responses<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsServer {
    type StreamAggregatedResourcesStream = Responses<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<pb::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: GrpcRequest<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<GrpcResponse<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(GrpcResponse::new(self.open::<StateOfTheWorld>(request)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: GrpcRequest<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<GrpcResponse<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(GrpcResponse::new(self.open::<Delta>(request)))
    }
}
