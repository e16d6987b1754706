//! A tap on the wire between a proxy and its control plane: passes aggregated streams on unchanged, and keeps what
//! both said, in the order in which they said it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Client;
use pb::aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::Failure;
use crate::conformance::Kind;

/// Largest message passed on.
const MAX_BYTES: usize = 64 << 20;

/// One message.
#[derive(Clone, Debug)]
pub struct Said {
    /// Which stream, counted from 1.
    pub stream: usize,
    /// When it passed.
    pub at: Instant,
    /// Whether the proxy said it.
    pub by_proxy: bool,
    /// The type that it is about.
    pub kind: Kind,
    /// The response's own nonce, or that which a request answers.
    pub nonce: String,
    /// Of state of the world.
    pub version: String,
    /// What a response brings; what a request asks for.
    pub names: Vec<String>,
    /// What a response takes away; what a request does not ask for any more.
    pub removed: Vec<String>,
    /// What the proxy says it has from an earlier stream.
    pub has: BTreeMap<String, String>,
    /// Why a response is refused.
    pub error: Option<String>,
}

impl Said {
    /// Whether it accepts the response of this nonce.
    #[must_use]
    pub fn accepts(&self, response: &Self) -> bool {
        self.answers(response) && self.error.is_none()
    }

    /// Whether it accepts or refuses this response.
    #[must_use]
    pub fn answers(&self, response: &Self) -> bool {
        self.by_proxy
            && !response.by_proxy
            && (self.stream, self.kind, &self.nonce) == (response.stream, response.kind, &response.nonce)
    }
}

/// On one line, as `eds a b -c` for a response and `ACK eds 3` for its acknowledgement.
impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, self.by_proxy, self.nonce.as_str()) {
            (Some(error), ..) => write!(f, "NACK {} {} ({error})", self.kind, self.nonce)?,
            (None, true, "") => write!(f, "ask {}", self.kind)?,
            (None, true, nonce) => write!(f, "ACK {} {nonce}", self.kind)?,
            (None, false, _) => write!(f, "{}", self.kind)?,
        }
        self.names.iter().try_for_each(|name| write!(f, " {name}"))?;
        self.removed.iter().try_for_each(|name| write!(f, " -{name}"))
    }
}

/// A running tap.
#[derive(Debug)]
pub struct Tap {
    record: Arc<Record>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Record {
    said: Mutex<Vec<Said>>,
    streams: AtomicUsize,
    /// After refusals since which mark, if any, responses of their type are not passed on.
    swallows: Mutex<Option<usize>>,
}

impl Tap {
    /// Passes on to `control_plane` what connects to `at`.
    pub async fn start(at: SocketAddr, control_plane: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(at).await.map_err(Failure::because("tap"))?;
        let upstream = Endpoint::from_shared(format!("http://{control_plane}"));
        let upstream = upstream.map_err(Failure::because("tap"))?;
        let record = Arc::new(Record::default());
        let relay = Relay { upstream, record: Arc::clone(&record) };
        let service = AggregatedDiscoveryServiceServer::new(relay)
            .max_decoding_message_size(MAX_BYTES)
            .max_encoding_message_size(MAX_BYTES);
        let serving =
            Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        // A connection that breaks is the proxy's to make again.
        let task = tokio::spawn(async move { drop(serving.await) });
        Ok(Self { record, task })
    }

    /// Whether a proxy that from now on refuses a response gets no other of that type on that stream: what it has then,
    /// it has of the one that it refused.
    pub fn swallow_after_refusals(&self, swallow: bool) {
        let since = swallow.then(|| self.mark());
        *self.record.swallows.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// How much was said so far.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.record.lock().len()
    }

    /// What was said since a mark.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Said> {
        self.record.lock().get(mark..).unwrap_or_default().to_vec()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Said>> {
        // Messages are added whole, whatever panicked with the lock held.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> usize {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Keeps a message, if it is about a type that is known. Gives whether it is to be passed on.
    fn keep(
        &self,
        stream: usize,
        type_url: &str,
        by_proxy: bool,
        nonce: &str,
        fill: impl FnOnce(&mut Said),
    ) -> bool {
        let Some(kind) = Kind::of_url(type_url) else { return true };
        let mut said = Said {
            stream,
            at: Instant::now(),
            by_proxy,
            kind,
            nonce: nonce.to_owned(),
            version: String::new(),
            names: Vec::new(),
            removed: Vec::new(),
            has: BTreeMap::new(),
            error: None,
        };
        fill(&mut said);
        let mut all = self.lock();
        let refused =
            |earlier: &Said| (earlier.stream, earlier.kind) == (stream, kind) && earlier.error.is_some();
        let swallows = *self.swallows.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = swallows.and_then(|since| all.get(since..)).unwrap_or_default();
        if !by_proxy && refusals.iter().any(refused) {
            return false;
        }
        all.push(said);
        true
    }
}

#[derive(Debug)]
struct Relay {
    upstream: Endpoint,
    record: Arc<Record>,
}

type Passed<T> = Box<dyn Stream<Item = Result<T, Status>> + Send + Unpin>;

impl Relay {
    async fn client(&self) -> Result<Client<Channel>, Status> {
        let channel = self.upstream.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Client::new(channel).max_decoding_message_size(MAX_BYTES))
    }
}

/// What a proxy says, up to the end of its stream.
fn requests<T: Send + 'static>(
    incoming: Request<Streaming<T>>,
    mut keep: impl FnMut(&T) + Send + 'static,
) -> impl Stream<Item = T> + Send {
    incoming.into_inner().map_while(Result::ok).map(move |request| {
        keep(&request);
        request
    })
}

/// What its control plane says.
fn responses<T: Send + 'static>(
    incoming: Response<Streaming<T>>,
    mut keep: impl FnMut(&T) -> bool + Send + 'static,
) -> Response<Passed<T>> {
    let passed = incoming.into_inner().filter(move |response| response.as_ref().map_or(true, &mut keep));
    Response::new(Box::new(passed))
}

fn name_inside(kind: Kind, resource: &Any) -> String {
    kind.name_inside(&resource.value).unwrap_or_else(|error| format!("<{error}>"))
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Relay {
    type StreamAggregatedResourcesStream = Passed<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Passed<pb::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let stream = self.record.open();
        let record = Arc::clone(&self.record);
        let outgoing = requests(request, move |request: &pb::DiscoveryRequest| {
            record.keep(stream, &request.type_url, true, &request.response_nonce, |said| {
                said.names.clone_from(&request.resource_names);
                said.version.clone_from(&request.version_info);
                said.error = request.error_detail.as_ref().map(|error| error.message.clone());
            });
        });
        let incoming = self.client().await?.stream_aggregated_resources(outgoing).await?;
        let record = Arc::clone(&self.record);
        Ok(responses(incoming, move |response: &pb::DiscoveryResponse| {
            record.keep(stream, &response.type_url, false, &response.nonce, |said| {
                said.names = response.resources.iter().map(|any| name_inside(said.kind, any)).collect();
                said.version.clone_from(&response.version_info);
            })
        }))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let stream = self.record.open();
        let record = Arc::clone(&self.record);
        let outgoing = requests(request, move |request: &pb::DeltaDiscoveryRequest| {
            record.keep(stream, &request.type_url, true, &request.response_nonce, |said| {
                said.names.clone_from(&request.resource_names_subscribe);
                said.removed.clone_from(&request.resource_names_unsubscribe);
                said.has = request.initial_resource_versions.clone().into_iter().collect();
                said.error = request.error_detail.as_ref().map(|error| error.message.clone());
            });
        });
        let incoming = self.client().await?.delta_aggregated_resources(outgoing).await?;
        let record = Arc::clone(&self.record);
        Ok(responses(incoming, move |response: &pb::DeltaDiscoveryResponse| {
            record.keep(stream, &response.type_url, false, &response.nonce, |said| {
                said.names = response.resources.iter().map(|resource| resource.name.clone()).collect();
                said.removed.clone_from(&response.removed_resources);
            })
        }))
    }
}
