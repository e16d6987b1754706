//! One resource type on one stream: what the proxy asks for, has, refused, and what it is owed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::budget::Account;
use super::claims::Claims;
use super::in_flight::InFlight;
use super::interest::{Asked, Interest};
use super::message::{Asks, Request, Texts, Variant};
use super::name_map::{NameMap, join};
use super::names::NamePool;
use super::plan::Gate;
use super::refusal::{Nack, Rejected, Suspended};
use super::retry::Retry;
use super::snapshot::Change;
use super::{Resource, ResourceSet, ResourceType};

/// How long a proxy may take before we stop waiting for it: to acknowledge before the next change is sent
/// anyway, to ask for the endpoints of a new cluster, to ask for its listeners after a reconnect. Envoy
/// does each within milliseconds; what takes longer is a proxy that will not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Answers in flight beyond which even requests wait: the bound on what a silent proxy costs us.
pub(super) const MAX_IN_FLIGHT: usize = 16;

/// What a proxy has under a name; `None` = nothing.
pub(super) type Had = Option<Arc<Resource>>;

/// What is wanted and was not sent yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backlog {
    Nothing,
    /// Something that other types must make way for.
    Withheld,
    /// What was too large for one response.
    Rest,
    /// A response that waits for the answer to one before.
    Ready,
}

/// One type on one stream.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(super) kind: ResourceType,
    pub(super) variant: Variant,
    pub(super) interest: Interest,
    /// What the proxy has where that is not what is wanted; `None` = nothing. All else that it asks for it was
    /// sent as wanted, so that a stream costs what it lags behind, not what it has.
    pub(super) behind: NameMap<Had>,
    /// Names to answer whatever the proxy has.
    pub(super) due: NameMap<()>,
    /// Whether a response is owed even if it is empty: a first wildcard request.
    pub(super) owes_answer: bool,
    /// The version a proxy says it has on its first request in state of the world.
    pub(super) claimed: Option<String>,
    /// Whether the proxy keeps what it came with ([`super::Hold`]).
    pub(super) keeps: bool,
    /// A payload that was refused is never sent again unchanged (19).
    pub(super) rejected: BTreeMap<Arc<str>, Rejected>,
    /// Refused together without a word on which is at fault; each group waits to be tried on its own.
    pub(super) suspended: Vec<Suspended>,
    /// The response from which on answers tell about the group being tried.
    pub(super) trial: u64,
    pub(super) in_flight: VecDeque<InFlight>,
    /// Of the last response sent, and of the last one answered. Nonces are these numbers.
    pub(super) sent: u64,
    pub(super) answered: u64,
    /// Whether there may be something to send that there was not before.
    pub(super) dirty: bool,
    pub(super) backlog: Backlog,
    pub(super) sent_version: Arc<str>,
    pub(super) acked_version: Arc<str>,
    pub(super) nack: Option<Arc<Nack>>,
    /// When what needs code is tried again.
    pub(super) retry: Retry,
    /// Whether what says that all filters are in force may be sent.
    pub(super) last: Gate,
    /// Where the words of its refusals are counted.
    pub(super) account: Account,
}

/// What keeping an entry of a list takes, and a name or a resource of our own making for it.
const ENTRY: usize = 32;
pub(super) const OBJECT: usize = 128;

impl Subscription {
    pub(crate) fn new(kind: ResourceType, variant: Variant, account: &Account) -> Self {
        Self {
            kind,
            variant,
            interest: Interest::default(),
            behind: NameMap::default(),
            due: NameMap::default(),
            owes_answer: false,
            claimed: None,
            keeps: false,
            rejected: BTreeMap::new(),
            suspended: Vec::new(),
            trial: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            answered: 0,
            dirty: false,
            backlog: Backlog::Nothing,
            sent_version: Arc::default(),
            acked_version: Arc::default(),
            nack: None,
            retry: Retry::default(),
            last: Gate::Open,
            account: account.clone(),
        }
    }

    /// Whether the proxy asked for this type.
    pub(crate) const fn asked(&self) -> bool {
        self.interest.asked()
    }

    /// How many names this stream keeps for the type, for its bound.
    pub(crate) fn names(&self) -> usize {
        self.interest.names().len().max(self.behind.len()).max(self.due.len())
    }

    /// Bytes of what this stream keeps of the type because the proxy said it, besides the words of refusals: names that are
    /// not among those that are wanted, which all streams share, and versions that it claims.
    pub(crate) fn said(&self, wanted: &ResourceSet) -> usize {
        let name =
            |name: &Arc<str>| if wanted.position(name).is_some() { ENTRY } else { name.len() + OBJECT };
        let held = |(of, has): (&Arc<str>, &Had)| {
            let claim =
                has.as_ref().filter(|has| has.is_claimed()).map_or(0, |has| has.version().len() + OBJECT);
            name(of) + claim
        };
        let names = self.interest.names().iter().map(name).sum::<usize>();
        names + self.behind.iter().map(held).sum::<usize>() + self.due.len() * ENTRY
    }

    /// Whether the proxy refuses something that is still wanted.
    pub(crate) fn rejecting(&self) -> bool {
        !self.rejected.is_empty() || self.refused_whole().is_some()
    }

    /// The refusal of a response in which no resource is at fault.
    pub(crate) fn refused_whole(&self) -> Option<&Nack> {
        self.nack.as_deref().filter(|_| self.rejected.is_empty() && self.in_flight.is_empty())
    }

    /// How many wanted resources the proxy was not sent yet, or has not acknowledged.
    pub(crate) fn pending(&self, wanted: &ResourceSet) -> usize {
        let unsent = self.behind.iter().map(|(name, _)| name);
        let unsent = unsent.filter(|name| !self.rejected.contains_key(*name));
        let unsent = unsent.filter(|name| self.covered(name, wanted).is_some()).count();
        unsent + self.in_flight.iter().map(|sent| sent.changes.len()).sum::<usize>()
    }

    /// Names of what was sent and not acknowledged yet.
    pub(crate) fn unacknowledged(&self) -> BTreeSet<&Arc<str>> {
        self.in_flight.iter().flat_map(|sent| &sent.changes).map(|change| change.sent.name()).collect()
    }

    /// What the proxy has, or was sent, under this name.
    pub(crate) fn held<'a>(&'a self, name: &str, wanted: &'a ResourceSet) -> Option<&'a Arc<Resource>> {
        match self.behind.get(name) {
            Some(instead) => instead.as_ref(),
            None => self.covered(name, wanted),
        }
    }

    /// The wanted resource of this name, if the proxy asks for it.
    pub(super) fn covered<'a>(&self, name: &str, wanted: &'a ResourceSet) -> Option<&'a Arc<Resource>> {
        wanted.get(name).filter(|resource| self.interest.covers(resource))
    }

    /// Whether the proxy has something that is not wanted any more.
    pub(crate) fn has_leftovers(&self, wanted: &ResourceSet) -> bool {
        self.behind.iter().any(|(name, has)| has.is_some() && self.covered(name, wanted).is_none())
    }

    /// Names that no answered response brought: nothing that is in force can depend on them.
    pub(crate) fn unborn(&self) -> BTreeSet<Arc<str>> {
        let changes = self.in_flight.iter().flat_map(|sent| &sent.changes);
        changes.filter(|c| c.last_good.is_none()).map(|c| Arc::clone(c.sent.name())).collect()
    }

    /// Whether something is wanted that was not sent yet.
    pub(super) fn unsent(&self) -> bool {
        self.backlog != Backlog::Nothing
    }

    /// Whether an answer of the proxy is awaited, after which there may be more to say.
    pub(crate) fn moves(&self) -> bool {
        !self.in_flight.is_empty() || self.backlog == Backlog::Ready || self.is_fetching()
    }

    /// Whether the proxy has all of this type that is wanted, and said so.
    pub(crate) fn settled(&self) -> bool {
        self.in_flight.is_empty() && !self.unsent() && self.rejected.is_empty()
    }

    /// The version the proxy is known to use: the wanted one as soon as nothing is missing.
    pub(crate) fn acked<'a>(&'a self, wanted: &'a ResourceSet) -> &'a Arc<str> {
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
    pub(crate) fn on_request(
        &mut self,
        request: Request,
        wanted: &ResourceSet,
        pool: &NamePool,
        now: SystemTime,
    ) -> bool {
        let stale = self.stale(&request);
        let refused = self.on_acknowledgement(&request.nonce, request.error, wanted, now);
        match request.asks {
            _ if stale => {}
            Asks::All { names, version } => {
                let asked = self.interest.replace(self.kind, &names, wanted, pool);
                if asked.first && !version.is_empty() {
                    self.claimed = Some(version);
                }
                self.owes_answer |=
                    self.full_state() && (asked.first || asked.dropped || !asked.answer.is_empty());
                self.on_asked(asked, &Texts::default(), wanted);
            }
            Asks::Change { subscribe, unsubscribe, initial } => {
                let asked = self.interest.change(self.kind, &subscribe, &unsubscribe, wanted, pool);
                // Only differences are sent after a reconnect (13).
                let initial = if asked.first { initial } else { Texts::default() };
                self.owes_answer |= asked.first && self.interest.wildcard() && initial.is_empty();
                self.on_asked(asked, &initial, wanted);
            }
        }
        refused
    }

    /// What is asked for now and was not before, the proxy does not have, or, after a reconnect, has in the
    /// version that it claims. What it asks for no more, it lets go.
    fn on_asked(&mut self, asked: Asked, initial: &Texts, wanted: &ResourceSet) {
        self.dirty = true;
        let interest = &self.interest;
        let mut claims = Claims::of(initial, wanted);
        let answer = asked.answer.into_iter().filter(|name| match wanted.position(name) {
            Some(at) => !claims.has(at),
            None => !claims.has_foreign(name),
        });
        self.due.extend(answer.map(|name| (name, ())));
        let mut missing = |(at, resource): (usize, &Arc<Resource>)| {
            let claim = claims.take(at);
            let has = claim.map(|version| Arc::new(Resource::claimed(Arc::clone(resource.name()), version)));
            (claim != Some(resource.version())).then(|| (Arc::clone(resource.name()), has))
        };
        if asked.everything {
            let covered = wanted.iter().enumerate().filter(|(_, resource)| interest.covers(resource));
            self.behind.extend(covered.filter_map(&mut missing));
        } else {
            let added = asked.added.iter().filter_map(|name| wanted.position(name));
            let added = added.filter_map(|at| Some((at, wanted.at(at)?)));
            let new = added.filter(|(_, resource)| !interest.wildcard() || resource.is_on_demand());
            self.behind.extend(new.filter_map(&mut missing));
        }
        let rest = claims.rest(wanted).filter(|(name, _)| interest.names_or_all(name));
        self.behind.extend(
            rest.map(|(name, version)| (Arc::clone(&name), Some(Arc::new(Resource::claimed(name, version))))),
        );
        if asked.dropped {
            self.behind.retain(|name, _| interest.names_or_all(name));
            self.due.retain(|name, ()| interest.names_or_all(name));
            self.rejected.retain(|name, _| interest.names_or_all(name));
        }
    }

    /// Takes note of another wanted set: refusals of what is no longer wanted are healed.
    pub(crate) fn on_wanted(&mut self, before: &ResourceSet, wanted: &ResourceSet) {
        self.dirty = true;
        self.trust_no_exclusion();
        let changes = wanted.changes_since(before);
        let changes = changes.iter().map(|change| (Arc::clone(&change.name), change));
        let behind = join(self.behind.take(), changes);
        let behind = behind.filter_map(|(name, has, change)| {
            let has = match change {
                Some(change) => self.behind_after(&name, has, change),
                None => has,
            };
            Some((name, has?))
        });
        self.behind = behind.collect();
        self.rejected.retain(|name, _| wanted.get(name).is_some());
        if self.rejected.is_empty()
            && self.nack.as_ref().is_some_and(|nack| nack.version != *wanted.version())
        {
            self.nack = None;
        }
    }

    /// What the proxy has instead of the wanted resource once this changed; `None` when it has just that. `has`
    /// is the same before the change.
    fn behind_after(
        &self,
        name: &Arc<str>,
        has: Option<Had>,
        Change { before, after, .. }: &Change,
    ) -> Option<Had> {
        let covered = |resource: &Option<Arc<Resource>>| {
            resource.clone().filter(|resource| self.interest.covers(resource))
        };
        let has = match (has, self.rejected.get(name)) {
            (Some(has), _) => has,
            (None, Some(rejected)) if self.full_state() => rejected.last_good.clone(),
            (None, _) => covered(before),
        };
        // Which version runs after a refusal is not known: there is always something to say then.
        let as_wanted = match (&has, covered(after)) {
            (None, None) => true,
            (Some(has), Some(after)) => has.version() == after.version() && !self.rejected.contains_key(name),
            _ => false,
        };
        (!as_wanted).then_some(has)
    }
}
