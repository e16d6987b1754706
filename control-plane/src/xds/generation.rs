//! Which snapshot a stream works towards while newer ones come: one at a time, to its end, so that newer ones cannot push
//! back what is under way.

use std::sync::Arc;
use std::time::Duration;

use super::subscription::PATIENCE;
use super::{Resource, ResourceSet, ResourceType, Snapshot};

/// Doublings of the patience with a generation: 64 s, longer than any link takes.
const MOST_DOUBLINGS: u32 = 5;

/// The generation under way, and the latest.
#[derive(Debug)]
pub(super) struct Generation {
    /// As it was when it was taken up.
    taken: Arc<Snapshot>,
    /// The same with the endpoints and secrets of the latest.
    wanted: Arc<Snapshot>,
    latest: Arc<Snapshot>,
    /// The clusters of the last generation that was completed: its listeners and filters are in force, or those of the one
    /// under way are. `None` when others may be.
    named: Option<Arc<ResourceSet>>,
    /// Whether any was completed on this stream.
    pub(super) any_completed: bool,
    /// How many were given up since one was completed.
    given_up: u32,
}

impl Generation {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        let (taken, wanted) = (Arc::clone(&snapshot), Arc::clone(&snapshot));
        Self { taken, wanted, latest: snapshot, named: None, any_completed: false, given_up: 0 }
    }

    /// What the stream works towards now.
    pub(super) const fn wanted(&self) -> &Arc<Snapshot> {
        &self.wanted
    }

    /// What the proxy should have.
    pub(super) const fn latest(&self) -> &Arc<Snapshot> {
        &self.latest
    }

    /// Whether nothing newer waits.
    pub(super) fn is_latest(&self) -> bool {
        self.wanted.version() == self.latest.version()
    }

    /// Takes a newer snapshot in, which waits for its turn but for what must not wait.
    pub(super) fn remember(&mut self, latest: Arc<Snapshot>) {
        let waits = [ResourceType::Cluster, ResourceType::Listener, ResourceType::Extension];
        if waits.iter().all(|kind| self.taken.of(*kind) == latest.of(*kind)) {
            self.taken = Arc::clone(&latest);
            self.wanted = Arc::clone(&latest);
        } else {
            self.wanted = Arc::new(self.taken.with_what_never_waits(&latest));
        }
        self.latest = latest;
    }

    /// Adds endpoints that this proxy alone is to have, until a newer snapshot comes.
    pub(super) fn add_endpoints(&mut self, endpoints: Vec<Arc<Resource>>) {
        self.wanted = Arc::new(self.wanted.with_endpoints(endpoints));
    }

    /// Notes that the proxy has all of the generation.
    pub(super) fn completed(&mut self) {
        self.named = Some(Arc::clone(self.taken.of(ResourceType::Cluster)));
        self.any_completed = true;
        self.given_up = 0;
    }

    /// Notes that the proxy came with what an earlier stream gave it: what seemed complete before it spoke was not.
    pub(super) fn resume(&mut self) {
        self.named = None;
        self.any_completed = false;
    }

    /// Takes the latest up, after the generation was completed.
    pub(super) fn move_on(&mut self) {
        self.taken = Arc::clone(&self.latest);
        self.wanted = Arc::clone(&self.latest);
    }

    /// Takes the latest up, though the generation was not completed: no one can tell then which listeners and filters are in
    /// force.
    pub(super) fn leave(&mut self) {
        self.named = None;
        self.move_on();
    }

    /// The same because the generation took too long. The next gets twice the time, so that one is completed however slow
    /// the proxy, and however often what it works on changes.
    pub(super) fn give_up(&mut self) {
        self.given_up = (self.given_up + 1).min(MOST_DOUBLINGS);
        self.leave();
    }

    /// How long a response of the generation may go unanswered while a newer snapshot replaces what is in it.
    pub(super) fn patience(&self) -> Duration {
        PATIENCE * (1 << self.given_up)
    }

    /// Whether a cluster that the proxy has, and is not to have, is named by no listener or filter that it may use. One that
    /// comes on demand before and after comes again when a player needs it.
    pub(super) fn may_go(&self, cluster: &str) -> bool {
        let on_demand = |set: &ResourceSet| set.is_on_demand(cluster);
        self.named.as_ref().is_some_and(|named| {
            named.get(cluster).is_none()
                || on_demand(named) && on_demand(self.wanted.of(ResourceType::Cluster))
        })
    }
}
