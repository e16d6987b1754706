//! What is told of a proxy: who it is, and how far it follows what is wanted of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::keep::Held;
use super::refusal::Nack;
use super::registry::Peer;
use super::stream::{Stream, SyncState};
use super::subscription::Subscription;
use super::{Resource, ResourceType, Scope};

/// One connected proxy. Two streams of one node are two entries.
#[expect(clippy::struct_excessive_bools, reason = "each is said of a proxy for itself")]
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
    /// Of its Envoy, as `1.40.0`; empty when it does not say.
    pub envoy_version: String,
    /// SHA-256 of the filter module that it runs, of the stale one where there are several; empty while it runs none, or none
    /// that this control plane knows. It is what the proxy was told: which file it has at `filter.path` only it knows.
    pub module_sha256: String,
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
    /// The filters that it should run.
    #[serde(skip)]
    pub filters: Vec<FilterStatus>,
    /// Whether its Envoy is newer than what we know.
    #[serde(skip)]
    pub is_untested: bool,
    /// Whether it says that it cannot run our filters.
    #[serde(skip)]
    pub lacks_wasm: bool,
    /// Whether it refuses only what it is most likely still fetching.
    #[serde(skip)]
    pub is_fetching: bool,
    /// Clusters that have been warming for long, as far as they are known, if any.
    #[serde(skip)]
    pub warms_long: Option<Vec<String>>,
    /// Whether there are no filters for its listeners.
    #[serde(skip)]
    pub lacks_filters: bool,
}

/// A resource of a proxy that needs code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterStatus {
    /// Its name.
    pub name: String,
    /// Hash of the code that it should run; empty = unknown.
    pub wanted: String,
    /// Hash of the code that it runs, empty = unknown; `None` = it never took any version of it.
    pub running: Option<String>,
    /// Why it does not have the wanted version, in its own words.
    pub refusal: Option<String>,
}

impl FilterStatus {
    /// Whether it runs other code than it should.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.is_empty() && *running != self.wanted)
    }
}

/// One resource type of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// A proxy that is well and has asked for nothing yet.
    #[cfg(test)]
    pub(crate) fn example(id: &str) -> Self {
        Self {
            stream: 1,
            id: id.to_owned(),
            scope: Scope::default(),
            address: Some(([10, 0, 0, 1], 4).into()),
            user_agent: "envoy 1.40.0".to_owned(),
            envoy_version: "1.40.0".to_owned(),
            module_sha256: String::new(),
            variant: "delta",
            connected_since_ms: 0,
            wanted: String::new(),
            applied: String::new(),
            sync: SyncState::Synced,
            held: None,
            types: Vec::new(),
            filters: Vec::new(),
            is_untested: false,
            lacks_wasm: false,
            is_fetching: false,
            warms_long: None,
            lacks_filters: false,
        }
    }

    pub(super) fn new(
        number: u64,
        peer: &Peer,
        connected: SystemTime,
        applied: &str,
        stream: &Stream,
    ) -> Self {
        let filters = filters(stream);
        let stale = filters.iter().find(|filter| filter.is_stale());
        let shown = stale.or_else(|| filters.iter().find(|filter| filter.running.is_some()));
        let module_sha256 = shown.and_then(|filter| filter.running.clone()).unwrap_or_default();
        let asked = ResourceType::ALL.into_iter().filter(|kind| stream.of(*kind).asked());
        let warms_long = stream.warms_long(Instant::now());
        Self {
            stream: number,
            id: peer.id.to_string(),
            scope: Scope::clone(&peer.scope),
            address: peer.address,
            user_agent: peer.user_agent.clone(),
            envoy_version: peer.program.version(),
            module_sha256,
            variant: peer.variant,
            connected_since_ms: millis(connected),
            wanted: stream.latest().version().to_string(),
            applied: applied.to_owned(),
            sync: peer.sync(stream),
            held: stream.held(),
            types: asked.map(|kind| type_status(stream, kind)).collect(),
            filters,
            is_untested: peer.program.is_untested(),
            lacks_wasm: peer.program.lacks_wasm(),
            is_fetching: stream.of(ResourceType::Extension).is_fetching(),
            warms_long: warms_long.map(|names| names.into_iter().map(str::to_owned).collect()),
            lacks_filters: stream.latest().lacks_filters(),
        }
    }
}

fn filters(stream: &Stream) -> Vec<FilterStatus> {
    let (extensions, wanted) =
        (stream.of(ResourceType::Extension), stream.wanted().of(ResourceType::Extension));
    let filter = |resource: &Arc<Resource>| {
        let code = resource.code()?;
        let running = extensions.in_force(resource.name(), wanted);
        // What it claims to have from an earlier stream is known by its version alone.
        let running = running.map(|running| running.code().map(ToString::to_string).unwrap_or_default());
        let refusal = extensions.refusal(resource.name()).map(|nack| nack.message.to_string());
        let (name, wanted) = (resource.name().to_string(), code.to_string());
        Some(FilterStatus { name, wanted, running, refusal })
    };
    wanted.iter().filter_map(filter).collect()
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
        message: why.message.to_string(),
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
