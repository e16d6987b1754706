//! What one type of one stream should be sent next: differences, answers, removals.

use std::sync::Arc;
use std::time::Instant;

use super::in_flight::{InFlight, Sent};
use super::message::{Response, Variant};
use super::name_map::join;
use super::subscription::{Backlog, MAX_IN_FLIGHT, PATIENCE, Subscription};
use super::{Resource, ResourceSet, ResourceType, content_hash};

/// Whether changes of a type may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Something it may depend on was refused: what the proxy has stays at its last good version, what it
    /// never had is sent, since a proxy with most of its clusters serves better than a dark one.
    NewOnly,
    /// What it may depend on is not in place yet.
    Closed,
}

/// Whether a resource that the proxy has and nobody wants is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Now,
    /// Something may still name it.
    Later,
    /// Its absence says nothing, or breaks traffic.
    Never,
}

/// Entries of one response, in bytes: what gRPC clients take as they come is 4 MiB. Lists of state of the world
/// cannot be cut.
const MAX_RESPONSE_BYTES: usize = (4 << 20) - (64 << 10);

#[derive(Debug, Default)]
struct Plan {
    changes: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    /// Whether something stays back: because of the gate, or a removal that comes later.
    withheld: bool,
    /// Whether something stays back because of the response's size.
    cut: bool,
    still_due: Vec<Arc<str>>,
}

impl Subscription {
    /// The next response, if there is something to say and the proxy may be told.
    pub(crate) fn push(
        &mut self,
        wanted: &ResourceSet,
        gate: Gate,
        removal: &dyn Fn(&str) -> Removal,
        now: Instant,
    ) -> Option<Response> {
        self.accept_claim(wanted);
        self.backlog = Backlog::Nothing;
        let urgent = self.owes_answer || !self.due.is_empty();
        if !self.asked() || !self.dirty && !urgent {
            return None;
        }
        if self.is_unknown() {
            self.backlog = Backlog::Withheld;
            return None;
        }
        let plan = self.plan(wanted, gate, removal);
        let answer = self.owes_answer && gate != Gate::Closed;
        let something = answer || !plan.changes.is_empty() || !plan.removed.is_empty();
        if plan.withheld || self.owes_answer {
            self.backlog = Backlog::Withheld;
        }
        if !something {
            self.dirty = plan.withheld;
            self.due = plan.still_due.into_iter().map(|name| (name, ())).collect();
            return None;
        }
        if self.waits(urgent, now) {
            self.backlog = Backlog::Ready;
            return None;
        }
        self.backlog = match (plan.cut, plan.withheld) {
            (true, _) => Backlog::Rest,
            (false, true) => Backlog::Withheld,
            (false, false) => Backlog::Nothing,
        };
        self.dirty = self.unsent();
        Some(self.send(plan, wanted, gate, removal, now))
    }

    /// When a change that waits for an acknowledgement is sent without it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.in_flight.back().filter(|_| self.unsent()).map(|last| last.at + PATIENCE)
    }

    /// One response at a time, so that a slow proxy gets the latest of everything and not each step. What
    /// it asked for is sent at once, and a proxy that keeps an acknowledgement back (Envoy does while a
    /// cluster warms) is not left with what it cannot use.
    fn waits(&self, urgent: bool, now: Instant) -> bool {
        self.in_flight.len() >= MAX_IN_FLIGHT
            || !urgent && self.in_flight.back().is_some_and(|last| now < last.at + PATIENCE)
    }

    /// A proxy that reconnects in state of the world with the very set we would send needs nothing (3).
    fn accept_claim(&mut self, wanted: &ResourceSet) {
        let Some(version) = &self.claimed else { return };
        if self.full_state() && self.interest.wildcard() && *version == **wanted.version() {
            self.behind.take();
            self.owes_answer = false;
        } else if self.is_unknown() {
            return;
        }
        self.claimed = None;
    }

    /// Whether this wanted resource is to be said: it is asked for again, or the proxy has another. After a
    /// refusal we do not know which version runs: only the refused one is not sent.
    fn differs(&self, resource: &Resource) -> bool {
        let name = resource.name();
        (self.due.contains(name) || self.behind.contains(name)) && !self.is_refused(resource)
    }

    /// Whether just this was refused, and nobody asks for it again.
    fn is_refused(&self, resource: &Resource) -> bool {
        let refused = self.rejected.get(resource.name());
        refused.is_some_and(|refused| *refused.version == *resource.version())
            && !self.due.contains(resource.name())
    }

    /// Whether the proxy never had any version of it in force.
    fn is_new(&self, name: &str) -> bool {
        let refused = self.rejected.get(name).is_some_and(|rejected| rejected.last_good.is_none());
        refused || self.behind.get(name).is_some_and(Option::is_none)
    }

    fn plan(&self, wanted: &ResourceSet, gate: Gate, removal: &dyn Fn(&str) -> Removal) -> Plan {
        let mut plan = Plan::default();
        for (name, has, due) in join(self.behind.iter(), self.due.iter()) {
            match (self.covered(name, wanted), has) {
                (Some(resource), _) => self.plan_change(resource, due.is_some(), gate, &mut plan),
                (None, Some(Some(has))) if self.keeps && has.is_claimed() => {}
                (None, Some(Some(_))) => match removal(name) {
                    Removal::Now if gate == Gate::Open => plan.removed.push(Arc::clone(name)),
                    Removal::Now | Removal::Later => plan.withheld = true,
                    Removal::Never => {}
                },
                (None, _) if due.is_some() => self.plan_absence(name, gate, &mut plan),
                (None, _) => {}
            }
        }
        if !self.full_state() {
            self.cut(&mut plan);
        }
        plan
    }

    fn plan_change(&self, resource: &Arc<Resource>, due: bool, gate: Gate, plan: &mut Plan) {
        if !self.rejected.is_empty() && self.is_refused(resource) || !due && self.is_kept_from(resource) {
            return;
        }
        let gate = if resource.is_last() && self.last == Gate::Closed { Gate::Closed } else { gate };
        if gate == Gate::Open || gate == Gate::NewOnly && self.is_new(resource.name()) {
            plan.changes.push(Arc::clone(resource));
        } else {
            plan.withheld = true;
            if due {
                plan.still_due.push(Arc::clone(resource.name()));
            }
        }
    }

    /// A name that does not exist is answered as such, and stays subscribed (11). Never for ECDS: taking a
    /// filter's configuration away breaks live traffic (16).
    fn plan_absence(&self, name: &Arc<str>, gate: Gate, plan: &mut Plan) {
        if self.variant == Variant::Sotw || self.kind == ResourceType::Extension {
            return;
        }
        // What is not known here may exist all the same: who keeps what it has waits until that is settled.
        if gate == Gate::Closed || self.keeps {
            plan.still_due.push(Arc::clone(name));
        } else {
            plan.removed.push(Arc::clone(name));
        }
    }

    /// Leaves to the next response what would make this one too large.
    fn cut(&self, plan: &mut Plan) {
        let mut room = MAX_RESPONSE_BYTES;
        let mut count = 0;
        for resource in &plan.changes {
            let size = resource.delta_entry().len();
            if size > room && count > 0 {
                break;
            }
            room = room.saturating_sub(size);
            count += 1;
        }
        if count == plan.changes.len() {
            return;
        }
        let rest = plan.changes.split_off(count);
        let due = rest.iter().map(|resource| resource.name()).filter(|name| self.due.contains(name));
        plan.still_due.extend(due.cloned());
        plan.cut = true;
    }

    fn send(
        &mut self,
        plan: Plan,
        wanted: &ResourceSet,
        gate: Gate,
        removal: &dyn Fn(&str) -> Removal,
        now: Instant,
    ) -> Response {
        let (resources, version) = if self.full_state() {
            let list = self.whole(wanted, gate, removal);
            let version = list_version(&list, wanted);
            (list, version)
        } else {
            let payloads = plan.changes.iter().map(|resource| self.payload(resource));
            (payloads.collect(), Arc::clone(wanted.version()))
        };
        self.retry.sent();
        let changes = self.note_sent(plan.changes, &plan.removed);
        self.due = plan.still_due.into_iter().map(|name| (name, ())).collect();
        if !self.due.is_empty() {
            self.trust_no_exclusion();
        }
        self.owes_answer = false;
        self.sent += 1;
        self.sent_version = Arc::clone(&version);
        let in_flight = InFlight { sequence: self.sent, at: now, version: Arc::clone(&version), changes };
        self.in_flight.push_back(in_flight);
        let removed = if self.variant == Variant::Delta { plan.removed } else { Vec::new() };
        Response { kind: self.kind, version, nonce: self.sent.to_string(), resources, removed }
    }

    /// Notes that the proxy is sent these versions, both in order, and what it falls back to when it refuses.
    fn note_sent(&mut self, changes: Vec<Arc<Resource>>, removed: &[Arc<str>]) -> Vec<Sent> {
        let (mut sent, mut behind) = (Vec::with_capacity(changes.len()), Vec::new());
        let changes = changes.into_iter().map(|resource| (Arc::clone(resource.name()), resource));
        for (name, has, change) in join(self.behind.take(), changes) {
            match (change, has) {
                (Some(resource), has) => {
                    let refused = if self.rejected.is_empty() { None } else { self.rejected.remove(&name) };
                    let last_good = match refused {
                        Some(refused) => refused.last_good,
                        None => has.unwrap_or_else(|| Some(Arc::clone(&resource))),
                    };
                    sent.push(Sent { sent: resource, last_good });
                }
                (None, Some(has)) if removed.binary_search(&name).is_err() => behind.push((name, has)),
                (None, _) => {}
            }
        }
        for name in removed {
            self.rejected.remove(name);
        }
        self.behind = behind.into_iter().collect();
        sent
    }

    /// The full list of a state-of-the-world response: what is wanted, the last good version of what was
    /// refused or is held back, and what must not go yet.
    fn whole(
        &self,
        wanted: &ResourceSet,
        gate: Gate,
        removal: &dyn Fn(&str) -> Removal,
    ) -> Vec<Arc<Resource>> {
        let mut list = Vec::with_capacity(wanted.len());
        for resource in wanted.iter().filter(|resource| self.interest.covers(resource)) {
            let name = resource.name();
            match (self.rejected.get(name), self.held(name, wanted)) {
                (Some(rejected), _) if !self.differs(resource) => list.extend(rejected.last_good.clone()),
                (_, Some(held)) if gate == Gate::NewOnly && !self.is_new(name) => list.push(Arc::clone(held)),
                _ => list.push(Arc::clone(resource)),
            }
        }
        for (name, has) in self.behind.iter() {
            let kept =
                self.covered(name, wanted).is_none() && (gate != Gate::Open || removal(name) != Removal::Now);
            list.extend(has.clone().filter(|_| kept));
        }
        list
    }
}

/// The version of a list: that of the wanted set if it is just that, else a hash of what is in it.
fn list_version(list: &[Arc<Resource>], wanted: &ResourceSet) -> Arc<str> {
    if list.iter().map(Arc::as_ptr).eq(wanted.eager().map(Arc::as_ptr)) {
        return Arc::clone(wanted.version());
    }
    content_hash(list.iter().flat_map(|r| [r.name().as_bytes(), r.version().as_bytes()])).into()
}
