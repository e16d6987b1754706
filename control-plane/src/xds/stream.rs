//! One stream of one proxy: which type may be sent when, so that nothing is named before it exists or taken
//! away while it is named. Pure: requests, snapshots and the time go in, responses come out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::bounds::{MAX_NAMES, StreamError, check_names};
use super::budget::{Account, Kept};
use super::gate::{Course, NEVER_ASKS, WARMS_LONG};
use super::generation::Generation;
use super::message::{Asks, Request, Response, Variant};
use super::name_map::NameMap;
use super::names::NamePool;
use super::plan::{Gate, Removal};
use super::subscription::{Backlog, PATIENCE, Subscription};
use super::{ResourceType, Snapshot};

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

/// The state of one stream. It works towards one snapshot at a time, and then towards the latest; steps in between are
/// skipped.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Whether all types go over this stream. Order between types can be kept only there.
    pub(super) aggregated: bool,
    pub(super) generation: Generation,
    pool: Arc<NamePool>,
    pub(super) opened: Instant,
    /// When it was last asked for a type for the first time.
    pub(super) last_asked: Instant,
    wanted_since: Instant,
    /// The last generation that was completed while a newer one waited, and since when it was wanted.
    reached: Option<(Arc<str>, Instant)>,
    /// Until when it is expected to ask for more types.
    starting: Option<Instant>,
    /// Whether the proxy came with what an earlier stream gave it.
    pub(super) resumed: bool,
    /// What it asked for first, of what depends on other types.
    pub(super) began_with: Option<ResourceType>,
    /// While it may hold its question for clusters back: when to look again.
    held_back: Option<Instant>,
    runtime: Subscription,
    pub(super) secrets: Subscription,
    pub(super) clusters: Subscription,
    pub(super) endpoints: Subscription,
    pub(super) listeners: Subscription,
    pub(super) extensions: Subscription,
    /// Clusters whose endpoints the proxy has yet to ask for, and until when we wait for that.
    pub(super) awaited: NameMap<()>,
    pub(super) awaited_until: Option<Instant>,
    /// The EDS response that must be answered before listeners and filters change. EDS responses after it
    /// do not matter: endpoints that never rest must not hold filters back for ever.
    pub(super) barrier: u64,
    raise_barrier: bool,
    /// What keeping all that the proxy said since that was last counted would take: looked at again when it may be as much again.
    said: usize,
    counted: Kept,
}

/// What keeping the texts of requests would take, before they are looked at for what is kept of them.
const LOOK_EVERY: usize = 64 << 10;

impl Stream {
    pub(crate) fn new(
        variant: Variant,
        aggregated: bool,
        wanted: Arc<Snapshot>,
        pool: Arc<NamePool>,
        account: &Account,
        now: Instant,
    ) -> Self {
        Self {
            aggregated,
            generation: Generation::new(wanted),
            pool,
            opened: now,
            last_asked: now,
            wanted_since: now,
            reached: None,
            starting: None,
            resumed: false,
            began_with: None,
            held_back: None,
            runtime: Subscription::new(ResourceType::Runtime, variant, account),
            secrets: Subscription::new(ResourceType::Secret, variant, account),
            clusters: Subscription::new(ResourceType::Cluster, variant, account),
            endpoints: Subscription::new(ResourceType::Endpoints, variant, account),
            listeners: Subscription::new(ResourceType::Listener, variant, account),
            extensions: Subscription::new(ResourceType::Extension, variant, account),
            awaited: NameMap::default(),
            awaited_until: None,
            barrier: 0,
            raise_barrier: false,
            said: 0,
            counted: account.keep(),
        }
    }

    /// The state of one type.
    pub(crate) const fn of(&self, kind: ResourceType) -> &Subscription {
        match kind {
            ResourceType::Runtime => &self.runtime,
            ResourceType::Secret => &self.secrets,
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoints => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Extension => &self.extensions,
        }
    }

    pub(super) const fn of_mut(&mut self, kind: ResourceType) -> &mut Subscription {
        match kind {
            ResourceType::Runtime => &mut self.runtime,
            ResourceType::Secret => &mut self.secrets,
            ResourceType::Cluster => &mut self.clusters,
            ResourceType::Endpoints => &mut self.endpoints,
            ResourceType::Listener => &mut self.listeners,
            ResourceType::Extension => &mut self.extensions,
        }
    }

    /// What the stream works towards.
    pub(crate) const fn wanted(&self) -> &Arc<Snapshot> {
        self.generation.wanted()
    }

    /// What the proxy should have.
    pub(crate) const fn latest(&self) -> &Arc<Snapshot> {
        self.generation.latest()
    }

    /// How many resources of this type the proxy was not sent yet, or has not acknowledged.
    pub(crate) fn pending(&self, kind: ResourceType) -> usize {
        let (of, wanted, latest) = (self.of(kind), self.wanted().of(kind), self.latest().of(kind));
        let later = latest.changes_since(wanted);
        let later = later.iter().filter(|change| of.interest.names_or_all(&change.name)).count();
        of.pending(wanted) + later
    }

    /// The version of a snapshot that was acknowledged while a newer one waited, and since when it was wanted; told once.
    pub(crate) fn reached(&mut self) -> Option<(Arc<str>, Instant)> {
        self.reached.take()
    }

    /// Since when it should have that: the change, or the opening of the stream.
    pub(crate) const fn wanted_since(&self) -> Instant {
        self.wanted_since
    }

    /// How far the proxy is. It is not in sync before it had time to ask for all there is, and what is under way
    /// counts before what is refused: who waits for an end of it must not stop too early.
    pub(crate) fn sync(&self) -> SyncState {
        let asked = || ResourceType::ALL.map(|kind| self.of(kind)).into_iter().filter(|s| s.asked());
        if self.latest().is_pending()
            || self.latest().lacks_filters()
            || !self.generation.is_latest()
            || asked().next().is_none()
            || self.starting.is_some()
            || !self.awaited.is_empty()
            || self.held_back.is_some()
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
            |kind: &ResourceType| !self.of(*kind).asked() && self.latest().of(*kind).eager().next().is_some();
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
        self.said += request.asks.cost();
        let kind = request.kind;
        let wanted = Arc::clone(self.wanted());
        if self.asks_again(&request) {
            self.repeat_endpoints();
        }
        let claims = !self.of(kind).asked() && brings_state(&request.asks);
        if !self.of(kind).asked() {
            self.last_asked = now;
            // Runtime layers and secrets depend on nothing, and say nothing about the rest.
            if !matches!(kind, ResourceType::Runtime | ResourceType::Secret) {
                self.began_with.get_or_insert(kind);
            }
        }
        if claims {
            self.resumed = true;
            self.generation.resume();
        }
        self.extensions.retry.heard(clock, claims);
        let stale = self.of(kind).stale(&request);
        let pool = Arc::clone(&self.pool);
        let refused = self.of_mut(kind).on_request(request, wanted.of(kind), &pool, clock);
        if stale {
            return Ok((Vec::new(), refused));
        }
        if ResourceType::ALL.iter().map(|kind| self.of(*kind).names()).sum::<usize>() > MAX_NAMES {
            return Err(StreamError::TooManyNames);
        }
        self.count()?;
        match kind {
            // Whether endpoints are taken away depends on what became of their cluster.
            ResourceType::Cluster => self.endpoints.dirty = true,
            ResourceType::Endpoints => self.endpoints_are_asked_for(),
            ResourceType::Runtime
            | ResourceType::Secret
            | ResourceType::Listener
            | ResourceType::Extension => {}
        }
        Ok((self.advance(now), refused))
    }

    /// Counts what is kept of what the proxy said, when it said as much again as that was the last time.
    fn count(&mut self) -> Result<(), StreamError> {
        if self.said < LOOK_EVERY {
            return Ok(());
        }
        let wanted = Arc::clone(self.wanted());
        let kept = ResourceType::ALL.iter().map(|kind| self.of(*kind).said(wanted.of(*kind))).sum();
        self.said = 0;
        if self.counted.count(kept) { Ok(()) } else { Err(StreamError::TooMuch) }
    }

    /// Takes a new snapshot in: as the one to work towards, or to be taken up after the one under way.
    pub(crate) fn on_snapshot(&mut self, latest: Arc<Snapshot>, now: Instant) -> Vec<Response> {
        self.wanted_since = latest.made().unwrap_or(now);
        let course = self.course(now);
        let before = Arc::clone(self.wanted());
        self.generation.remember(latest);
        self.move_on(course, &before);
        self.advance(now)
    }

    /// Takes the latest snapshot up, unless the one under way comes first. `before`: what was worked towards until now.
    fn move_on(&mut self, course: Course, before: &Snapshot) {
        if !self.generation.is_latest() {
            match course {
                Course::UnderWay => {}
                Course::Complete => {
                    self.generation.move_on();
                }
                Course::Open => self.generation.leave(),
                Course::TooLong => self.generation.give_up(),
            }
        }
        let wanted = Arc::clone(self.wanted());
        for kind in ResourceType::ALL {
            if before.of(kind).version() != wanted.of(kind).version() {
                self.of_mut(kind).on_wanted(before.of(kind), wanted.of(kind));
                self.raise_barrier |=
                    !matches!(kind, ResourceType::Endpoints | ResourceType::Runtime | ResourceType::Secret);
            }
        }
        self.awaited.retain(|name, ()| wanted.of(ResourceType::Cluster).get(name).is_some());
    }

    /// Lets time pass: nothing waits longer than its patience.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Response> {
        self.advance(now)
    }

    /// When `tick` should be called next, if nothing happens before.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let acknowledgements = ResourceType::ALL.iter().filter_map(|kind| self.of(*kind).deadline());
        let unknown = self.clusters_are_unknown(now);
        let unsaid = self.resumed && (self.clusters.unsent() || self.listeners.unsent()) || unknown;
        let listeners = Some(self.last_asked + PATIENCE).filter(|_| unsaid);
        let warming = Some(self.last_asked + WARMS_LONG).filter(|_| unknown);
        let retry = self.extensions.retry_at();
        let waits = [self.awaited_until, listeners, warming, self.held_back, self.starting, retry]
            .into_iter()
            .flatten();
        acknowledgements.chain(waits).chain(self.cure_deadline()).filter(|at| *at > now).min()
    }

    /// Sends whatever may be sent now, in order: make (secrets, clusters, their endpoints), change what names them
    /// (listeners, filters), break (clusters that nothing names any more) (22). A secret waits for nothing: what
    /// names it warms in Envoy until it comes, and Envoy asks for it only then. It is never taken away: Envoy
    /// ignores that, and drops the name with the last cluster or listener that has it.
    fn advance(&mut self, now: Instant) -> Vec<Response> {
        self.starting = self.starting(now);
        let mut out = Vec::new();
        loop {
            out.extend(self.make_and_change(now));
            let course = self.course(now);
            if course == Course::Complete {
                self.generation.completed();
            }
            self.held_back = self.holds_clusters_back(now).then(|| self.opened + NEVER_ASKS);
            if self.generation.is_latest() || course == Course::UnderWay {
                break;
            }
            if course == Course::Complete && self.starting.is_none() {
                let since = self.wanted().made().unwrap_or(self.wanted_since);
                self.reached = Some((Arc::clone(self.wanted().version()), since));
            }
            let before = Arc::clone(self.wanted());
            self.move_on(course, &before);
        }
        // Nothing names them any more, and no newer snapshot brought a response for them to go with.
        if self.clusters.backlog == Backlog::Withheld {
            out.extend(self.push_clusters(now));
        }
        out
    }

    /// Clusters go when nothing can name them any more.
    fn push_clusters(&mut self, now: Instant) -> Option<Response> {
        let wanted = Arc::clone(self.wanted());
        let wanted = wanted.of(ResourceType::Cluster);
        // A cluster that comes and goes before it is accepted goes at once: its endpoints, for which Envoy
        // waits, will never come. In state of the world it may be one of an earlier stream.
        let had = self.resumed && self.clusters.variant == Variant::Sotw && !self.generation.any_completed;
        let leaving = !had && self.clusters.has_leftovers(wanted);
        let unborn = if leaving { self.clusters.unborn() } else { BTreeSet::new() };
        let generation = &self.generation;
        let removal = |name: &str| {
            if unborn.contains(name) || generation.may_go(name) { Removal::Now } else { Removal::Later }
        };
        self.clusters.push(wanted, Gate::Open, &removal, now)
    }

    /// Make, and change.
    fn make_and_change(&mut self, now: Instant) -> Vec<Response> {
        if self.wanted().is_pending() {
            return Vec::new();
        }
        let wanted = Arc::clone(self.wanted());
        let keeps = self.note_hold(&wanted, now);
        // What nothing names by name waits for nothing either, and Envoy starts with it.
        let (runtime, secrets) = (wanted.of(ResourceType::Runtime), wanted.of(ResourceType::Secret));
        let mut out = Vec::from_iter(self.runtime.push(runtime, Gate::Open, &|_| Removal::Never, now));
        let gate = Gate::Open.keeping(self.secrets.keeps);
        out.extend(self.secrets.push(secrets, gate, &|_| Removal::Never, now));
        if let Some(response) = self.push_clusters(now) {
            out.push(response);
            self.clusters_sent();
        }
        self.await_endpoints(now);
        self.end_warming(now);
        let wanted = Arc::clone(self.wanted());
        out.extend(self.push_endpoints(&wanted, now));
        let gate = self.gate(now).keeping(keeps);
        let removal = |_: &str| Removal::Now;
        out.extend(self.listeners.push(wanted.of(ResourceType::Listener), gate, &removal, now));
        let extensions = wanted.of(ResourceType::Extension);
        self.extensions.try_again(extensions, now);
        self.extensions.last = if self.filters_are_in_force() { Gate::Open } else { Gate::Closed };
        out.extend(self.extensions.push(extensions, gate, &|_| Removal::Never, now));
        out
    }

    /// Endpoints follow changed clusters at once, even unchanged ones: Envoy warms the cluster, and keeps
    /// its acknowledgement back, until it sees them (8, 14). Those of new clusters it has to ask for.
    fn clusters_sent(&mut self) {
        let Some(sent) = self.clusters.in_flight.back() else { return };
        let holds_back = self.holds_filters_back(sent);
        self.raise_barrier |= holds_back;
        let wanted = Arc::clone(self.wanted());
        let endpoints = wanted.of(ResourceType::Endpoints);
        let names = sent.changes.iter().map(|change| change.sent.name());
        let (asked_for, awaited): (Vec<_>, Vec<_>) = names
            .filter(|name| endpoints.get(name).is_some())
            .cloned()
            .partition(|name| self.endpoints.interest.names_or_all(name));
        self.endpoints.due.extend(asked_for.into_iter().map(|name| (name, ())));
        if holds_back && self.aggregated {
            self.awaited.extend(awaited.into_iter().map(|name| (name, ())));
        }
    }

    fn push_endpoints(&mut self, wanted: &Snapshot, now: Instant) -> Option<Response> {
        let unknown = self.clusters_are_unknown(now);
        let (clusters, made) = (&self.clusters, wanted.of(ResourceType::Cluster));
        // The proxy itself lets go of the endpoints of a removed cluster; while it has the cluster, taking
        // them away would not empty it (15).
        let removal = |name: &str| {
            if unknown {
                Removal::Later
            } else if clusters.variant == Variant::Sotw || clusters.held(name, made).is_some() {
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

    /// Endpoints of clusters that this stream sent are said though the proxy has them: after a reconnect it says that it does
    /// of the cluster before, and the changed one waits for them (14).
    fn endpoints_are_asked_for(&mut self) {
        let interest = &self.endpoints.interest;
        let asked_for = if interest.wildcard() {
            self.awaited.take().into_iter().map(|(name, ())| name).collect()
        } else {
            interest.names().take_from(&mut self.awaited)
        };
        self.raise_barrier |= !asked_for.is_empty();
        self.endpoints.due.extend(asked_for.into_iter().map(|name| (name, ())));
    }

    fn repeat_endpoints(&mut self) {
        let wanted = Arc::clone(self.wanted());
        let endpoints = wanted.of(ResourceType::Endpoints);
        let names = self.clusters.in_flight.iter().flat_map(|sent| &sent.changes);
        let names = names.map(|change| change.sent.name());
        let again = names
            .filter(|name| endpoints.get(name).is_some() && self.endpoints.interest.names_or_all(name))
            .map(|name| (Arc::clone(name), ()))
            .collect::<Vec<_>>();
        self.endpoints.due.extend(again);
    }
}

/// Whether the first request of a type says that the proxy has some of it (3, 13).
fn brings_state(asks: &Asks) -> bool {
    match asks {
        Asks::All { version, .. } => !version.is_empty(),
        Asks::Change { initial, .. } => !initial.is_empty(),
    }
}
