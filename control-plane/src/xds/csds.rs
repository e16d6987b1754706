//! The client status discovery service: what each proxy has of what it should have, resource by resource (27).

use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::status::v3 as pb;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, Timestamp};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::stream::Stream;
use super::{Registry, ResourceType};

/// Resources in one answer: a thousand proxies of a hundred clusters. More would be hundreds of megabytes.
const MAX_RESOURCES: usize = 200_000;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct ClientStatus {
    registry: Arc<Registry>,
}

impl ClientStatus {
    pub(super) fn service(registry: Arc<Registry>) -> ClientStatusDiscoveryServiceServer<Self> {
        ClientStatusDiscoveryServiceServer::new(Self { registry })
    }

    fn answer(&self, request: &pb::ClientStatusRequest) -> Result<pb::ClientStatusResponse, Status> {
        let matchers = matchers(request)?;
        let (mut config, mut count) = (Vec::new(), 0);
        self.registry.for_each(|peer, stream| {
            if !matchers.is_empty() && !matchers.iter().any(|matcher| matches(matcher, &peer.id)) {
                return Ok(());
            }
            let node = Node { id: peer.id.to_string(), ..Node::default() };
            let resources = resources(stream, !request.exclude_resource_contents);
            count += resources.len();
            config.push(pb::ClientConfig {
                node: Some(node),
                generic_xds_configs: resources,
                ..pb::ClientConfig::default()
            });
            if count > MAX_RESOURCES {
                let text = format!("more than {MAX_RESOURCES} resources: name proxies with node_matchers");
                return Err(Status::resource_exhausted(text));
            }
            Ok(())
        })?;
        Ok(pb::ClientStatusResponse { config })
    }
}

fn matchers(request: &pb::ClientStatusRequest) -> Result<Vec<&StringMatcher>, Status> {
    let matchers = request.node_matchers.iter().map(|matcher| {
        let by_id = matcher.node_id.as_ref().filter(|_| matcher.node_metadatas.is_empty());
        let by_id = by_id.ok_or_else(|| Status::invalid_argument("node_matchers can only match node_id"))?;
        match by_id.match_pattern {
            Some(MatchPattern::SafeRegex(_) | MatchPattern::Custom(_)) | None => {
                Err(Status::invalid_argument("node_id must be exact, prefix, suffix or contains"))
            }
            Some(_) => Ok(by_id),
        }
    });
    matchers.collect()
}

fn matches(matcher: &StringMatcher, id: &str) -> bool {
    let fold = |text: &str| if matcher.ignore_case { text.to_lowercase() } else { text.to_owned() };
    let id = fold(id);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) => id == fold(text),
        Some(MatchPattern::Prefix(text)) => id.starts_with(&fold(text)),
        Some(MatchPattern::Suffix(text)) => id.ends_with(&fold(text)),
        Some(MatchPattern::Contains(text)) => id.contains(&fold(text)),
        _ => false,
    }
}

/// Every wanted resource that the proxy asks for; of a secret no more than its name and version.
fn resources(stream: &Stream, contents: bool) -> Vec<GenericXdsConfig> {
    let mut resources = Vec::new();
    for kind in ResourceType::ALL {
        let contents = contents && kind != ResourceType::Secret;
        let (wanted, subscription) = (stream.wanted().of(kind), stream.of(kind));
        let waiting = subscription.unacknowledged();
        for resource in wanted.iter().filter(|resource| subscription.interest.covers(resource)) {
            let name = resource.name();
            let refused = subscription.rejected.get(name);
            let (config, client) = if refused.is_some() {
                (pb::ConfigStatus::Error, ClientResourceStatus::Nacked)
            } else if waiting.contains(name) {
                (pb::ConfigStatus::Stale, ClientResourceStatus::Requested)
            } else if subscription.behind.contains(name) {
                (pb::ConfigStatus::NotSent, ClientResourceStatus::Requested)
            } else {
                (pb::ConfigStatus::Synced, ClientResourceStatus::Acked)
            };
            resources.push(GenericXdsConfig {
                type_url: kind.url().to_owned(),
                name: name.to_string(),
                version_info: resource.version().to_owned(),
                xds_config: contents
                    .then(|| Any { type_url: kind.url().to_owned(), value: resource.body().to_vec() }),
                config_status: config.into(),
                client_status: client.into(),
                error_state: refused.map(|refused| UpdateFailureState {
                    last_update_attempt: Some(timestamp(refused.why.at)),
                    details: refused.why.message.clone(),
                    version_info: refused.version.to_string(),
                    ..UpdateFailureState::default()
                }),
                ..GenericXdsConfig::default()
            });
        }
    }
    resources
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Nanoseconds are below a billion, and seconds fit until the sun has gone.
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

type Answers = Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatus {
    type StreamClientStatusStream = Answers;

    async fn stream_client_status(
        &self,
        requests: Request<Streaming<pb::ClientStatusRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let service = self.clone();
        let answers = requests.into_inner().map(move |request| service.answer(&request?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<pb::ClientStatusRequest>,
    ) -> Result<Response<pb::ClientStatusResponse>, Status> {
        self.answer(request.get_ref()).map(Response::new)
    }
}
