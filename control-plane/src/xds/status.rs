//! Who is connected, and how far each proxy follows what is wanted of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;

use super::metrics::Metrics;
use super::stream::{Stream, SyncState};
use super::subscription::{Nack, Subscription};
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
    /// By type, in sending order; types it never asked for are left out.
    pub types: Vec<TypeStatus>,
}

/// One resource type of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// `cds`, `eds`, `lds` or `ecds`.
    pub kind: &'static str,
    /// The version it should have.
    pub wanted: String,
    /// The version of the last response.
    pub sent: String,
    /// The version it is known to use.
    pub acked: String,
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

#[derive(Debug, Default)]
struct Proxies {
    streams: BTreeMap<u64, ProxyStatus>,
    last: u64,
}

/// All connected proxies. Entries last as long as their stream.
#[derive(Debug)]
pub struct Registry {
    proxies: Mutex<Proxies>,
    changed: watch::Sender<u64>,
    metrics: Metrics,
}

impl Registry {
    /// An empty registry; its metrics go to `metrics`. Fails when one of their names is taken.
    pub fn new(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            proxies: Mutex::default(),
            changed: watch::Sender::new(0),
            metrics: Metrics::new(metrics)?,
        })
    }

    /// Every connected proxy, in the order of connecting.
    #[must_use]
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.lock().streams.values().cloned().collect()
    }

    /// Changes whenever a proxy connects, leaves or gets further: for waiting until a change is applied.
    /// Subscribe first, then look at [`Self::proxies`], then wait.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    // No code panics with the lock held, and the data is whole after any of our writes.
    fn lock(&self) -> MutexGuard<'_, Proxies> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// A stream's entry in the registry, removed when dropped.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    registry: &'a Registry,
    stream: u64,
    wanted: String,
    wanted_since: Instant,
    applied: String,
}

/// What a proxy says of itself when it connects.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) scope: Scope,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) user_agent: String,
    pub(crate) variant: &'static str,
}

impl<'a> Connection<'a> {
    pub(crate) fn open(registry: &'a Registry, peer: Peer, now: Instant) -> Self {
        let mut proxies = registry.lock();
        proxies.last += 1;
        let stream = proxies.last;
        let status = ProxyStatus {
            stream,
            id: peer.id,
            scope: peer.scope,
            address: peer.address,
            user_agent: peer.user_agent,
            variant: peer.variant,
            connected_since_ms: millis(SystemTime::now()),
            wanted: String::new(),
            applied: String::new(),
            sync: SyncState::Pending,
            types: Vec::new(),
        };
        proxies.streams.insert(stream, status);
        drop(proxies);
        registry.metrics.connected.inc();
        registry.bump();
        Self { registry, stream, wanted: String::new(), wanted_since: now, applied: String::new() }
    }

    /// The number of the stream, for logs.
    pub(crate) const fn stream(&self) -> u64 {
        self.stream
    }

    /// Notes that the stream works towards another snapshot.
    pub(crate) fn wanted(&mut self, stream: &Stream, now: Instant) {
        self.wanted = stream.wanted().version();
        self.wanted_since = now;
    }

    /// Publishes how far the stream is.
    pub(crate) fn update(&mut self, stream: &Stream, now: Instant) {
        let sync = stream.sync();
        if sync == SyncState::Synced && self.applied != self.wanted {
            self.applied.clone_from(&self.wanted);
            self.registry.metrics.convergence.observe((now - self.wanted_since).as_secs_f64());
        }
        let types = types(stream);
        let mut proxies = self.registry.lock();
        let Some(status) = proxies.streams.get_mut(&self.stream) else { return };
        if status.sync == sync && status.wanted == self.wanted && status.types == types {
            return;
        }
        status.sync = sync;
        status.wanted.clone_from(&self.wanted);
        status.applied.clone_from(&self.applied);
        status.types = types;
        drop(proxies);
        self.registry.bump();
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.registry.lock().streams.remove(&self.stream);
        self.registry.metrics.connected.dec();
        self.registry.bump();
    }
}

fn types(stream: &Stream) -> Vec<TypeStatus> {
    let status = |kind: ResourceType| {
        let wanted = stream.wanted().of(kind);
        let subscription = stream.of(kind);
        TypeStatus {
            kind: kind.label(),
            wanted: wanted.version().to_owned(),
            sent: subscription.sent_version.clone(),
            acked: subscription.acked(wanted).to_owned(),
            rejected: subscription.rejected.len(),
            rejections: rejections(subscription),
        }
    };
    ResourceType::ALL.into_iter().filter(|kind| stream.of(*kind).asked()).map(status).collect()
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
