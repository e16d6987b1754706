//! What one type of one stream should be sent next: differences, answers, removals.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::in_flight::{Change, InFlight};
use super::message::{Response, Variant};
use super::subscription::{Held, MAX_IN_FLIGHT, PATIENCE, Subscription};
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

#[derive(Debug, Default)]
struct Plan {
    changes: Vec<Arc<Resource>>,
    removed: Vec<String>,
    /// Whether something stays back because of the gate or a removal that comes later.
    withheld: bool,
    still_due: BTreeSet<String>,
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
        self.waiting = false;
        let urgent = self.owes_answer || !self.due.is_empty();
        if !self.asked() || !self.dirty && !urgent {
            self.unsent = false;
            return None;
        }
        let plan = self.plan(wanted, gate, removal);
        let answer = self.owes_answer && gate != Gate::Closed;
        let something = answer || !plan.changes.is_empty() || !plan.removed.is_empty();
        self.unsent = plan.withheld || something || self.owes_answer;
        if !something {
            self.dirty = plan.withheld;
            self.due = plan.still_due;
            return None;
        }
        if self.waits(urgent, now) {
            self.waiting = true;
            return None;
        }
        self.unsent = plan.withheld;
        Some(self.send(plan, wanted, gate, removal, now))
    }

    /// When a change that waits for an acknowledgement is sent without it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.in_flight.back().filter(|_| self.unsent).map(|last| last.at + PATIENCE)
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
        let Some(version) = self.claimed.take() else { return };
        if self.full_state() && self.interest.wildcard() && version == wanted.version() {
            self.held = wanted.eager().cloned().map(Held).collect();
            self.owes_answer = false;
        }
    }

    fn candidates<'a>(&'a self, wanted: &'a ResourceSet) -> Box<dyn Iterator<Item = &'a Arc<Resource>> + 'a> {
        if self.interest.wildcard() {
            let by_name = self.interest.names().iter().filter(|name| wanted.is_on_demand(name));
            Box::new(wanted.eager().chain(by_name.filter_map(|name| wanted.get(name))))
        } else {
            Box::new(self.interest.names().iter().filter_map(|name| wanted.get(name)))
        }
    }

    /// Whether the proxy should have the resource of this name: it exists, and if it is on demand the proxy
    /// asks for it by name.
    fn needs(&self, wanted: &ResourceSet, name: &str) -> bool {
        wanted.get(name).is_some() && (!wanted.is_on_demand(name) || self.interest.names().contains(name))
    }

    fn differs(&self, resource: &Resource) -> bool {
        let name = resource.name.as_str();
        match self.rejected.get(name) {
            _ if self.due.contains(name) => true,
            // After a refusal we do not know which version runs: only the refused one is not sent.
            Some(rejected) => rejected.version != resource.version,
            None => self.held.get(name).is_none_or(|held| held.0.version != resource.version),
        }
    }

    fn plan(&self, wanted: &ResourceSet, gate: Gate, removal: &dyn Fn(&str) -> Removal) -> Plan {
        let mut plan = Plan::default();
        for resource in self.candidates(wanted).filter(|r| self.differs(r)) {
            let new = !self.held.contains(resource.name.as_str());
            if gate == Gate::Open || gate == Gate::NewOnly && new {
                plan.changes.push(Arc::clone(resource));
            } else {
                plan.withheld = true;
                if self.due.contains(&resource.name) {
                    plan.still_due.insert(resource.name.clone());
                }
            }
        }
        for held in self.held.iter().filter(|held| !self.needs(wanted, &held.0.name)) {
            match removal(&held.0.name) {
                Removal::Now if gate == Gate::Open => plan.removed.push(held.0.name.clone()),
                Removal::Now | Removal::Later => plan.withheld = true,
                Removal::Never => {}
            }
        }
        // A name that does not exist is answered as such, and stays subscribed (11). Never for ECDS: taking
        // a filter's configuration away breaks live traffic (16).
        if self.variant == Variant::Delta && self.kind != ResourceType::Extension {
            let absent = |name: &&String| !self.needs(wanted, name) && !self.held.contains(name.as_str());
            let absent = self.due.iter().filter(absent).cloned();
            if gate == Gate::Closed {
                plan.still_due.extend(absent);
            } else {
                plan.removed.extend(absent);
            }
        }
        plan
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
            (plan.changes.clone(), wanted.version().to_owned())
        };
        let changes = plan.changes.into_iter().map(|sent| self.change(sent)).collect();
        if self.full_state() {
            self.held = resources.iter().cloned().map(Held).collect();
        }
        for name in &plan.removed {
            self.held.remove(name.as_str());
            self.rejected.remove(name);
        }
        self.due = plan.still_due;
        if !self.due.is_empty() {
            self.trust_no_exclusion();
        }
        self.owes_answer = false;
        self.sent += 1;
        self.sent_version.clone_from(&version);
        self.in_flight.push_back(InFlight {
            sequence: self.sent,
            at: now,
            version: version.clone(),
            changes,
        });
        let removed = if self.variant == Variant::Delta { plan.removed } else { Vec::new() };
        Response { kind: self.kind, version, nonce: self.sent.to_string(), resources, removed }
    }

    /// Notes that the proxy is sent this version, and what it falls back to when it refuses.
    fn change(&mut self, sent: Arc<Resource>) -> Change {
        let last_good = match self.rejected.remove(&sent.name) {
            Some(rejected) => rejected.last_good,
            None => self.held.get(sent.name.as_str()).map(|held| Arc::clone(&held.0)),
        };
        self.held.replace(Held(Arc::clone(&sent)));
        Change { sent, last_good }
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
        for resource in self.candidates(wanted) {
            let name = resource.name.as_str();
            match (self.rejected.get(name), self.held.get(name)) {
                (Some(rejected), _) if !self.differs(resource) => list.extend(rejected.last_good.clone()),
                (_, Some(held)) if gate == Gate::NewOnly => list.push(Arc::clone(&held.0)),
                _ => list.push(Arc::clone(resource)),
            }
        }
        let kept = self.held.iter().filter(|held| {
            let name = held.0.name.as_str();
            !self.needs(wanted, name) && (gate != Gate::Open || removal(name) != Removal::Now)
        });
        list.extend(kept.map(|held| Arc::clone(&held.0)));
        list
    }
}

/// The version of a list: that of the wanted set if it is just that, else a hash of what is in it.
fn list_version(list: &[Arc<Resource>], wanted: &ResourceSet) -> String {
    if list.len() == wanted.eager().len() && list.iter().zip(wanted.eager()).all(|(a, b)| Arc::ptr_eq(a, b)) {
        return wanted.version().to_owned();
    }
    content_hash(list.iter().flat_map(|r| [r.name.as_bytes(), r.version.as_bytes()]))
}
