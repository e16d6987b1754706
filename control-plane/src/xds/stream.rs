//! One stream of one proxy: which type may be sent when, so that nothing is named before it exists or taken
//! away while it is named. Pure: requests, snapshots and the time go in, responses come out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::in_flight::InFlight;
use super::message::{Asks, Request, Response, Variant};
use super::name_map::NameMap;
use super::names::NamePool;
use super::plan::{Gate, Removal};
use super::subscription::{Backlog, PATIENCE, Subscription};
use super::{ResourceType, Snapshot};

/// Names and held resources of one stream, all types together: four times what we have seen any proxy use.
pub(crate) const MAX_NAMES: usize = 65_536;
/// Longest resource name accepted; Envoy itself sets no bound.
pub(crate) const MAX_NAME_BYTES: usize = 1_024;

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// The proxy asks for more than a stream may.
    #[error("more than {MAX_NAMES} resource names on one stream")]
    TooManyNames,
    /// One name is too long.
    #[error("a resource name is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
}

impl StreamError {
    /// A short name for metrics and logs.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::TooManyNames => "too_many_names",
            Self::NameTooLong => "name_too_long",
        }
    }
}

/// How far the proxy follows the wanted snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncState {
    /// It has acknowledged everything.
    Synced,
    /// Something is on its way, or waits for its turn.
    Pending,
    /// It refuses something that is still wanted.
    Rejecting,
    /// Its Envoy is older than what is served: it is sent nothing, and keeps what it has.
    Unsupported,
}

/// The state of one stream. It always works towards the latest snapshot; steps in between are skipped.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Whether all types go over this stream. Order between types can be kept only there.
    aggregated: bool,
    wanted: Arc<Snapshot>,
    pool: Arc<NamePool>,
    opened: Instant,
    wanted_since: Instant,
    /// Until when it is expected to ask for more types.
    starting: Option<Instant>,
    /// Whether the proxy came with clusters of an earlier stream, which its listeners may still name.
    resumed: bool,
    secrets: Subscription,
    clusters: Subscription,
    endpoints: Subscription,
    listeners: Subscription,
    extensions: Subscription,
    /// Clusters whose endpoints the proxy has yet to ask for, and until when we wait for that.
    awaited: NameMap<Instant>,
    /// The EDS response that must be answered before listeners and filters change. EDS responses after it
    /// do not matter: endpoints that never rest must not hold filters back for ever.
    barrier: u64,
    raise_barrier: bool,
}

impl Stream {
    pub(crate) fn new(
        variant: Variant,
        aggregated: bool,
        wanted: Arc<Snapshot>,
        pool: Arc<NamePool>,
        now: Instant,
    ) -> Self {
        Self {
            aggregated,
            wanted,
            pool,
            opened: now,
            wanted_since: now,
            starting: None,
            resumed: false,
            secrets: Subscription::new(ResourceType::Secret, variant),
            clusters: Subscription::new(ResourceType::Cluster, variant),
            endpoints: Subscription::new(ResourceType::Endpoints, variant),
            listeners: Subscription::new(ResourceType::Listener, variant),
            extensions: Subscription::new(ResourceType::Extension, variant),
            awaited: NameMap::default(),
            barrier: 0,
            raise_barrier: false,
        }
    }

    /// The state of one type.
    pub(crate) const fn of(&self, kind: ResourceType) -> &Subscription {
        match kind {
            ResourceType::Secret => &self.secrets,
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoints => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Extension => &self.extensions,
        }
    }

    const fn of_mut(&mut self, kind: ResourceType) -> &mut Subscription {
        match kind {
            ResourceType::Secret => &mut self.secrets,
            ResourceType::Cluster => &mut self.clusters,
            ResourceType::Endpoints => &mut self.endpoints,
            ResourceType::Listener => &mut self.listeners,
            ResourceType::Extension => &mut self.extensions,
        }
    }

    /// What the proxy should have.
    pub(crate) const fn wanted(&self) -> &Arc<Snapshot> {
        &self.wanted
    }

    /// Since when it should have that: the change, or the opening of the stream.
    pub(crate) const fn wanted_since(&self) -> Instant {
        self.wanted_since
    }

    /// How far the proxy is. It is not in sync before it had time to ask for all there is, and what is under way
    /// counts before what is refused: who waits for an end of it must not stop too early.
    pub(crate) fn sync(&self) -> SyncState {
        let asked = || ResourceType::ALL.map(|kind| self.of(kind)).into_iter().filter(|s| s.asked());
        if self.wanted.is_pending()
            || asked().next().is_none()
            || self.starting.is_some()
            || !self.awaited.is_empty()
            || asked().any(Subscription::moves)
        {
            SyncState::Pending
        } else if asked().any(Subscription::rejecting) {
            SyncState::Rejecting
        } else if asked().all(Subscription::settled) {
            SyncState::Synced
        } else {
            SyncState::Pending
        }
    }

    /// Until when the proxy may be about to ask for a type of which there is something. Envoy asks for endpoints
    /// once it has clusters, and for filters once it has listeners.
    fn starting(&self, now: Instant) -> Option<Instant> {
        let unasked =
            |kind: &ResourceType| !self.of(*kind).asked() && self.wanted.of(*kind).eager().next().is_some();
        let until = Some(self.opened + PATIENCE).filter(|until| self.aggregated && now < *until)?;
        ResourceType::ALL.iter().any(unasked).then_some(until)
    }

    /// Takes a request in. Returns what to send, and whether the proxy refused something.
    pub(crate) fn on_request(
        &mut self,
        request: Request,
        now: Instant,
        clock: SystemTime,
    ) -> Result<(Vec<Response>, bool), StreamError> {
        check_names(&request.asks)?;
        let kind = request.kind;
        let wanted = Arc::clone(&self.wanted);
        if self.asks_again(&request) {
            self.repeat_endpoints();
        }
        let claims = matches!(&request.asks, Asks::Change { initial, .. } if !initial.is_empty())
            || matches!(&request.asks, Asks::All { version, .. } if !version.is_empty());
        let resumes = claims && self.clusters.sent == 0;
        let stale = self.of(kind).stale(&request);
        let first = self.of(kind).sent == 0;
        self.extensions.retry.heard(clock, claims && first);
        let pool = Arc::clone(&self.pool);
        let refused = self.of_mut(kind).on_request(request, wanted.of(kind), &pool, clock);
        if stale {
            return Ok((Vec::new(), refused));
        }
        if ResourceType::ALL.iter().map(|kind| self.of(*kind).names()).sum::<usize>() > MAX_NAMES {
            return Err(StreamError::TooManyNames);
        }
        match kind {
            ResourceType::Cluster => {
                self.resumed |= resumes;
                // Whether endpoints are taken away depends on what became of their cluster.
                self.endpoints.dirty = true;
            }
            ResourceType::Endpoints => {
                let interest = &self.endpoints.interest;
                let before = self.awaited.len();
                if interest.wildcard() {
                    self.awaited.take();
                } else {
                    interest.names().remove_from(&mut self.awaited);
                }
                self.raise_barrier |= self.awaited.len() != before;
            }
            ResourceType::Secret | ResourceType::Listener | ResourceType::Extension => {}
        }
        Ok((self.advance(now), refused))
    }

    /// Takes a new snapshot as the one to work towards.
    pub(crate) fn on_snapshot(&mut self, wanted: Arc<Snapshot>, now: Instant) -> Vec<Response> {
        let before = std::mem::replace(&mut self.wanted, wanted);
        self.wanted_since = self.wanted.made().unwrap_or(now);
        let wanted = Arc::clone(&self.wanted);
        for kind in ResourceType::ALL {
            if before.of(kind).version() != wanted.of(kind).version() {
                self.of_mut(kind).on_wanted(before.of(kind), wanted.of(kind));
                self.raise_barrier |= !matches!(kind, ResourceType::Endpoints | ResourceType::Secret);
            }
        }
        self.awaited.retain(|name, _| wanted.of(ResourceType::Cluster).get(name).is_some());
        self.advance(now)
    }

    /// Lets time pass: nothing waits longer than its patience.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Response> {
        self.advance(now)
    }

    /// When `tick` should be called next, if nothing happens before.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let acknowledgements = ResourceType::ALL.iter().filter_map(|kind| self.of(*kind).deadline());
        let awaited = self.awaited.iter().map(|(_, until)| *until);
        let listeners = Some(self.opened + PATIENCE).filter(|_| self.resumed && self.clusters.unsent());
        let waits = listeners.into_iter().chain(self.starting).chain(self.extensions.retry_at());
        acknowledgements.chain(awaited).chain(waits).filter(|at| *at > now).min()
    }

    /// Sends whatever may be sent now, in order: make (secrets, clusters, their endpoints), change what names them
    /// (listeners, filters), break (clusters that nothing names any more) (22). A secret waits for nothing: what
    /// names it warms in Envoy until it comes, and Envoy asks for it only then. It is never taken away: Envoy
    /// ignores that, and drops the name with the last cluster or listener that has it.
    fn advance(&mut self, now: Instant) -> Vec<Response> {
        self.starting = self.starting(now);
        if self.wanted.is_pending() {
            return Vec::new();
        }
        let wanted = Arc::clone(&self.wanted);
        let clusters = wanted.of(ResourceType::Cluster);
        self.awaited.retain(|_, until| *until > now);
        let secrets = wanted.of(ResourceType::Secret);
        let mut out = Vec::from_iter(self.secrets.push(secrets, Gate::Open, &|_| Removal::Never, now));
        // A cluster that comes and goes before it is accepted goes at once: its endpoints, for which Envoy
        // waits, will never come.
        let leaving = self.clusters.has_leftovers(clusters);
        let unborn = if leaving { self.clusters.unborn() } else { BTreeSet::new() };
        let removal = |name: &str| if unborn.contains(name) { Removal::Now } else { Removal::Later };
        if let Some(response) = self.clusters.push(clusters, Gate::Open, &removal, now) {
            out.push(response);
            self.clusters_sent(now);
        }
        out.extend(self.push_endpoints(&wanted, now));
        let gate = self.gate();
        let removal = |_: &str| Removal::Now;
        out.extend(self.listeners.push(wanted.of(ResourceType::Listener), gate, &removal, now));
        let extensions = wanted.of(ResourceType::Extension);
        self.extensions.try_again(extensions, now);
        self.extensions.last = if self.filters_are_in_force() { Gate::Open } else { Gate::Closed };
        out.extend(self.extensions.push(extensions, gate, &|_| Removal::Never, now));
        if self.clusters.unsent() && self.nothing_names_the_past(gate, now) {
            out.extend(self.clusters.push(clusters, Gate::Open, &removal, now));
        }
        out
    }

    /// Endpoints follow changed clusters at once, even unchanged ones: Envoy warms the cluster, and keeps
    /// its acknowledgement back, until it sees them (8, 14). Those of new clusters it has to ask for.
    fn clusters_sent(&mut self, now: Instant) {
        let Some(sent) = self.clusters.in_flight.back() else { return };
        let holds_back = self.holds_filters_back(sent);
        self.raise_barrier |= holds_back;
        let endpoints = self.wanted.of(ResourceType::Endpoints);
        let names = sent.changes.iter().map(|change| change.sent.name());
        let (asked_for, awaited): (Vec<_>, Vec<_>) = names
            .filter(|name| endpoints.get(name).is_some())
            .cloned()
            .partition(|name| self.endpoints.interest.names_or_all(name));
        self.endpoints.due.extend(asked_for.into_iter().map(|name| (name, ())));
        if holds_back && self.aggregated {
            self.awaited.extend(awaited.into_iter().map(|name| (name, now + PATIENCE)));
        }
    }

    /// Whether filters wait for these clusters. A listener that asks for clusters on demand keeps the player
    /// waiting until they are there; if they held filters back, a crowd of players at new worlds would do so
    /// for as long as it comes.
    fn holds_filters_back(&self, sent: &InFlight) -> bool {
        let clusters = self.wanted.of(ResourceType::Cluster);
        sent.changes.is_empty()
            || !sent.changes.iter().all(|change| clusters.is_on_demand(change.sent.name()))
    }

    fn push_endpoints(&mut self, wanted: &Snapshot, now: Instant) -> Option<Response> {
        let (clusters, made) = (&self.clusters, wanted.of(ResourceType::Cluster));
        // The proxy itself lets go of the endpoints of a removed cluster; while it has the cluster, taking
        // them away would not empty it (15).
        let removal = |name: &str| {
            if clusters.variant == Variant::Sotw || clusters.held(name, made).is_some() {
                Removal::Never
            } else if clusters.in_flight.is_empty() {
                Removal::Now
            } else {
                Removal::Later
            }
        };
        let response = self.endpoints.push(wanted.of(ResourceType::Endpoints), Gate::Open, &removal, now);
        let waiting = response.is_none() && self.endpoints.unsent();
        if self.raise_barrier {
            self.barrier = self.endpoints.sent + u64::from(waiting);
            // What waits may be too large for one response, too.
            self.raise_barrier = waiting || self.endpoints.backlog == Backlog::Rest;
        } else if !waiting {
            self.barrier = self.barrier.min(self.endpoints.sent);
        }
        response
    }

    /// Whether listeners and filters may change.
    fn gate(&self) -> Gate {
        let making = self.clusters.backlog == Backlog::Ready
            || self.clusters.in_flight.iter().any(|sent| self.holds_filters_back(sent))
            || self.endpoints.answered < self.barrier
            || !self.awaited.is_empty();
        if making {
            Gate::Closed
        } else if [&self.secrets, &self.clusters, &self.endpoints].iter().all(|made| made.rejected.is_empty())
        {
            Gate::Open
        } else {
            Gate::NewOnly
        }
    }

    /// Whether the proxy's listeners and filters are those of the wanted snapshot, so that clusters which
    /// it does not have can go.
    fn nothing_names_the_past(&self, gate: Gate, now: Instant) -> bool {
        gate == Gate::Open
            && [&self.listeners, &self.extensions].into_iter().all(|namer| {
                if namer.asked() { namer.settled() } else { !self.resumed || now >= self.opened + PATIENCE }
            })
    }

    /// Envoy in state of the world asks for the endpoints of a changed cluster by repeating its last
    /// acknowledgement (8). While the clusters are not acknowledged that is what a repetition means.
    fn asks_again(&self, request: &Request) -> bool {
        request.kind == ResourceType::Endpoints
            && request.error.is_none()
            && self.endpoints.sent != 0
            && self.endpoints.answered == self.endpoints.sent
            && request.nonce == self.endpoints.sent.to_string()
            && matches!(request.asks, Asks::All { .. })
    }

    fn repeat_endpoints(&mut self) {
        let endpoints = self.wanted.of(ResourceType::Endpoints);
        let names = self.clusters.in_flight.iter().flat_map(|sent| &sent.changes);
        let names = names.map(|change| change.sent.name());
        let again = names
            .filter(|name| endpoints.get(name).is_some() && self.endpoints.interest.names_or_all(name))
            .map(|name| (Arc::clone(name), ()))
            .collect::<Vec<_>>();
        self.endpoints.due.extend(again);
    }
}

fn check_names(asks: &Asks) -> Result<(), StreamError> {
    let (count, longest) = match asks {
        Asks::All { names, .. } => (names.len(), names.longest()),
        Asks::Change { subscribe, unsubscribe, initial } => (
            subscribe.len().max(initial.len() / 2),
            subscribe.longest().max(unsubscribe.longest()).max(initial.longest()),
        ),
    };
    if count > MAX_NAMES {
        Err(StreamError::TooManyNames)
    } else if longest > MAX_NAME_BYTES {
        Err(StreamError::NameTooLong)
    } else {
        Ok(())
    }
}
