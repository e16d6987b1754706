//! The registry of all connected proxies.
//!
//! It holds the streams themselves: what it tells is what they are, and costs them nothing while nobody asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::Scope;
use super::clients::Use;
use super::keep::Held;
use super::listener::Cut;
use super::metrics::Metrics;
use super::program::Program;
use super::status::ProxyStatus;
use super::stream::{Stream, SyncState};

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
    /// Counts the looks for stalled proxies, from 1.
    round: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    peer: Peer,
    connected: SystemTime,
    tracked: Mutex<Tracked>,
    /// In which round of looking for stalled proxies this one was given something that it has not taken yet; 0 = it
    /// has taken all.
    writing: AtomicU64,
}

/// A stream and when it got where.
#[derive(Debug)]
struct Tracked {
    stream: Stream,
    applied: Arc<str>,
    /// Whether it was last seen to keep what it came with.
    held: bool,
}

/// What a proxy says of itself when it connects.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: Arc<str>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) user_agent: String,
    pub(crate) program: Program,
    pub(crate) variant: &'static str,
    pub(crate) cut: Cut,
    /// Its scope among those of its address, for as long as this lasts.
    #[expect(dead_code, reason = "it counts until it is dropped")]
    pub(crate) counted: Option<Use>,
}

impl Peer {
    /// How far it is with its stream.
    pub(crate) fn sync(&self, stream: &Stream) -> SyncState {
        if self.program.is_unsupported() { SyncState::Unsupported } else { stream.sync() }
    }
}

impl Registry {
    /// An empty registry; its metrics go to `metrics`. Fails when one of their names is taken.
    pub fn new(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            proxies: Mutex::default(),
            changed: watch::Sender::new(()),
            metrics: Metrics::new(metrics)?,
            round: AtomicU64::new(1),
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

    /// Lets `look` see each proxy whose id `of` takes, and its stream, in the order of connecting. Streams wait
    /// meanwhile, each for the look at itself.
    pub(crate) fn for_each<E>(
        &self,
        of: impl Fn(&str) -> bool,
        mut look: impl FnMut(&Peer, &Stream) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut entries = self.entries().into_iter().filter(|entry| of(&entry.peer.id));
        entries.try_for_each(|entry| look(&entry.peer, &entry.lock().stream))
    }

    /// Cuts off proxies that have taken nothing for a whole period while there was something to take. Call it once
    /// a period.
    pub(crate) fn cut_stalled(&self) {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        for entry in self.entries() {
            let since = entry.writing.load(Ordering::Relaxed);
            if since != 0 && since < round {
                tracing::warn!(node = &*entry.peer.id, stream = entry.number, "proxy takes nothing; cut off");
                self.metrics.stream_refused("stalled");
                entry.peer.cut.cut();
            }
        }
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

    /// How many of them keep what is not known here.
    #[must_use]
    pub fn held(&self) -> i64 {
        self.metrics.held.get()
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
        let tracked = Mutex::new(Tracked { stream, applied: Arc::default(), held: false });
        let writing = AtomicU64::new(0);
        let entry = Arc::new(Entry { number, peer, connected: SystemTime::now(), tracked, writing });
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

    /// Notes that the proxy was given something to take, or has taken it.
    pub(crate) fn writing(&self, writing: bool) {
        let round = if writing { self.registry.round.load(Ordering::Relaxed) } else { 0 };
        self.entry.writing.store(round, Ordering::Relaxed);
    }

    /// Lets `act` work on the stream, and notes how far it got.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Stream) -> T) -> T {
        let mut tracked = self.entry.lock();
        let result = act(&mut tracked.stream);
        let mut applied = tracked.stream.reached();
        if tracked.applied != *tracked.stream.latest().version() && tracked.stream.sync() == SyncState::Synced
        {
            applied = Some((Arc::clone(tracked.stream.latest().version()), tracked.stream.wanted_since()));
        }
        if let Some((version, since)) = applied.filter(|(version, _)| *version != tracked.applied) {
            self.registry.metrics.convergence.observe(since.elapsed().as_secs_f64());
            tracked.applied = version;
        }
        if tracked.held != tracked.stream.keeps() {
            self.note_held(&mut tracked);
        }
        drop(tracked);
        self.registry.bump();
        result
    }

    fn note_held(&self, tracked: &mut Tracked) {
        let held = tracked.stream.held();
        tracked.held = held.is_some();
        self.registry.metrics.held.add(if tracked.held { 1 } else { -1 });
        if let Some(Held { reason, resources }) = held {
            tracing::error!(
                node = self.id(),
                resources,
                reason,
                "proxy keeps resources that are not known here"
            );
        } else {
            tracing::info!(node = self.id(), "nothing is held back from the proxy any more");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.registry.metrics.held.sub(self.entry.lock().held.into());
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
            wanted: Arc::clone(tracked.stream.latest().version()),
            applied: Arc::clone(&tracked.applied),
            sync: self.peer.sync(&tracked.stream),
        }
    }

    fn status(&self) -> ProxyStatus {
        let tracked = self.lock();
        ProxyStatus::new(self.number, &self.peer, self.connected, &tracked.applied, &tracked.stream)
    }
}
