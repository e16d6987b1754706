//! One resource type on one stream: what the proxy asks for, has, refused, and what it is owed.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::in_flight::{self, Change, InFlight, Suspects};
use super::interest::Interest;
use super::message::{Asks, Request, Variant};
use super::{Resource, ResourceSet, ResourceType};

/// How long a proxy may take before we stop waiting for it: to acknowledge before the next change is sent
/// anyway, to ask for the endpoints of a new cluster, to ask for its listeners after a reconnect. Envoy
/// does each within milliseconds; what takes longer is a proxy that will not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Answers in flight beyond which even requests wait: the bound on what a silent proxy costs us.
pub(super) const MAX_IN_FLIGHT: usize = 16;

/// A resource as kept in an ordered set by name: a pointer, not a copy of the name.
#[derive(Clone, Debug)]
pub(super) struct Held(pub(super) Arc<Resource>);

impl Borrow<str> for Held {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

/// A version of a resource that the proxy refused.
#[derive(Clone, Debug)]
pub(super) struct Rejected {
    pub(super) version: String,
    pub(super) last_good: Option<Arc<Resource>>,
    pub(super) why: Arc<Nack>,
}

/// Half of a group that was refused together; the other half is tried first.
#[derive(Debug)]
pub(super) struct Suspended {
    names: Vec<String>,
    /// Whether the fault must be here if the other half is accepted.
    pub(super) guilty_by_exclusion: bool,
}

/// A refusal in the proxy's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nack {
    pub(crate) message: String,
    pub(crate) version: String,
    pub(crate) at: SystemTime,
}

/// One type on one stream.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each tells of another thing")]
pub(crate) struct Subscription {
    pub(super) kind: ResourceType,
    pub(super) variant: Variant,
    pub(super) interest: Interest,
    /// What the proxy was sent last, or said it has.
    pub(super) held: BTreeSet<Held>,
    /// Names to answer whatever the proxy has.
    pub(super) due: BTreeSet<String>,
    /// Whether a response is owed even if it is empty: a first wildcard request.
    pub(super) owes_answer: bool,
    /// The version a proxy says it has on its first request in state of the world.
    pub(super) claimed: Option<String>,
    /// A payload that was refused is never sent again unchanged (19).
    pub(super) rejected: BTreeMap<String, Rejected>,
    /// Refused together without a word on which is at fault; each group waits to be tried on its own.
    pub(super) suspended: Vec<Suspended>,
    /// The response from which on answers tell about the group being tried.
    trial: u64,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Of the last response sent, and of the last one answered. Nonces are these numbers.
    pub(super) sent: u64,
    pub(super) answered: u64,
    /// Whether `held` may differ from what is wanted.
    pub(super) dirty: bool,
    /// Whether something is wanted that was not sent yet.
    pub(super) unsent: bool,
    /// Whether a response is ready that waits for the answer to one before.
    pub(super) waiting: bool,
    pub(super) sent_version: String,
    pub(super) acked_version: String,
    pub(super) nack: Option<Arc<Nack>>,
}

impl Subscription {
    pub(crate) fn new(kind: ResourceType, variant: Variant) -> Self {
        Self {
            kind,
            variant,
            interest: Interest::default(),
            held: BTreeSet::new(),
            due: BTreeSet::new(),
            owes_answer: false,
            claimed: None,
            rejected: BTreeMap::new(),
            suspended: Vec::new(),
            trial: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            answered: 0,
            dirty: false,
            unsent: false,
            waiting: false,
            sent_version: String::new(),
            acked_version: String::new(),
            nack: None,
        }
    }

    /// Whether the proxy asked for this type.
    pub(crate) const fn asked(&self) -> bool {
        self.interest.asked()
    }

    /// How many names this stream keeps for the type, for its bound.
    pub(crate) fn names(&self) -> usize {
        self.interest.names().len().max(self.held.len())
    }

    /// Whether the proxy refuses something that is still wanted.
    pub(crate) fn rejecting(&self) -> bool {
        !self.rejected.is_empty() || self.refused_whole().is_some()
    }

    /// The refusal of a response in which no resource is at fault.
    pub(crate) fn refused_whole(&self) -> Option<&Nack> {
        self.nack.as_deref().filter(|_| self.rejected.is_empty() && self.in_flight.is_empty())
    }

    /// Names that no answered response brought: nothing that is in force can depend on them.
    pub(crate) fn unborn(&self) -> BTreeSet<&str> {
        let changes = self.in_flight.iter().flat_map(|sent| &sent.changes);
        changes.filter(|c| c.last_good.is_none()).map(|c| c.sent.name.as_str()).collect()
    }

    /// Whether the proxy has all of this type that is wanted, and said so.
    pub(crate) fn settled(&self) -> bool {
        self.in_flight.is_empty() && !self.unsent && self.rejected.is_empty()
    }

    /// The version the proxy is known to use: the wanted one as soon as nothing is missing.
    pub(crate) fn acked<'a>(&'a self, wanted: &'a ResourceSet) -> &'a str {
        if self.asked() && self.settled() { wanted.version() } else { &self.acked_version }
    }

    /// Whether every response repeats all resources, so that absence removes (5).
    pub(super) fn full_state(&self) -> bool {
        self.variant == Variant::Sotw && matches!(self.kind, ResourceType::Cluster | ResourceType::Listener)
    }

    /// Whether a request was sent before the proxy saw our last response. In state of the world it will be
    /// repeated with the new nonce, so nothing in it is answered (4); in delta it counts like any other (9).
    pub(crate) fn stale(&self, request: &Request) -> bool {
        self.variant == Variant::Sotw
            && self.sent != 0
            && !request.nonce.is_empty()
            && request.nonce != self.sent.to_string()
    }

    /// Takes a request in. Returns whether the acknowledgement in it, if any, was a refusal.
    pub(crate) fn on_request(&mut self, request: Request, wanted: &ResourceSet, now: SystemTime) -> bool {
        let stale = self.stale(&request);
        let refused = self.on_acknowledgement(&request.nonce, request.error, now);
        match request.asks {
            _ if stale => {}
            Asks::All { names, version } => {
                let asked = self.interest.replace(self.kind, names);
                if asked.first && !version.is_empty() {
                    self.claimed = Some(version);
                }
                self.owes_answer |=
                    self.full_state() && (asked.first || asked.dropped || !asked.answer.is_empty());
                self.dirty |= asked.first;
                self.due.extend(asked.answer);
                self.forget_dropped(asked.dropped);
            }
            Asks::Change { subscribe, unsubscribe, initial } => {
                let mut asked = self.interest.change(self.kind, subscribe, unsubscribe);
                if asked.first {
                    // Only differences are sent after a reconnect (13).
                    asked.answer.retain(|name| !initial.contains_key(name));
                    self.owes_answer = self.interest.wildcard() && initial.is_empty();
                    self.claim(initial, wanted);
                }
                self.dirty = true;
                self.due.extend(asked.answer);
                self.forget_dropped(asked.dropped);
            }
        }
        refused
    }

    /// What the proxy brings from an earlier stream, body unknown unless it is the wanted version.
    fn claim(&mut self, initial: impl IntoIterator<Item = (String, String)>, wanted: &ResourceSet) {
        for (name, version) in initial {
            if self.interest.covers(&name) {
                self.held.insert(Held(match wanted.get(&name) {
                    Some(resource) if resource.version == version => Arc::clone(resource),
                    _ => Arc::new(Resource { name, version, body: Bytes::new() }),
                }));
            }
        }
    }

    /// A proxy lets go of what it no longer asks for.
    fn forget_dropped(&mut self, dropped: bool) {
        if dropped {
            let interest = &self.interest;
            self.held.retain(|held| interest.covers(&held.0.name));
            self.due.retain(|name| interest.covers(name));
            self.rejected.retain(|name, _| interest.covers(name));
        }
    }

    fn on_acknowledgement(&mut self, nonce: &str, error: Option<String>, now: SystemTime) -> bool {
        let Some(answered) = in_flight::take(&mut self.in_flight, nonce) else { return false };
        self.answered = answered.sequence;
        self.dirty = true;
        let Some(message) = error else {
            for change in &answered.changes {
                self.rejected.remove(&change.sent.name);
            }
            self.acked_version = answered.version;
            self.resume_suspended(answered.sequence, true);
            if self.rejected.is_empty() {
                self.nack = None;
            }
            return false;
        };
        // A resource that was sent again meanwhile is judged by the later answer.
        let (current, _): (Vec<_>, Vec<_>) = answered.changes.into_iter().partition(|change| {
            self.held.get(change.sent.name.as_str()).is_some_and(|held| held.0.version == change.sent.version)
        });
        let nack = Arc::new(Nack { message, version: answered.version, at: now });
        let Suspects { guilty, innocent, named } = in_flight::suspects(current, &nack.message);
        let names: Vec<String> = guilty.iter().map(|change| change.sent.name.clone()).collect();
        for Change { sent, last_good } in guilty {
            let rejected = Rejected { version: sent.version.clone(), last_good, why: Arc::clone(&nack) };
            self.rejected.insert(sent.name.clone(), rejected);
        }
        self.nack = Some(nack);
        // Depending on where Envoy found the fault the others went live or not (18): say them again.
        self.due.extend(innocent.into_iter().map(|change| change.sent.name.clone()));
        self.trust_no_exclusion();
        if named || names.len() < 2 {
            self.resume_suspended(answered.sequence, false);
        } else {
            self.try_half(names);
        }
        true
    }

    /// Tries the first half of a group in which something is bad; the second waits.
    fn try_half(&mut self, mut names: Vec<String>) {
        let second = names.split_off(names.len() / 2);
        self.suspended.push(Suspended { names: second, guilty_by_exclusion: true });
        self.due.extend(names);
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
                (true, _) => return self.try_half(names),
                (false, _) => {
                    self.due.extend(names);
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

    /// Takes note of another wanted set: refusals of what is no longer wanted are healed.
    pub(crate) fn on_wanted(&mut self, wanted: &ResourceSet) {
        self.dirty = true;
        self.trust_no_exclusion();
        self.rejected.retain(|name, _| wanted.get(name).is_some());
        if self.rejected.is_empty() && self.nack.as_ref().is_some_and(|nack| nack.version != wanted.version())
        {
            self.nack = None;
        }
    }
}
