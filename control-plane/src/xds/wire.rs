//! The two protocol variants on the wire: from their requests, to their responses.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status as RpcStatus;

use super::message::{Asks, Request, Response, Variant};
use super::{Resource, ResourceType};

/// A protocol variant.
pub(crate) trait Wire: Send + Sync + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const VARIANT: Variant;

    /// The node of a request, sure to be there only on a stream's first (1).
    fn node(request: &mut Self::Request) -> Option<Node>;
    fn type_url(request: &Self::Request) -> &str;
    fn request(request: Self::Request, kind: ResourceType) -> Request;
    fn response(response: Response) -> Self::Response;
}

/// `StreamAggregatedResources`.
pub(crate) struct StateOfTheWorld;

/// `DeltaAggregatedResources`.
pub(crate) struct Delta;

impl Wire for StateOfTheWorld {
    type Request = pb::DiscoveryRequest;
    type Response = pb::DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn request(request: Self::Request, kind: ResourceType) -> Request {
        let asks = Asks::All { names: request.resource_names, version: request.version_info };
        Request { kind, nonce: request.response_nonce, error: words(request.error_detail), asks }
    }

    fn response(response: Response) -> Self::Response {
        let kind = response.kind;
        pb::DiscoveryResponse {
            version_info: response.version,
            resources: response.resources.iter().map(|resource| body(kind, resource)).collect(),
            type_url: kind.url().to_owned(),
            nonce: response.nonce,
            ..pb::DiscoveryResponse::default()
        }
    }
}

impl Wire for Delta {
    type Request = pb::DeltaDiscoveryRequest;
    type Response = pb::DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn type_url(request: &Self::Request) -> &str {
        &request.type_url
    }

    fn request(request: Self::Request, kind: ResourceType) -> Request {
        let asks = Asks::Change {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial: request.initial_resource_versions,
        };
        Request { kind, nonce: request.response_nonce, error: words(request.error_detail), asks }
    }

    fn response(response: Response) -> Self::Response {
        let kind = response.kind;
        let resource = |resource: &std::sync::Arc<Resource>| pb::Resource {
            name: resource.name.clone(),
            version: resource.version.clone(),
            resource: Some(body(kind, resource)),
            ..pb::Resource::default()
        };
        pb::DeltaDiscoveryResponse {
            system_version_info: response.version,
            resources: response.resources.iter().map(resource).collect(),
            type_url: kind.url().to_owned(),
            removed_resources: response.removed,
            nonce: response.nonce,
            ..pb::DeltaDiscoveryResponse::default()
        }
    }
}

fn body(kind: ResourceType, resource: &Resource) -> Any {
    Any { type_url: kind.url().to_owned(), value: resource.body.to_vec() }
}

/// The words of a refusal, cut where a log line would be: Envoy may quote a whole resource.
fn words(status: Option<RpcStatus>) -> Option<String> {
    const MOST: usize = 4096;
    status.map(|status| {
        let mut message = status.message;
        message.truncate(message.floor_char_boundary(MOST));
        message
    })
}
