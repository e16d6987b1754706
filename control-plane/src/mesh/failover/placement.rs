//! What the past has to say of where players go: which datacenters are near, and what has just come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::catalog::{Catalog, Lookup};
use super::metrics::Standing;
use super::{Leg, candidates, latency, legs};
use crate::model::{FailBack, Policy, Service};

/// What the past says at one moment. It changes in steps, not all the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Datacenters of known latency, the nearest first.
    pub nearest: Vec<String>,
    /// Percent of its players that a target of a service is given, where that is not all.
    shares: BTreeMap<String, BTreeMap<Lookup, u32>>,
    /// Targets of which Consul has listed an instance, now or before.
    seen: BTreeSet<Lookup>,
}

impl Placement {
    /// Percent of its players that this target of `service` is given.
    #[must_use]
    pub fn share(&self, service: &str, target: &Lookup) -> u32 {
        self.shares.get(service).and_then(|of| of.get(target)).copied().unwrap_or(100)
    }

    /// Whether Consul has ever listed an instance of this target. Nobody can tell one that never had any from one that was lost.
    #[must_use]
    pub fn is_seen(&self, target: &Lookup) -> bool {
        self.seen.contains(target)
    }
}

/// Remembers what went and came back. Its clock is given to it.
#[derive(Debug, Default)]
pub struct Tracker {
    targets: BTreeMap<Lookup, State>,
    /// Other datacenters that are not heard though our own Consul is, and since when.
    unheard: BTreeMap<String, Instant>,
    latest: Arc<Placement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    Down,
    /// Well again, since then.
    Back(Instant),
}

/// A datacenter of which Consul tells nothing for so long counts as down. Until then its servers may just be electing a
/// leader, which takes up to twenty seconds, or have started again: servers look for each other over WAN every thirty. And
/// we take up to five to ask again.
const GRACE: Duration = Duration::from_mins(1);

/// Shares grow by a tenth at a time.
const STEPS: u32 = 10;

impl Tracker {
    /// What holds at `now`, and when it will be another even if nothing else changes.
    ///
    /// A target is down while none of its instances serves, or its datacenter has been lost: what was told of one that is
    /// lost is old. What is well when it is seen for the first time was never down.
    pub fn advance(
        &mut self,
        now: Instant,
        policy: &Policy,
        catalog: &Catalog,
    ) -> (Arc<Placement>, Option<Instant>) {
        let (lost, next_lost) = self.lost(now, catalog);
        self.targets.retain(|target, _| catalog.instances.contains_key(target));
        for (target, instances) in &catalog.instances {
            let up =
                !lost.contains(&target.datacenter) && instances.iter().any(|instance| instance.serves(false));
            let state = match (self.targets.get(target), up) {
                (Some(State::Down), true) => State::Back(now),
                (Some(&state @ State::Back(_)), true) => state,
                (_, true) => State::Well,
                (_, false) => State::Down,
            };
            self.targets.insert(target.clone(), state);
        }
        let mut shares = BTreeMap::new();
        let mut next = None;
        if self.targets.values().any(|state| matches!(state, State::Back(_))) {
            for service in &policy.services {
                let of = self.shares_of(service, now, catalog, &mut next);
                if !of.is_empty() {
                    shares.insert(service.name.clone(), of);
                }
            }
            if next.is_none() {
                // All are all the way back.
                for state in self.targets.values_mut().filter(|state| matches!(state, State::Back(_))) {
                    *state = State::Well;
                }
            }
        }
        let nearest = latency::nearest(&self.latest.nearest, &catalog.datacenters);
        let mut seen = self.latest.seen.clone();
        seen.retain(|target| catalog.instances.contains_key(target));
        let listed = catalog.instances.iter().filter(|(_, instances)| !instances.is_empty());
        seen.extend(listed.map(|(target, _)| target.clone()));
        let placement = Placement { nearest, shares, seen };
        if *self.latest != placement {
            self.latest = Arc::new(placement);
        }
        (Arc::clone(&self.latest), next.into_iter().chain(next_lost).min())
    }

    /// Datacenters that have been unheard for too long, and when the next one will have been. Our own never is: players here
    /// need no Consul. While it does not answer nothing is heard of others either, which says nothing of them: those that
    /// were lost before still are.
    fn lost(&mut self, now: Instant, catalog: &Catalog) -> (BTreeSet<String>, Option<Instant>) {
        let is_lost = |since: &Instant| now.duration_since(*since) >= GRACE;
        let ours = !catalog.unheard.contains(&catalog.local);
        self.unheard.retain(|name, since| catalog.unheard.contains(name) && (ours || is_lost(since)));
        for name in catalog.unheard.iter().filter(|_| ours) {
            self.unheard.entry(name.clone()).or_insert(now);
        }
        let lost = self.unheard.iter().filter(|(_, since)| is_lost(since)).map(|(name, _)| name.clone());
        let waiting = self.unheard.values().filter(|since| !is_lost(since));
        (lost.collect(), waiting.min().map(|since| *since + GRACE))
    }

    /// How every target is doing, as [`Self::advance`] found it.
    pub(super) fn standing(&self) -> impl Iterator<Item = (&Lookup, Standing)> {
        let returns = |target| self.latest.shares.values().any(|of| of.contains_key(target));
        self.targets.iter().map(move |(target, state)| {
            (target, Standing { up: *state != State::Down, returning: returns(target) })
        })
    }

    fn shares_of(
        &self,
        service: &Service,
        now: Instant,
        catalog: &Catalog,
        next: &mut Option<Instant>,
    ) -> BTreeMap<Lookup, u32> {
        let Some(fail_back) = service.failover().map(|failover| &failover.fail_back) else {
            return BTreeMap::new();
        };
        let mut shares = BTreeMap::new();
        for target in targets(service, catalog) {
            let Some(State::Back(since)) = self.targets.get(&target) else { continue };
            if let (share, Some(left)) = share(fail_back, now.duration_since(*since)) {
                *next = Some(next.map_or(now + left, |next| next.min(now + left)));
                shares.insert(target, share);
            }
        }
        shares
    }
}

/// All targets of a service, from wherever it is looked at.
fn targets(service: &Service, catalog: &Catalog) -> Vec<Lookup> {
    let legs = legs(service, catalog);
    let legs = legs.iter().map(Some).chain(legs.is_empty().then_some(None));
    let homes = || catalog.datacenters.keys().map(String::as_str).chain([catalog.local.as_str()]);
    let of = |leg: Option<&Leg>| {
        homes().flat_map(|home| candidates::lookups(service, leg, home, catalog)).collect()
    };
    legs.flat_map(|leg| -> Vec<_> { of(leg) }).collect()
}

/// The share at this time after the return, and how long until the next one; `None` = all, for good.
fn share(fail_back: &FailBack, since: Duration) -> (u32, Option<Duration>) {
    let (after, over) = (fail_back.after.get(), fail_back.over.get());
    let Some(ramp) = since.checked_sub(after) else { return (0, Some(after.saturating_sub(since))) };
    let step = over / STEPS;
    // The first tenth comes at once, so the last one comes a step before the end.
    let done = (1..=STEPS).take_while(|n| step * (n - 1) <= ramp).count();
    let done = u32::try_from(done).unwrap_or(STEPS);
    if done >= STEPS || step.is_zero() {
        return (100, None);
    }
    (100 * done / STEPS, Some((step * done).saturating_sub(ramp)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::catalog::{Instance, InstanceHealth};
    use crate::model::parse;

    fn at(start: Instant, secs: f64) -> Instant {
        start + Duration::from_secs_f64(secs)
    }

    fn target() -> Lookup {
        Lookup { datacenter: "aws".into(), service: "game".into(), sidecars: false, filter: String::new() }
    }

    fn catalog(health: InstanceHealth, heard: bool) -> Catalog {
        let instance = Instance {
            id: "game-1".into(),
            node: "node".into(),
            address: [10, 0, 0, 1].into(),
            port: 1,
            weight: 1,
            health,
        };
        Catalog {
            local: "azure".into(),
            unheard: (!heard).then(|| "aws".to_owned()).into_iter().collect(),
            instances: [(target(), [instance].into())].into(),
            ..Catalog::default()
        }
    }

    fn policy(fail_back: &str) -> Policy {
        let text = format!(
            "services: [{{name: s, consul: {{service: game}}, datacenter: aws, failover: {{fail_back: {fail_back}}}}}]"
        );
        parse(&text).unwrap()
    }

    #[test]
    fn a_target_comes_back_step_by_step_and_whoever_goes_again_begins_again() {
        let (well, down) = (catalog(InstanceHealth::Passing, true), catalog(InstanceHealth::Critical, true));
        let policy = policy("{after: 10s, over: 30s}");
        let start = Instant::now();
        let mut tracker = Tracker::default();
        let mut share = |secs: f64, catalog: &Catalog| {
            let (placement, next) = tracker.advance(at(start, secs), &policy, catalog);
            let next = next.map(|next| next.duration_since(start).as_secs_f64().round());
            (placement.share("s", &target()), next)
        };
        assert_eq!(share(0.0, &well), (100, None), "what is new was never down");
        assert_eq!(share(1.0, &down), (100, None));
        assert_eq!(share(5.0, &well), (0, Some(15.0)));
        assert_eq!(share(14.9, &well), (0, Some(15.0)));
        assert_eq!(share(15.0, &well), (10, Some(18.0)));
        assert_eq!(share(18.0, &well), (20, Some(21.0)));
        assert_eq!(share(20.0, &down), (100, None), "who is down has no way back yet");
        assert_eq!(share(21.0, &well), (0, Some(31.0)));
        assert_eq!(share(57.9, &well), (90, Some(58.0)));
        assert_eq!(share(58.0, &well), (100, None));
        assert_eq!(share(59.0, &well), (100, None));
    }

    #[test]
    fn operators_see_who_is_down_and_who_comes_back() {
        let policy = policy("{after: 10s, over: 30s}");
        let registry = prometheus::Registry::new();
        let mut metrics = super::super::Metrics::register(&registry).unwrap();
        let mut tracker = Tracker::default();
        let start = Instant::now();
        let mut shown = |secs: f64, catalog: &Catalog| {
            tracker.advance(at(start, secs), &policy, catalog);
            metrics.show(&tracker);
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            let of = |name: &str| {
                let name =
                    format!("realmgate_failover_target_{name}{{datacenter=\"aws\",service=\"game\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
            };
            (of("up"), of("returning"))
        };
        let values = |up: &str, returning: &str| (Some(up.to_owned()), Some(returning.to_owned()));
        assert_eq!(shown(0.0, &catalog(InstanceHealth::Passing, true)), values("1", "0"));
        assert_eq!(shown(1.0, &catalog(InstanceHealth::Critical, true)), values("0", "0"));
        assert_eq!(shown(3.0, &catalog(InstanceHealth::Passing, true)), values("1", "1"));
        assert_eq!(shown(50.0, &catalog(InstanceHealth::Passing, true)), values("1", "0"));
        assert_eq!(shown(51.0, &catalog(InstanceHealth::Passing, false)), values("1", "0"));
        assert_eq!(shown(111.0, &catalog(InstanceHealth::Passing, false)), values("0", "0"));
        assert_eq!(shown(112.0, &Catalog::default()), (None, None));
    }

    #[test]
    fn at_once_is_at_once() {
        let policy = policy("{after: 0, over: 0}");
        let mut tracker = Tracker::default();
        let start = Instant::now();
        for (secs, health) in
            [(0.0, InstanceHealth::Passing), (1.0, InstanceHealth::Critical), (2.0, InstanceHealth::Warning)]
        {
            let (placement, next) = tracker.advance(at(start, secs), &policy, &catalog(health, true));
            assert_eq!((placement.share("s", &target()), next), (100, None));
        }
    }

    #[test]
    fn a_datacenter_is_lost_by_long_silence_of_its_own_and_by_nothing_less() {
        let policy = policy("{after: 5s, over: 0}");
        let start = Instant::now();
        let mut tracker = Tracker::default();
        // The share of the target in aws while these are not heard, from where `local` is.
        let mut share = |secs: u32, local: &str, unheard: &[&str]| {
            let mut catalog = catalog(InstanceHealth::Passing, true);
            catalog.local = local.to_owned();
            catalog.unheard = unheard.iter().map(|name| (*name).to_owned()).collect();
            let (placement, next) = tracker.advance(at(start, secs.into()), &policy, &catalog);
            let next = next.map(|next| next.duration_since(start).as_secs());
            (placement.share("s", &target()), next)
        };
        assert_eq!(share(0, "azure", &[]), (100, None));
        // A question that fails, an election.
        assert_eq!(share(1, "azure", &["aws"]), (100, Some(61)));
        assert_eq!(share(20, "azure", &[]), (100, None), "nobody moves");
        // Our own agent is away: others are heard of a little later than it.
        assert_eq!(share(30, "azure", &["aws"]), (100, Some(90)));
        assert_eq!(share(31, "azure", &["aws", "azure"]), (100, None));
        assert_eq!(share(99, "azure", &["aws"]), (100, Some(159)));
        assert_eq!(share(104, "azure", &[]), (100, None), "nobody moves");
        // Lost, and back: also when our own agent was away meanwhile.
        assert_eq!(share(200, "azure", &["aws"]), (100, Some(260)));
        assert_eq!(share(260, "azure", &["aws"]), (100, None), "who is down has no way back yet");
        assert_eq!(share(270, "azure", &["aws", "azure"]), (100, None));
        assert_eq!(share(280, "azure", &["aws"]), (100, None), "it is still down");
        assert_eq!(share(290, "azure", &[]), (0, Some(295)));
        assert_eq!(share(295, "azure", &[]), (100, None));
        // Our own is never lost.
        assert_eq!(share(300, "aws", &["aws"]), (100, None));
        assert_eq!(share(900, "aws", &["aws"]), (100, None));
        assert_eq!(share(901, "aws", &[]), (100, None), "nobody moves");
    }
}
