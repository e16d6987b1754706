//! What is told of a proxy: who it is, and how far it follows what is wanted of it.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::keep::Held;
use super::refusal::Nack;
use super::registry::Peer;
use super::stream::{Stream, SyncState};
use super::subscription::Subscription;
use super::{ResourceType, Scope};

/// One connected proxy. Two streams of one node are two entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyStatus {
    /// Tells streams apart; counts up from 1 as streams open.
    pub stream: u64,
    /// The node id.
    pub id: String,
    /// What it claims to be.
    pub scope: Scope,
    /// Where it connects from.
    pub address: Option<SocketAddr>,
    /// Its name and version, as `envoy 1.40.0`.
    pub user_agent: String,
    /// `delta` or `sotw`.
    pub variant: &'static str,
    /// Milliseconds since the Unix epoch.
    pub connected_since_ms: u64,
    /// The version of the snapshot that it should have ([`super::Snapshot::version`]).
    pub wanted: String,
    /// The version of the last snapshot that it acknowledged in full; empty before the first.
    pub applied: String,
    /// How far it is.
    pub sync: SyncState,
    /// What it keeps although nobody here knows it, because a source was never heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// By type, in sending order; types it never asked for are left out.
    pub types: Vec<TypeStatus>,
}

/// One resource type of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// `rtds`, `sds`, `cds`, `eds`, `lds` or `ecds`.
    pub kind: &'static str,
    /// The version it should have.
    pub wanted: String,
    /// The version of the last response.
    pub sent: String,
    /// The version it is known to use.
    pub acked: String,
    /// How many resources it has yet to be sent, or to acknowledge.
    pub pending: usize,
    /// How many resources it refuses that are still wanted.
    pub rejected: usize,
    /// What it refuses, at most 16 of them.
    pub rejections: Vec<Rejection>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// The resource at fault; empty when a response was refused in which nothing was new.
    pub resource: String,
    /// The version of that resource, or of the response.
    pub version: String,
    /// Envoy's words.
    pub message: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl ProxyStatus {
    pub(super) fn new(
        number: u64,
        peer: &Peer,
        connected: SystemTime,
        applied: &str,
        stream: &Stream,
    ) -> Self {
        let asked = ResourceType::ALL.into_iter().filter(|kind| stream.of(*kind).asked());
        Self {
            stream: number,
            id: peer.id.to_string(),
            scope: Scope::clone(&peer.scope),
            address: peer.address,
            user_agent: peer.user_agent.clone(),
            variant: peer.variant,
            connected_since_ms: millis(connected),
            wanted: stream.latest().version().to_string(),
            applied: applied.to_owned(),
            sync: stream.sync(),
            held: stream.held(),
            types: asked.map(|kind| type_status(stream, kind)).collect(),
        }
    }
}

fn type_status(stream: &Stream, kind: ResourceType) -> TypeStatus {
    let subscription = stream.of(kind);
    TypeStatus {
        kind: kind.label(),
        wanted: stream.latest().of(kind).version().to_string(),
        sent: subscription.sent_version.to_string(),
        acked: subscription.acked(stream.wanted().of(kind)).to_string(),
        pending: stream.pending(kind),
        rejected: subscription.rejected.len(),
        rejections: rejections(subscription),
    }
}

/// Enough to see what is wrong; a bad template may spoil thousands alike.
const MOST_REJECTIONS: usize = 16;

fn rejections(subscription: &Subscription) -> Vec<Rejection> {
    let rejection = |resource: &str, version: &str, why: &Nack| Rejection {
        resource: resource.to_owned(),
        version: version.to_owned(),
        message: why.message.clone(),
        at_ms: millis(why.at),
    };
    if let Some(nack) = subscription.refused_whole() {
        return vec![rejection("", &nack.version, nack)];
    }
    let rejected = subscription.rejected.iter().take(MOST_REJECTIONS);
    rejected.map(|(name, r)| rejection(name, &r.version, &r.why)).collect()
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
