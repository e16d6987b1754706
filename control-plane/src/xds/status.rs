//! Who is connected, and how far each proxy follows what is wanted of it.
//!
//! The registry holds the streams themselves: what it tells is what they are, and costs them nothing while
//! nobody asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;

use super::metrics::Metrics;
use super::refusal::Nack;
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

/// How far a proxy is, and no more: for looking at all of them often.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The node id.
    pub id: Arc<str>,
    /// What it claims to be.
    pub scope: Arc<Scope>,
    /// The version of the snapshot that it should have.
    pub wanted: Arc<str>,
    /// The version of the last snapshot that it acknowledged in full.
    pub applied: Arc<str>,
    /// How far it is.
    pub sync: SyncState,
}

#[derive(Debug, Default)]
struct Proxies {
    streams: BTreeMap<u64, Arc<Entry>>,
    last: u64,
}

/// All connected proxies. Entries last as long as their stream.
#[derive(Debug)]
pub struct Registry {
    proxies: Mutex<Proxies>,
    changed: watch::Sender<()>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    peer: Peer,
    connected: SystemTime,
    tracked: Mutex<Tracked>,
}

/// A stream and when it got where.
#[derive(Debug)]
struct Tracked {
    stream: Stream,
    applied: Arc<str>,
}

/// What a proxy says of itself when it connects.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: Arc<str>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) user_agent: String,
    pub(crate) variant: &'static str,
}

impl Registry {
    /// An empty registry; its metrics go to `metrics`. Fails when one of their names is taken.
    pub fn new(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            proxies: Mutex::default(),
            changed: watch::Sender::new(()),
            metrics: Metrics::new(metrics)?,
        })
    }

    /// Every connected proxy, in the order of connecting.
    #[must_use]
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.entries().iter().map(|entry| entry.status()).collect()
    }

    /// How far every connected proxy is, in the order of connecting.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        self.entries().iter().map(|entry| entry.progress()).collect()
    }

    /// How many proxies are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.lock().streams.len()
    }

    /// Changes whenever a proxy connects, leaves or gets further: for waiting until a change is applied.
    /// Subscribe first, then look at [`Self::progress`], then wait.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.lock().streams.values().cloned().collect()
    }

    // No code panics with the lock held, and the data is whole after any of our writes.
    fn lock(&self) -> MutexGuard<'_, Proxies> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        // The channel's lock is shared by all streams: not taken while nobody waits.
        if self.changed.receiver_count() > 0 {
            self.changed.send_replace(());
        }
    }
}

/// A stream's place in the registry, left when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
}

impl Connection {
    pub(crate) fn open(registry: Arc<Registry>, peer: Peer, stream: Stream) -> Self {
        let mut proxies = registry.lock();
        proxies.last += 1;
        let number = proxies.last;
        let tracked = Mutex::new(Tracked { stream, applied: Arc::default() });
        let entry = Arc::new(Entry { number, peer, connected: SystemTime::now(), tracked });
        proxies.streams.insert(number, Arc::clone(&entry));
        drop(proxies);
        registry.metrics.connected.inc();
        registry.bump();
        Self { registry, entry }
    }

    /// The number of the stream, for logs.
    pub(crate) fn number(&self) -> u64 {
        self.entry.number
    }

    /// The node id, for logs.
    pub(crate) fn id(&self) -> &str {
        &self.entry.peer.id
    }

    /// Lets `act` work on the stream, and notes how far it got.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> T {
        let mut tracked = self.entry.lock();
        let result = act(&mut tracked.stream);
        let wanted = tracked.stream.wanted();
        if tracked.applied != *wanted.version() && tracked.stream.sync() == SyncState::Synced {
            let since = tracked.stream.wanted_since();
            self.registry.metrics.convergence.observe(since.elapsed().as_secs_f64());
            tracked.applied = Arc::clone(tracked.stream.wanted().version());
        }
        drop(tracked);
        self.registry.bump();
        result
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.registry.lock().streams.remove(&self.entry.number);
        self.registry.metrics.connected.dec();
        self.registry.bump();
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Tracked> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> Progress {
        let tracked = self.lock();
        Progress {
            id: Arc::clone(&self.peer.id),
            scope: Arc::clone(&self.peer.scope),
            wanted: Arc::clone(tracked.stream.wanted().version()),
            applied: Arc::clone(&tracked.applied),
            sync: tracked.stream.sync(),
        }
    }

    fn status(&self) -> ProxyStatus {
        let tracked = self.lock();
        let stream = &tracked.stream;
        let asked = ResourceType::ALL.into_iter().filter(|kind| stream.of(*kind).asked());
        ProxyStatus {
            stream: self.number,
            id: self.peer.id.to_string(),
            scope: Scope::clone(&self.peer.scope),
            address: self.peer.address,
            user_agent: self.peer.user_agent.clone(),
            variant: self.peer.variant,
            connected_since_ms: millis(self.connected),
            wanted: stream.wanted().version().to_string(),
            applied: tracked.applied.to_string(),
            sync: stream.sync(),
            types: asked.map(|kind| type_status(stream, kind)).collect(),
        }
    }
}

fn type_status(stream: &Stream, kind: ResourceType) -> TypeStatus {
    let wanted = stream.wanted().of(kind);
    let subscription = stream.of(kind);
    TypeStatus {
        kind: kind.label(),
        wanted: wanted.version().to_string(),
        sent: subscription.sent_version.to_string(),
        acked: subscription.acked(wanted).to_string(),
        pending: subscription.pending(wanted),
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
