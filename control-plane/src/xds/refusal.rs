//! Acknowledgements and refusals: what a proxy refused is told apart by resource, and never sent again unchanged.

use std::sync::Arc;
use std::time::SystemTime;

use super::budget::Words;
use super::in_flight::{self, Sent, Suspects};
use super::subscription::Subscription;
use super::{Resource, ResourceSet};

/// A version of a resource that the proxy refused.
#[derive(Clone, Debug)]
pub(super) struct Rejected {
    pub(super) version: Arc<str>,
    pub(super) last_good: Option<Arc<Resource>>,
    pub(super) why: Arc<Nack>,
}

/// Half of a group that was refused together; the other half is tried first.
#[derive(Debug)]
pub(super) struct Suspended {
    names: Vec<Arc<str>>,
    /// Whether the fault must be here if the other half is accepted.
    guilty_by_exclusion: bool,
}

/// A refusal in the proxy's own words.
#[derive(Debug)]
pub(crate) struct Nack {
    pub(crate) message: Words,
    pub(crate) version: Arc<str>,
    pub(crate) at: SystemTime,
}

impl Subscription {
    /// Takes an acknowledgement in. Returns whether it is a refusal.
    pub(super) fn on_acknowledgement(
        &mut self,
        nonce: &str,
        error: Option<String>,
        wanted: &ResourceSet,
        now: SystemTime,
    ) -> bool {
        let Some(answered) = in_flight::take(&mut self.in_flight, nonce) else { return false };
        self.answered = answered.sequence;
        self.dirty = true;
        let Some(message) = error else {
            if !self.rejected.is_empty() {
                for change in &answered.changes {
                    self.rejected.remove(change.sent.name());
                }
            }
            self.acked_version = answered.version;
            self.resume_suspended(answered.sequence, true);
            if self.rejected.is_empty() {
                self.nack = None;
            }
            return false;
        };
        let Suspects { mut guilty, mut suspect, mut innocent } =
            in_flight::suspects(answered.changes, &message);
        let nack =
            Arc::new(Nack { message: self.account.words(&message), version: answered.version, at: now });
        for refused in guilty.iter().chain(&suspect) {
            in_flight::forget(&mut self.in_flight, refused);
        }
        // A resource that was sent again meanwhile is judged by the later answer.
        let current = |change: &Sent| {
            let held = self.held(change.sent.name(), wanted);
            held.is_some_and(|held| held.version() == change.sent.version())
        };
        for changes in [&mut guilty, &mut suspect, &mut innocent] {
            changes.retain(current);
        }
        let suspects: Vec<Arc<str>> = suspect.iter().map(|change| Arc::clone(change.sent.name())).collect();
        let named = !guilty.is_empty();
        for Sent { sent, last_good } in guilty.into_iter().chain(suspect) {
            if self.full_state()
                && let Some(has) = self.behind.get_mut(sent.name())
            {
                has.clone_from(&last_good);
            }
            let rejected = Rejected { version: sent.version().into(), last_good, why: Arc::clone(&nack) };
            self.rejected.insert(Arc::clone(sent.name()), rejected);
        }
        self.nack = Some(nack);
        // Depending on where Envoy found the fault the others went live or not (18): say them again.
        self.due.extend(innocent.into_iter().map(|change| (Arc::clone(change.sent.name()), ())));
        self.trust_no_exclusion();
        // Code that was missing a moment ago may be there now: that one is accepted acquits nobody else of anything.
        let lasting = |change: &Arc<str>| wanted.get(change).is_none_or(|resource| resource.code().is_none());
        let guilty = !named && suspects.iter().all(lasting);
        // One that is refused alone is the one; beside others that are named it may be good.
        if suspects.len() > usize::from(!named) {
            self.try_half(suspects, guilty);
        } else {
            self.resume_suspended(answered.sequence, false);
        }
        true
    }

    /// Tries the first half of a group that was refused; the second waits. `guilty`: whether something in the group
    /// is surely bad.
    fn try_half(&mut self, mut names: Vec<Arc<str>>, guilty: bool) {
        // Asked for again they may be refused again while they wait: each waits once.
        for group in &mut self.suspended {
            group.names.retain(|name| names.binary_search(name).is_err());
        }
        let second = names.split_off(names.len().div_ceil(2));
        self.suspended.push(Suspended { names: second, guilty_by_exclusion: guilty });
        self.suspended.retain(|group| !group.names.is_empty());
        self.due.extend(names.into_iter().map(|name| (name, ())));
        self.trial = self.sent + 1;
    }

    /// Goes on to the next group that was refused only for the company it was in. Halving finds one bad
    /// among thousands in a dozen responses, and none of them is one that was refused (19).
    fn resume_suspended(&mut self, answered: u64, mut accepted: bool) {
        if answered < self.trial {
            return;
        }
        while let Some(Suspended { mut names, guilty_by_exclusion }) = self.suspended.pop() {
            names.retain(|name| self.rejected.contains_key(name));
            match (std::mem::take(&mut accepted) && guilty_by_exclusion, names.len()) {
                (_, 0) | (true, 1) => {}
                (true, _) => return self.try_half(names, true),
                (false, _) => {
                    self.due.extend(names.into_iter().map(|name| (name, ())));
                    self.trial = self.sent + 1;
                    return;
                }
            }
        }
    }

    /// Forgets what would follow from the group being tried, when its answer will tell of more or less.
    pub(super) fn trust_no_exclusion(&mut self) {
        for group in &mut self.suspended {
            group.guilty_by_exclusion = false;
        }
    }
}
