//! How each part of what is taken from Consul is doing, and the one health that follows from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::error::ConsulError;
use super::metrics::Metrics;
use crate::source::Health;

/// One thing that is taken from Consul.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The agent itself, which knows where we are.
    Agent,
    /// Which datacenters there are.
    Datacenters,
    /// The instances of a datacenter.
    Catalog {
        datacenter: String,
        /// Whether it is ours: nothing is served before its catalog was heard. Another datacenter that is down when we
        /// start must not hold back our own.
        local: bool,
    },
    /// Configuration entries of a kind.
    Entries(&'static str),
    /// Who may connect to whom.
    Intentions,
    /// Whom to believe.
    Roots,
    /// The certificate of a service.
    Leaf(String),
}

impl Part {
    /// Its name in metrics, where all leaves are one.
    fn family(&self) -> String {
        if matches!(self, Self::Leaf(_)) { "leaves".to_owned() } else { self.label() }
    }

    /// As people call it.
    fn label(&self) -> String {
        match self {
            Self::Agent => "agent".to_owned(),
            Self::Datacenters => "datacenters".to_owned(),
            Self::Catalog { datacenter, .. } => format!("catalog {datacenter}"),
            Self::Entries(kind) => (*kind).to_owned(),
            Self::Intentions => "intentions".to_owned(),
            Self::Roots => "roots".to_owned(),
            Self::Leaf(service) => format!("leaf {service}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// Whether there is something to serve, or Consul has said that there is not.
    heard: bool,
    /// What is wrong now.
    problem: Option<String>,
}

const NOT_YET: &str = "Consul has not answered in this run";

/// All parts.
#[derive(Debug)]
pub(super) struct Parts {
    states: Mutex<BTreeMap<Part, State>>,
    health: watch::Sender<Health>,
    /// What the start waits for; empty once it waits no more.
    waits: watch::Sender<String>,
    metrics: Arc<Metrics>,
}

impl Parts {
    /// What must be heard before anything is served, each with whether an earlier run left its last good value.
    pub(super) fn new(required: Vec<(Part, bool)>, metrics: Arc<Metrics>) -> Self {
        let state = |known: bool| State { heard: known, problem: known.then(|| NOT_YET.to_owned()) };
        let states: BTreeMap<_, _> = required.into_iter().map(|(part, known)| (part, state(known))).collect();
        let health = watch::Sender::new(health(&states, true));
        let parts = Self { states: Mutex::new(states), health, waits: watch::Sender::default(), metrics };
        parts.change(|_| {});
        parts
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// What is waited for while nothing is served yet, and what keeps it away; empty after that.
    pub(super) fn waits(&self) -> watch::Receiver<String> {
        self.waits.subscribe()
    }

    /// A part that is to be heard from now on, before anything is served if nothing has been served so far.
    pub(super) fn expect(&self, part: Part) {
        self.change(|states| {
            states.entry(part).or_insert(State { heard: false, problem: None });
        });
    }

    /// A part that is no longer wanted.
    pub(super) fn forget(&self, part: &Part) {
        self.change(|states| {
            states.remove(part);
        });
    }

    /// It is up to date.
    pub(super) fn ok(&self, part: &Part) {
        self.change(|states| {
            let before = states.insert(part.clone(), State { heard: true, problem: None });
            if before.is_none_or(|state| state.problem.is_some() || !state.heard) {
                tracing::info!(part = part.label(), "Consul tells");
            }
        });
    }

    /// It could not be had: its last good value is served on.
    pub(super) fn lost(&self, part: &Part, error: &ConsulError) {
        self.problem(part, error, false);
    }

    /// Consul has answered, and some of it cannot be had: what can be had is served.
    pub(super) fn partly(&self, part: &Part, error: &ConsulError) {
        self.problem(part, error, true);
    }

    fn problem(&self, part: &Part, error: &ConsulError, answered: bool) {
        if error.is_in_answer() {
            self.metrics.requests.failed(error);
        }
        let problem = error.to_string();
        self.change(|states| {
            let state = states.entry(part.clone()).or_insert(State { heard: false, problem: None });
            if state.problem.as_ref() == Some(&problem) {
                tracing::debug!(part = part.label(), problem, "Consul still does not tell");
            } else {
                let served =
                    if state.heard { "the last good value is served" } else { "nothing of it is known yet" };
                tracing::warn!(part = part.label(), problem, "Consul does not tell; {served}");
            }
            state.heard |= answered;
            state.problem = Some(problem.clone());
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Part, State>)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut states);
        // Published under the lock, lest an older one come last.
        let health = health(&states, *self.health.borrow() == Health::Starting);
        let waits = if health == Health::Starting { waits_for(&states) } else { String::new() };
        self.waits.send_if_modified(|current| {
            let changed = *current != waits;
            *current = waits;
            changed
        });
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            *current = health;
            changed
        });
        let mut up = BTreeMap::new();
        for (part, state) in &*states {
            *up.entry(part.family()).or_insert(true) &= state.heard && state.problem.is_none();
        }
        self.metrics.up(&up);
    }
}

/// Whether nothing is served before it was heard.
fn holds_back((part, state): (&Part, &State)) -> bool {
    !state.heard && !matches!(part, Part::Catalog { local: false, .. } | Part::Datacenters)
}

/// The parts that hold the start back, and of the first that has a problem, which.
fn waits_for(states: &BTreeMap<Part, State>) -> String {
    let waiting: Vec<_> = states.iter().filter(|state| holds_back(*state)).collect();
    let troubled = waiting.iter().find_map(|(part, state)| Some((*part, state.problem.as_ref()?)));
    match (troubled, waiting.len().saturating_sub(1)) {
        (Some((part, problem)), 0) => format!("{}: {problem}; retrying", part.label()),
        (Some((part, problem)), more) => {
            format!("{}: {problem} (and {more} more parts are waited for); retrying", part.label())
        }
        (None, _) => {
            let parts: Vec<_> = waiting.iter().map(|(part, _)| part.label()).collect();
            format!("waiting for {}", parts.join(", "))
        }
    }
}

/// `starting`: nothing has been served so far.
fn health(states: &BTreeMap<Part, State>, starting: bool) -> Health {
    if starting && states.iter().any(holds_back) {
        return Health::Starting;
    }
    let mut problems =
        states.iter().filter_map(|(part, state)| Some((part, state.problem.as_ref()?, state.heard)));
    let Some((part, problem, heard)) = problems.next() else {
        // Known from an earlier run, and not yet heard in this one.
        return Health::Ok;
    };
    let more = problems.count();
    let also = if more > 0 { format!(" (and {more} more parts)") } else { String::new() };
    let served = if heard { "the last good value is served" } else { "nothing of it is known yet" };
    Health::Degraded { reason: format!("{}: {problem}{also}; {served}, retrying", part.label()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(datacenter: &str, local: bool) -> Part {
        Part::Catalog { datacenter: datacenter.to_owned(), local }
    }

    fn parts(known: bool) -> Parts {
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        Parts::new(vec![(catalog("aws", true), known), (Part::Intentions, known)], metrics)
    }

    fn gone() -> ConsulError {
        ConsulError::Unreachable("connection refused".to_owned())
    }

    #[test]
    fn nothing_is_ready_before_all_that_is_ours_was_heard() {
        let parts = parts(false);
        let health = parts.health();
        parts.lost(&catalog("aws", true), &gone());
        parts.ok(&Part::Intentions);
        assert_eq!(*health.borrow(), Health::Starting);
        let waits = parts.waits();
        assert!(waits.borrow().starts_with("catalog aws: ") && waits.borrow().contains("connection refused"));
        parts.expect(Part::Leaf("edge".to_owned()));
        parts.lost(&catalog("azure", false), &gone());
        parts.ok(&catalog("aws", true));
        assert_eq!(*health.borrow(), Health::Starting, "the leaf");
        assert_eq!(*waits.borrow(), "waiting for leaf edge");
        let denied = ConsulError::Denied { path: "/leaf".to_owned(), text: "no".to_owned() };
        parts.partly(&Part::Leaf("edge".to_owned()), &denied);
        assert!(matches!(&*health.borrow(), Health::Degraded { reason } if reason.contains("azure")
            && reason.contains("1 more")));
        assert_eq!(*waits.borrow(), "");
        // What is wanted later holds back nothing that is served already.
        parts.expect(Part::Leaf("other".to_owned()));
        parts.ok(&catalog("azure", false));
        parts.ok(&Part::Leaf("edge".to_owned()));
        assert_eq!(*health.borrow(), Health::Ok);
        parts.lost(&Part::Intentions, &gone());
        assert!(
            matches!(&*health.borrow(), Health::Degraded { reason } if reason.contains("connection refused"))
        );
    }

    #[test]
    fn what_an_earlier_run_left_is_served_while_consul_is_gone() {
        let parts = parts(true);
        assert!(matches!(&*parts.health().borrow(), Health::Degraded { reason } if reason.contains(NOT_YET)));
        parts.lost(&Part::Intentions, &gone());
        assert!(matches!(&*parts.health().borrow(), Health::Degraded { .. }));
    }
}
