//! What each proxy has of what it should have, resource by resource (27).

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::status::v3 as pb;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, Timestamp};
use prost::Message;

use crate::xds::grpc::{begun, finished};
use crate::xds::stream::Stream;
use crate::xds::{MAX_NODE_NAME_BYTES, Registry, Resource, ResourceType};

/// The field of a response that its configurations are in.
const CONFIG: u32 = 1;

/// Resources in one answer, and its bytes: a thousand proxies of a hundred clusters.
const MAX_RESOURCES: usize = 200_000;
const MAX_BYTES: usize = 256 << 20;
/// Each is held against every proxy. Who wants to see more than this many proxies of ten thousand names none.
const MAX_MATCHERS: usize = 100;

/// Why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StatusError {
    /// Proxies are chosen in a way that there is not.
    #[error("node_matchers: {0}")]
    Matcher(&'static str),
    /// Too much to say.
    #[error("more than {MAX_RESOURCES} resources or 256 MiB: name proxies with node_matchers")]
    TooLarge,
}

impl StatusError {
    /// A short name for metrics and logs.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Matcher(_) => "status_matchers",
            Self::TooLarge => "status_too_large",
        }
    }
}

/// A question: of which proxies, and whether with the contents of their resources.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// None = all proxies.
    of: Vec<Matcher>,
    contents: bool,
}

#[derive(Debug)]
struct Matcher {
    pattern: MatchPattern,
    ignore_case: bool,
}

impl Inquiry {
    pub(super) fn new(request: pb::ClientStatusRequest) -> Result<Self, StatusError> {
        if request.node_matchers.len() > MAX_MATCHERS {
            return Err(StatusError::Matcher("more than 100"));
        }
        let of = request.node_matchers.into_iter().map(Matcher::new).collect::<Result<_, _>>()?;
        Ok(Self { of, contents: !request.exclude_resource_contents })
    }

    /// The answer as it goes over the wire.
    pub(super) fn answer(&self, registry: &Registry) -> Result<Bytes, StatusError> {
        self.answer_within(registry, Bound { resources: MAX_RESOURCES, bytes: MAX_BYTES })
    }

    fn answer_within(&self, registry: &Registry, most: Bound) -> Result<Bytes, StatusError> {
        let (mut answer, mut count) = (begun(), 0);
        let of = |id: &str| self.of.is_empty() || self.of.iter().any(|matcher| matcher.matches(id));
        registry.for_each(of, |peer, stream| {
            let node = Node { id: peer.id.to_string(), ..Node::default() };
            let mut config = pb::ClientConfig { node: Some(node), ..pb::ClientConfig::default() };
            // One proxy may have as much as all others: what it takes is counted as it is made.
            let bytes = most.bytes.saturating_sub(answer.len());
            let mut room = Bound { resources: most.resources - count, bytes };
            resources(stream, self.contents, |resource| {
                room.take(resource.encoded_len())?;
                config.generic_xds_configs.push(resource);
                Ok(())
            })?;
            count += config.generic_xds_configs.len();
            // A response is its configurations one after the other.
            prost::encoding::message::encode(CONFIG, &config, &mut answer);
            if answer.len() > most.bytes { Err(StatusError::TooLarge) } else { Ok(()) }
        })?;
        Ok(finished(answer))
    }
}

impl Matcher {
    fn new(matcher: NodeMatcher) -> Result<Self, StatusError> {
        let by_id = matcher.node_id.filter(|_| matcher.node_metadatas.is_empty());
        let by_id = by_id.ok_or(StatusError::Matcher("can only match node_id"))?;
        let fold = |text: String| if by_id.ignore_case { text.to_lowercase() } else { text };
        let (text, pattern): (_, fn(String) -> MatchPattern) = match by_id.match_pattern {
            Some(MatchPattern::Exact(text)) => (text, MatchPattern::Exact),
            Some(MatchPattern::Prefix(text)) => (text, MatchPattern::Prefix),
            Some(MatchPattern::Suffix(text)) => (text, MatchPattern::Suffix),
            Some(MatchPattern::Contains(text)) => (text, MatchPattern::Contains),
            _ => return Err(StatusError::Matcher("node_id must be exact, prefix, suffix or contains")),
        };
        if text.len() > MAX_NODE_NAME_BYTES {
            return Err(StatusError::Matcher("longer than any node_id"));
        }
        Ok(Self { pattern: pattern(fold(text)), ignore_case: by_id.ignore_case })
    }

    fn matches(&self, id: &str) -> bool {
        let folded = self.ignore_case.then(|| id.to_lowercase());
        let id = folded.as_deref().unwrap_or(id);
        match &self.pattern {
            MatchPattern::Exact(text) => id == text,
            MatchPattern::Prefix(text) => id.starts_with(text),
            MatchPattern::Suffix(text) => id.ends_with(text),
            MatchPattern::Contains(text) => id.contains(text),
            MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => false,
        }
    }
}

/// What may be said.
#[derive(Clone, Copy)]
struct Bound {
    resources: usize,
    bytes: usize,
}

impl Bound {
    fn take(&mut self, bytes: usize) -> Result<(), StatusError> {
        let left = self.resources.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        (self.resources, self.bytes) = left.ok_or(StatusError::TooLarge)?;
        Ok(())
    }
}

/// Shows every wanted resource that the proxy asks for; of a secret no more than its name and version.
fn resources(
    stream: &Stream,
    contents: bool,
    mut show: impl FnMut(GenericXdsConfig) -> Result<(), StatusError>,
) -> Result<(), StatusError> {
    for kind in ResourceType::ALL {
        let contents = contents && kind != ResourceType::Secret;
        let (latest, wanted, subscription) =
            (stream.latest().of(kind), stream.wanted().of(kind), stream.of(kind));
        let waiting = subscription.unacknowledged();
        let later = |resource: &Resource| {
            wanted.get(resource.name()).is_none_or(|wanted| wanted.version() != resource.version())
        };
        for resource in latest.iter().filter(|resource| subscription.interest.covers(resource)) {
            let name = resource.name();
            let refused = subscription.rejected.get(name);
            let (config, client) = if refused.is_some() {
                (pb::ConfigStatus::Error, ClientResourceStatus::Nacked)
            } else if waiting.contains(name) {
                (pb::ConfigStatus::Stale, ClientResourceStatus::Requested)
            } else if subscription.behind.contains(name) || later(resource) {
                (pb::ConfigStatus::NotSent, ClientResourceStatus::Requested)
            } else {
                (pb::ConfigStatus::Synced, ClientResourceStatus::Acked)
            };
            show(GenericXdsConfig {
                type_url: kind.url().to_owned(),
                name: name.to_string(),
                version_info: resource.version().to_owned(),
                xds_config: contents
                    .then(|| Any { type_url: kind.url().to_owned(), value: resource.body().to_vec() }),
                config_status: config.into(),
                client_status: client.into(),
                error_state: refused.map(|refused| UpdateFailureState {
                    last_update_attempt: Some(timestamp(refused.why.at)),
                    details: refused.why.message.to_string(),
                    version_info: refused.version.to_string(),
                    ..UpdateFailureState::default()
                }),
                ..GenericXdsConfig::default()
            })?;
        }
    }
    Ok(())
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Nanoseconds are below a billion, and seconds fit until the sun has gone.
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;

    use super::*;
    use crate::xds::budget::Account;
    use crate::xds::listener::Cut;
    use crate::xds::message::{Asks, Request, Variant};
    use crate::xds::program::Program;
    use crate::xds::registry::{Connection, Peer};
    use crate::xds::{ResourceSet, Snapshot};

    #[test]
    fn everything_that_is_said_counts() {
        let registry = Arc::new(Registry::new(&prometheus::Registry::new()).unwrap());
        let proxy = || {
            let names: Vec<String> = (0..50).map(|i| format!("cluster-{i:02}")).collect();
            let clusters = names
                .iter()
                .map(|name| Arc::new(Resource::encoded("", name.as_str().into(), "1".into(), b"")));
            let empty = || ResourceSet::new([]);
            let wanted = Arc::new(Snapshot::new(ResourceSet::new(clusters), empty(), empty(), empty()));
            let (account, now) = (Account::default(), Instant::now());
            let mut stream = Stream::new(Variant::Delta, true, wanted, Arc::default(), &account, now);
            let asks = || {
                let (subscribe, unsubscribe, initial) = Default::default();
                Asks::Change { subscribe, unsubscribe, initial }
            };
            let (nonce, error) = (String::new(), None);
            let request = Request { kind: ResourceType::Cluster, nonce, error, asks: asks() };
            let (sent, _) = stream.on_request(request, now, SystemTime::now()).unwrap();
            let (nonce, error) =
                (sent[0].nonce.clone(), Some(format!("{}: {}", names.join(" "), "w".repeat(2_000))));
            let request = Request { kind: ResourceType::Cluster, nonce, error, asks: asks() };
            stream.on_request(request, now, SystemTime::now()).unwrap();
            let peer = Peer {
                id: "edge".into(),
                scope: Arc::default(),
                address: None,
                user_agent: String::new(),
                program: Program::of(&Node::default()),
                variant: "delta",
                cut: Cut::default(),
                counted: None,
            };
            Connection::open(Arc::clone(&registry), peer, stream)
        };
        let _proxies: Vec<_> = (0..3).map(|_| proxy()).collect();
        let inquiry = Inquiry { of: vec![], contents: false };
        let bytes = inquiry.answer(&registry).unwrap().len();
        assert!(bytes > 3 * 50 * 2_000, "{bytes}: it has the words of each refusal");
        let within = |resources, bytes| inquiry.answer_within(&registry, Bound { resources, bytes });
        assert!(within(150, bytes).is_ok());
        assert_eq!(within(149, bytes), Err(StatusError::TooLarge));
        assert_eq!(within(150, bytes - 1), Err(StatusError::TooLarge));
    }

    fn matchers(patterns: Vec<MatchPattern>, ignore_case: bool) -> Result<Inquiry, StatusError> {
        let matcher = |pattern| {
            let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case });
            NodeMatcher { node_id, node_metadatas: vec![] }
        };
        let node_matchers = patterns.into_iter().map(matcher).collect();
        Inquiry::new(pb::ClientStatusRequest { node_matchers, ..pb::ClientStatusRequest::default() })
    }

    #[test]
    fn matchers_are_few_and_short() {
        let of =
            |count, length| matchers(vec![MatchPattern::Contains("x".repeat(length)); count], true).err();
        assert_eq!(of(100, 256), None);
        assert_eq!(of(101, 1), Some(StatusError::Matcher("more than 100")));
        assert_eq!(of(1, 257), Some(StatusError::Matcher("longer than any node_id")));
    }

    #[test]
    fn proxies_are_chosen_by_their_id() {
        let chosen = |pattern, ignore_case| {
            let inquiry = matchers(vec![pattern], ignore_case).unwrap();
            ["Edge-1", "edge-12"].map(|id| inquiry.of[0].matches(id))
        };
        assert_eq!(chosen(MatchPattern::Exact("EDGE-1".to_owned()), true), [true, false]);
        assert_eq!(chosen(MatchPattern::Prefix("edge".to_owned()), false), [false, true]);
        assert_eq!(chosen(MatchPattern::Suffix("-1".to_owned()), false), [true, false]);
        assert_eq!(chosen(MatchPattern::Contains("-1".to_owned()), false), [true, true]);
    }
}
