//! Both protocol variants on the wire in one shape, on the aggregated and on the single-type services.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message as _;
use prost::Name;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel as Connection, Endpoint};
use tonic_prost::ProstCodec;

use super::world::Kind;

/// Largest response taken.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// gRPC's number for a refused argument, which proxies put into a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// A variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// State of the world.
    Sotw,
    /// Delta.
    Delta,
}

impl Variant {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Sotw, Self::Delta];
}

/// A gRPC service that hands out resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// All types on one stream.
    Aggregated,
    /// One type a stream.
    Single(Kind),
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 6] = [
        Self::Aggregated,
        Self::Single(Kind::Cluster),
        Self::Single(Kind::Endpoints),
        Self::Single(Kind::Listener),
        Self::Single(Kind::Extension),
        Self::Single(Kind::Secret),
    ];
}

/// A way to ask for resources: a service and a variant of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The service.
    pub service: Service,
    /// The variant.
    pub variant: Variant,
}

impl Channel {
    /// The path of the gRPC method.
    pub const fn path(self) -> &'static str {
        match (self.service, self.variant) {
            (Service::Aggregated, Variant::Sotw) => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            }
            (Service::Aggregated, Variant::Delta) => {
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
            }
            (Service::Single(Kind::Cluster), Variant::Sotw) => {
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
            }
            (Service::Single(Kind::Cluster), Variant::Delta) => {
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
            }
            (Service::Single(Kind::Endpoints), Variant::Sotw) => {
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
            }
            (Service::Single(Kind::Endpoints), Variant::Delta) => {
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"
            }
            (Service::Single(Kind::Listener), Variant::Sotw) => {
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners"
            }
            (Service::Single(Kind::Listener), Variant::Delta) => {
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"
            }
            (Service::Single(Kind::Extension), Variant::Sotw) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
            }
            (Service::Single(Kind::Extension), Variant::Delta) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
            }
            (Service::Single(Kind::Secret), Variant::Sotw) => {
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"
            }
            (Service::Single(Kind::Secret), Variant::Delta) => {
                "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"
            }
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self.variant {
            Variant::Sotw => "state of the world",
            Variant::Delta => "delta",
        };
        match self.service {
            Service::Aggregated => write!(f, "{variant} ADS"),
            Service::Single(kind) => write!(f, "{variant} {kind} service"),
        }
    }
}

/// A request of either variant. Fields that a variant does not have are not sent.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The type's URL.
    pub type_url: String,
    /// The node, on a stream's first request.
    pub node: Option<Node>,
    /// The nonce of the response that this answers.
    pub nonce: String,
    /// The words of a refusal.
    pub error: Option<String>,
    /// State of the world: all names.
    pub names: Vec<String>,
    /// State of the world: the version in use.
    pub version: String,
    /// Delta: names to add.
    pub subscribe: Vec<String>,
    /// Delta: names to drop.
    pub unsubscribe: Vec<String>,
    /// Delta: versions held from an earlier stream, by name.
    pub initial: HashMap<String, String>,
}

/// A response of either variant, with the names of the wire.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The type's URL.
    pub type_url: String,
    /// The version of the whole.
    pub version: String,
    /// What an answer names.
    pub nonce: String,
    /// The resources.
    pub resources: Vec<Resource>,
    /// Delta: names that do not exist.
    pub removed: Vec<String>,
}

/// One resource of a response.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    /// The name beside the body; state of the world has none unless the body is wrapped.
    pub name: Option<String>,
    /// Its version; empty where there is none.
    pub version: String,
    /// The body; missing in a heartbeat (24).
    pub body: Option<Any>,
}

/// Responses as they come in. At most one is read ahead, so that a client that takes none stops reading.
pub(super) type Responses = mpsc::Receiver<Result<Message, Status>>;

/// Connects and opens a stream. The requests go out as they come in, before the server has answered the call:
/// some servers only do with their first response.
pub(super) async fn open(
    address: SocketAddr,
    channel: Channel,
    requests: mpsc::Receiver<Request>,
) -> Responses {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
    let connection = endpoint.connect().await.unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
    let (sender, responses) = mpsc::channel(1);
    tokio::spawn(async move {
        let closed = sender.clone();
        let run = async move {
            let ended = match channel.variant {
                Variant::Sotw => {
                    run::<pb::DiscoveryRequest, pb::DiscoveryResponse>(connection, channel, requests, &sender)
                        .await
                }
                Variant::Delta => {
                    run::<pb::DeltaDiscoveryRequest, pb::DeltaDiscoveryResponse>(
                        connection, channel, requests, &sender,
                    )
                    .await
                }
            };
            if let Err(status) = ended {
                // Nobody listens any more: then nobody wants to know.
                let _ = sender.send(Err(status)).await;
            }
        };
        // The stream ends with the client that holds it, whatever it waits for.
        tokio::select! { () = run => {}, () = closed.closed() => {} }
    });
    responses
}

async fn run<Q, A>(
    connection: Connection,
    channel: Channel,
    requests: mpsc::Receiver<Request>,
    responses: &mpsc::Sender<Result<Message, Status>>,
) -> Result<(), Status>
where
    Q: prost::Message + From<Request> + Default + Send + Sync + 'static,
    A: prost::Message + Into<Message> + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(connection).max_decoding_message_size(MAX_RESPONSE_BYTES);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let outgoing = tonic::Request::new(ReceiverStream::new(requests).map(Q::from));
    let path = PathAndQuery::from_static(channel.path());
    let mut incoming = grpc.streaming(outgoing, path, ProstCodec::<Q, A>::default()).await?.into_inner();
    while let Some(response) = incoming.message().await? {
        if responses.send(Ok(response.into())).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn refusal(error: Option<String>) -> Option<RpcStatus> {
    error.map(|message| RpcStatus { code: INVALID_ARGUMENT, message, details: Vec::new() })
}

impl From<Request> for pb::DiscoveryRequest {
    fn from(request: Request) -> Self {
        Self {
            version_info: request.version,
            node: request.node,
            resource_names: request.names,
            type_url: request.type_url,
            response_nonce: request.nonce,
            error_detail: refusal(request.error),
            ..Self::default()
        }
    }
}

impl From<Request> for pb::DeltaDiscoveryRequest {
    fn from(request: Request) -> Self {
        Self {
            node: request.node,
            type_url: request.type_url,
            resource_names_subscribe: request.subscribe,
            resource_names_unsubscribe: request.unsubscribe,
            initial_resource_versions: request.initial,
            response_nonce: request.nonce,
            error_detail: refusal(request.error),
            ..Self::default()
        }
    }
}

impl From<pb::DiscoveryResponse> for Message {
    fn from(response: pb::DiscoveryResponse) -> Self {
        Self {
            type_url: response.type_url,
            version: response.version_info,
            nonce: response.nonce,
            resources: response.resources.into_iter().map(unwrapped).collect(),
            removed: Vec::new(),
        }
    }
}

impl From<pb::DeltaDiscoveryResponse> for Message {
    fn from(response: pb::DeltaDiscoveryResponse) -> Self {
        Self {
            type_url: response.type_url,
            version: response.system_version_info,
            nonce: response.nonce,
            resources: response.resources.into_iter().map(named).collect(),
            removed: response.removed_resources,
        }
    }
}

fn named(resource: pb::Resource) -> Resource {
    Resource { name: Some(resource.name), version: resource.version, body: resource.resource }
}

/// State of the world may wrap a resource, to give it a name or a time to live.
fn unwrapped(body: Any) -> Resource {
    if body.type_url == pb::Resource::type_url() {
        return named(
            pb::Resource::decode(body.value.as_slice()).expect("a wrapped resource can be decoded"),
        );
    }
    Resource { name: None, version: String::new(), body: Some(body) }
}
