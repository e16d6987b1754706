//! When listeners and filters of one stream may change, when what they named may go, and when the next snapshot is taken up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::in_flight::InFlight;
use super::plan::Gate;
use super::stream::Stream;
use super::subscription::{Backlog, PATIENCE, Subscription};
use super::{Resource, ResourceType};

/// How long a proxy that comes back, and asks for neither clusters nor endpoints, is thought to hold its question for clusters
/// back. What warms then has a name to resolve, and Envoy gives that up in less.
pub(super) const NEVER_ASKS: Duration = Duration::from_mins(1);

/// How long clusters may warm before that is a problem: one to tell of, and to end where nobody wants them any more.
pub(super) const WARMS_LONG: Duration = Duration::from_secs(10);

/// What becomes of the snapshot that a stream works towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// The proxy has yet to acknowledge it.
    UnderWay,
    /// The proxy has acknowledged it: its listeners and filters are those in force.
    Complete,
    /// It cannot be completed, or nothing of it was sent: a newer one is better at once.
    Open,
    /// It takes long, and a newer one has another version of what the proxy does not acknowledge: perhaps the cure.
    TooLong,
}

impl Stream {
    /// Whether listeners and filters may change.
    pub(super) fn gate(&self, now: Instant) -> Gate {
        let making = self.clusters.backlog == Backlog::Ready
            || self.clusters_in_flight()
            || self.endpoints.answered < self.barrier
            || !self.awaited.is_empty()
            || self.holds_clusters_back(now);
        if making {
            Gate::Closed
        } else if [&self.secrets, &self.clusters, &self.endpoints].iter().all(|made| made.rejected.is_empty())
        {
            Gate::Open
        } else {
            Gate::NewOnly
        }
    }

    /// Whether the proxy has yet to acknowledge clusters for which filters wait.
    fn clusters_in_flight(&self) -> bool {
        self.clusters.in_flight.iter().any(|sent| self.holds_filters_back(sent))
    }

    /// Whether filters wait for these clusters. A listener that asks for clusters on demand keeps the player
    /// waiting until they are there; if they held filters back, a crowd of players at new worlds would do so
    /// for as long as it comes.
    pub(super) fn holds_filters_back(&self, sent: &InFlight) -> bool {
        let clusters = self.wanted().of(ResourceType::Cluster);
        sent.changes.is_empty()
            || !sent.changes.iter().all(|change| clusters.is_on_demand(change.sent.name()))
    }

    /// Whether the proxy may have clusters of which we know nothing. While a cluster warms Envoy asks for none, not even on a
    /// new stream, where all else is asked for at once: until it does, nothing says which clusters it has in force. Who
    /// comes back and asks for endpoints has clusters to ask for; how long they warm is for their health checks to say,
    /// not for us. Who asks for none may have clusters that need none.
    pub(super) fn holds_clusters_back(&self, now: Instant) -> bool {
        if !self.aggregated || self.clusters.asked() {
            return false;
        }
        let [clusters, endpoints] =
            [ResourceType::Cluster, ResourceType::Endpoints].map(|kind| self.latest().of(kind));
        let (mut all, endpoints_of) = (clusters.eager(), |name: &str| endpoints.get(name).is_some());
        match (self.resumed, self.endpoints.asked()) {
            (true, true) => all.next().is_some(),
            (true, false) => {
                now < self.opened + NEVER_ASKS && all.any(|cluster| !endpoints_of(cluster.name()))
            }
            (false, _) => self.began_with == Some(ResourceType::Endpoints) && now < self.opened + NEVER_ASKS,
        }
    }

    /// Whether it is not known which clusters the proxy has, so that endpoints which are not wanted stay: from one that warms
    /// they would take all. Who asks for endpoints alone has its clusters from elsewhere.
    pub(super) fn clusters_are_unknown(&self, now: Instant) -> bool {
        let asks_for_more = self.listeners.asked() || self.extensions.asked();
        self.aggregated && !self.clusters.asked() && (asks_for_more || now < self.last_asked + PATIENCE)
    }

    /// Clusters that the proxy may hold its question for clusters back for, though nobody wants them any more: with no endpoints
    /// left to check they warm no longer. Nothing else reaches them, since Envoy takes no clusters until it has asked for them.
    /// Their players lose them a little before the filter that names them goes.
    pub(super) fn end_warming(&mut self, now: Instant) {
        let waits = self.resumed && self.clusters_are_unknown(now) && !self.clusters.keeps;
        if !waits || now < self.last_asked + WARMS_LONG {
            return;
        }
        let (latest, wanted) = (self.latest(), Arc::clone(self.wanted()));
        let is_wanted = |name: &str| {
            let sets = [latest, &wanted].into_iter();
            let mut sets =
                sets.flat_map(|of| [ResourceType::Cluster, ResourceType::Endpoints].map(|kind| of.of(kind)));
            sets.any(|set| set.get(name).is_some())
        };
        let names = self.endpoints.interest.names().iter().filter(|name| !is_wanted(name));
        let empty: Vec<_> = names.map(|name| Arc::new(empty_assignment(name))).collect();
        if empty.is_empty() {
            return;
        }
        self.generation.add_endpoints(empty);
        let endpoints = Arc::clone(self.wanted().of(ResourceType::Endpoints));
        self.endpoints.on_wanted(wanted.of(ResourceType::Endpoints), &endpoints);
    }

    /// Clusters that have been warming for long, if any: those that were sent on this stream by name.
    pub(super) fn warms_long(&self, now: Instant) -> Option<Vec<&str>> {
        let sent = self.clusters.in_flight.iter().filter(|sent| now >= sent.at + WARMS_LONG);
        let names: Vec<_> = sent.flat_map(|sent| &sent.changes).map(|change| &**change.sent.name()).collect();
        let held_back = now >= self.last_asked + WARMS_LONG && self.resumed && self.holds_clusters_back(now);
        (held_back || !names.is_empty()).then_some(names)
    }

    /// Clusters whose endpoints the proxy has not asked for are awaited as long as it has not acknowledged them, and a while
    /// after that: Envoy asks before it acknowledges.
    pub(super) fn await_endpoints(&mut self, now: Instant) {
        if self.awaited.is_empty() || self.clusters_in_flight() {
            self.awaited_until = None;
            return;
        }
        let until = *self.awaited_until.get_or_insert(now + PATIENCE);
        if until <= now {
            self.awaited.take();
            self.awaited_until = None;
        }
    }

    /// How the snapshot under way fares.
    pub(super) fn course(&self, now: Instant) -> Course {
        // Listeners and filters of who keeps what it came with may be those of an earlier life, and so may those that stay for
        // want of others. Secrets name no cluster.
        let wanted = self.wanted();
        if wanted.is_pending() || wanted.lacks_filters() || self.clusters.keeps {
            return Course::Open;
        }
        let namers = [&self.listeners, &self.extensions];
        if self.gate(now) == Gate::Open && namers.iter().all(|namer| !namer.asked() || namer.settled()) {
            // Listeners and filters of an earlier stream, of which it has yet to speak, may name what is not wanted.
            let spoken = namers.iter().all(|namer| namer.asked());
            let known = spoken || !self.resumed || now >= self.last_asked + PATIENCE;
            return if known { Course::Complete } else { Course::Open };
        }
        // What filters wait for: with one of these refused they stay as they are. A listener or filter that is refused hinders
        // nobody while clusters are under way, and a runtime layer never does.
        let made = [&self.secrets, &self.clusters, &self.endpoints];
        let refused = made.into_iter().any(Subscription::rejecting)
            || self.gate(now) != Gate::Closed && namers.into_iter().any(Subscription::rejecting);
        if !self.clusters.asked() || refused || !self.is_under_way(now) {
            Course::Open
        } else if self.waits_for_a_cure(now) {
            Course::TooLong
        } else {
            Course::UnderWay
        }
    }

    /// Whether an answer of the proxy is still to come, after which there is more to say. Where none is, what is held back
    /// would wait for ever.
    fn is_under_way(&self, now: Instant) -> bool {
        self.gate(now) == Gate::Closed || Self::ORDERED.into_iter().any(|kind| self.of(kind).moves())
    }

    fn waits_for_a_cure(&self, now: Instant) -> bool {
        let latest = self.latest();
        let mut waiting = Self::ORDERED.into_iter().filter(|kind| {
            let oldest = self.of(*kind).in_flight.front();
            oldest.is_some_and(|oldest| oldest.at + self.generation.patience() <= now)
        });
        waiting.any(|kind| {
            let mut sent = self.of(kind).in_flight.iter().flat_map(|sent| &sent.changes);
            sent.any(|change| {
                let latest = latest.of(kind).get(change.sent.name());
                latest.is_none_or(|latest| latest.version() != change.sent.version())
            })
        })
    }

    /// When that is to be looked at again, if nothing happens before.
    pub(super) fn cure_deadline(&self) -> impl Iterator<Item = Instant> {
        let kinds = Self::ORDERED.into_iter().filter(|_| !self.generation.is_latest());
        let oldest = kinds.filter_map(|kind| self.of(kind).in_flight.front());
        oldest.map(|oldest| oldest.at + self.generation.patience())
    }

    /// The types that a newer snapshot has to wait for.
    pub(super) const ORDERED: [ResourceType; 3] =
        [ResourceType::Cluster, ResourceType::Listener, ResourceType::Extension];
}

/// Endpoints that are none.
fn empty_assignment(cluster: &str) -> Resource {
    let empty =
        ClusterLoadAssignment { cluster_name: cluster.to_owned(), ..ClusterLoadAssignment::default() };
    Resource::new(cluster, &empty)
}
