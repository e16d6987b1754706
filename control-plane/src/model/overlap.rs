//! Which routes claim the same messages without one being more specific than the other.

use std::collections::{BTreeMap, BTreeSet};

use super::{Instances, Problem, Route, Worlds};

/// So many problems are enough to read, and bound the time a hostile document takes.
const MOST: usize = 100;

/// How specific a world match is; the lower wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorldClass {
    /// A listed world.
    Exact,
    /// A range of worlds.
    Range,
    /// Any world.
    Any,
}

/// One entry of a route's world list.
struct Claim {
    low: u16,
    high: u16,
    route: usize,
    /// Index in the list; `None` for `any`.
    entry: Option<usize>,
}

/// One problem for each pair of routes (or route with itself) whose claims are equally specific and meet.
pub(super) fn overlaps(routes: &[Route]) -> Vec<Problem> {
    let mut groups: BTreeMap<_, Vec<Claim>> = BTreeMap::new();
    for (index, route) in routes.iter().enumerate() {
        let instances_listed = route.instances != Instances::Any;
        let mut claim = |class, low, high, entry| {
            let group = groups.entry((route.server_type, class, instances_listed)).or_default();
            group.push(Claim { low, high, route: index, entry });
        };
        match &route.worlds {
            Worlds::Any => claim(WorldClass::Any, 0, u16::MAX, None),
            Worlds::Listed(ranges) => {
                for (entry, &(low, high)) in ranges.iter().enumerate() {
                    claim(WorldClass::of(low, high), low, high, Some(entry));
                }
            }
        }
    }
    let mut problems: BTreeMap<(usize, usize), Problem> = BTreeMap::new();
    for claims in groups.into_values() {
        sweep(claims, |a, b| {
            let (first, second) = if a.route < b.route { (a, b) } else { (b, a) };
            if let (Some(one), Some(two)) = (routes.get(first.route), routes.get(second.route))
                && meet(one, two)
            {
                problems.entry((first.route, second.route)).or_insert_with(|| {
                    let message = if first.route == second.route {
                        "lists a world twice".to_owned()
                    } else {
                        format!("claims what route `{}` claims too, and neither is more specific", one.name)
                    };
                    Problem::at(second.path(), message).against(first.path())
                });
            }
            problems.len() < MOST
        });
    }
    problems.into_values().collect()
}

impl WorldClass {
    /// The class of one entry of a list.
    #[must_use]
    pub const fn of(low: u16, high: u16) -> Self {
        if low == high { Self::Exact } else { Self::Range }
    }
}

impl Claim {
    fn path(&self) -> String {
        match self.entry {
            Some(entry) => format!("routes[{}].worlds[{entry}]", self.route),
            None => format!("routes[{}]", self.route),
        }
    }
}

/// Calls `overlap` for each two claims that share a world, until it says to stop: in order of their starts,
/// each against those that have not ended before it. Sound documents have next to none: this is n log n.
fn sweep(mut claims: Vec<Claim>, mut overlap: impl FnMut(&Claim, &Claim) -> bool) {
    claims.sort_by_key(|c| (c.low, c.high, c.route));
    let mut open: BTreeSet<(u16, usize)> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        open = open.split_off(&(claim.low, 0));
        for &(_, j) in &open {
            if claims.get(j).is_some_and(|other| !overlap(other, claim)) {
                return;
            }
        }
        open.insert((claim.high, i));
    }
}

fn meet(a: &Route, b: &Route) -> bool {
    let listeners = a.listeners.is_empty()
        || b.listeners.is_empty()
        || a.listeners.iter().any(|l| b.listeners.contains(l));
    let instances = match (&a.instances, &b.instances) {
        (Instances::Listed(a), Instances::Listed(b)) => {
            a.iter().any(|a| b.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
        }
        _ => true,
    };
    listeners && instances
}
