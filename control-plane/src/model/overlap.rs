//! Which routes claim the same messages without one being more specific than the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Effort, Instances, Problem, Route, Stopped, Worlds};

/// So many problems are enough to read.
const MOST: usize = 100;

/// Entries of world lists, each as often as its route names listeners and lists instances. A document of 4 MiB has fewer unless
/// long lists meet in one route, and what comes of those no edge could hold either.
const MOST_CLAIMS: usize = 4_000_000;

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

impl WorldClass {
    /// The class of one entry of a list.
    #[must_use]
    pub const fn of(low: u16, high: u16) -> Self {
        if low == high { Self::Exact } else { Self::Range }
    }
}

/// Routes whose claims can be equally specific: server type, class of worlds, whether instances are listed.
type Group = (u8, WorldClass, bool);

/// One entry of a route's world list.
#[derive(Clone, Copy)]
struct Claim {
    low: u16,
    high: u16,
    route: usize,
    /// Index in the list; `None` for `any`.
    entry: Option<usize>,
}

/// Who claimed the highest world of one place, a listener and an instance, so far: whoever comes later in the order of first
/// worlds meets somebody there if and only if he meets this one.
type Place = Option<Claim>;

/// Finds the routes that claim what others (or they themselves) claim too, each with one that it meets.
pub(super) fn overlaps(
    routes: &[Route],
    found: &mut Vec<Problem>,
    effort: &Effort<'_>,
) -> Result<(), Stopped> {
    let mut pairs = BTreeMap::new();
    let mut groups: BTreeMap<Group, Vec<Claim>> = BTreeMap::new();
    for (index, route) in routes.iter().enumerate() {
        for (class, claims) in claims(index, route, &mut pairs, effort)? {
            let group = (route.server_type, class, route.instances != Instances::Any);
            groups.entry(group).or_default().extend(claims);
        }
    }
    let mut claimed = 0;
    for claims in groups.into_values() {
        let group = Places::of(routes, &claims);
        claimed += claims.iter().map(|claim| group.weight(claim.route)).sum::<usize>();
        if claimed > MOST_CLAIMS {
            let why = format!(
                "worlds, instances and named listeners of its routes make more than {MOST_CLAIMS} combinations: put worlds into \
                 ranges, or leave `listeners` out of routes that are for all"
            );
            found.push(Problem::at("routes", why));
            break;
        }
        group.sweep(claims, &mut pairs, effort)?;
        if pairs.len() >= MOST {
            break;
        }
    }
    found.extend(pairs.into_iter().take(MOST).map(|((first, second), (a, b))| {
        let message = match routes.get(first) {
            Some(one) if first != second => {
                format!("claims what route `{}` claims too, and neither is more specific", one.name)
            }
            _ => "lists a world twice".to_owned(),
        };
        Problem::at(b.path(), message).against(a.path())
    }));
    Ok(())
}

/// Routes that meet, the one that stands first, first, and where.
type Pairs = BTreeMap<(usize, usize), (Claim, Claim)>;

fn note(pairs: &mut Pairs, a: Claim, b: Claim) {
    if pairs.len() < MOST {
        let (a, b) = if (a.route, a.entry) <= (b.route, b.entry) { (a, b) } else { (b, a) };
        pairs.entry((a.route, b.route)).or_insert((a, b));
    }
}

/// A route's claims by class; in each no two meet, since those that do are noted and made one.
fn claims(
    index: usize,
    route: &Route,
    pairs: &mut Pairs,
    effort: &Effort<'_>,
) -> Result<BTreeMap<WorldClass, Vec<Claim>>, Stopped> {
    let mut classes: BTreeMap<_, Vec<Claim>> = BTreeMap::new();
    let ranges = match &route.worlds {
        Worlds::Any => {
            let all = Claim { low: 0, high: u16::MAX, route: index, entry: None };
            return Ok([(WorldClass::Any, vec![all])].into());
        }
        Worlds::Listed(ranges) => ranges,
    };
    for (entry, &(low, high)) in ranges.iter().enumerate() {
        let claim = Claim { low, high, route: index, entry: Some(entry) };
        classes.entry(WorldClass::of(low, high)).or_default().push(claim);
    }
    for claims in classes.values_mut() {
        claims.sort_by_key(|claim| claim.low);
        let mut apart: Vec<Claim> = Vec::with_capacity(claims.len());
        for &claim in claims.iter() {
            effort.step()?;
            match apart.last_mut().filter(|last| last.high >= claim.low) {
                Some(last) => {
                    note(pairs, *last, claim);
                    last.high = last.high.max(claim.high);
                }
                None => apart.push(claim),
            }
        }
        *claims = apart;
    }
    Ok(classes)
}

impl Claim {
    fn path(&self) -> String {
        match self.entry {
            Some(entry) => format!("routes[{}].worlds[{entry}]", self.route),
            None => format!("routes[{}]", self.route),
        }
    }
}

/// Where the routes of one group claim: listeners that they name, and parts of all instances that no route tells apart.
struct Places {
    of: HashMap<usize, RoutePlaces>,
}

struct RoutePlaces {
    /// None = all.
    listeners: Option<Vec<usize>>,
    instances: Vec<usize>,
}

impl Places {
    fn of(routes: &[Route], claims: &[Claim]) -> Self {
        let indices: BTreeSet<_> = claims.iter().map(|claim| claim.route).collect();
        let members = || indices.iter().filter_map(|index| Some((*index, routes.get(*index)?)));
        let mut cuts = BTreeSet::new();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for (_, route) in members() {
            if let Instances::Listed(ranges) = &route.instances {
                cuts.extend(ranges.iter().flat_map(|(low, high)| [*low, high.saturating_add(1)]));
            }
            for name in &route.listeners {
                let number = numbers.len();
                numbers.entry(name).or_insert(number);
            }
        }
        let cuts: Vec<u16> = cuts.into_iter().collect();
        let of = members().map(|(index, route)| {
            let named: BTreeSet<_> =
                route.listeners.iter().filter_map(|name| numbers.get(name.as_str()).copied()).collect();
            let listeners = (!named.is_empty()).then(|| named.into_iter().collect());
            (index, RoutePlaces { listeners, instances: parts(&route.instances, &cuts) })
        });
        Self { of: of.collect() }
    }

    fn weight(&self, route: usize) -> usize {
        self.of.get(&route).map_or(0, |of| of.listeners.as_ref().map_or(1, Vec::len) * of.instances.len())
    }

    /// Takes claims in the order of their first worlds: each against those that reach furthest in its places.
    fn sweep(&self, mut claims: Vec<Claim>, pairs: &mut Pairs, effort: &Effort<'_>) -> Result<(), Stopped> {
        claims.sort_by_key(|claim| (claim.low, claim.high, claim.route));
        // Of routes for all listeners, of those for some, and of those by listener.
        let (mut for_all, mut for_some): (Vec<Place>, Vec<Place>) = Default::default();
        let mut by_listener: HashMap<(usize, usize), Place> = HashMap::new();
        for claim in claims {
            let Some(of) = self.of.get(&claim.route) else { continue };
            for &part in &of.instances {
                effort.step()?;
                let room = for_all.len().max(part + 1);
                for_all.resize(room, None);
                for_some.resize(room, None);
                let (Some(all), Some(some)) = (for_all.get_mut(part), for_some.get_mut(part)) else {
                    continue;
                };
                meet(all, claim, pairs);
                let Some(listeners) = &of.listeners else {
                    meet(some, claim, pairs);
                    keep_furthest(all, claim);
                    continue;
                };
                keep_furthest(some, claim);
                for &listener in listeners {
                    effort.step()?;
                    let place = by_listener.entry((listener, part)).or_default();
                    meet(place, claim, pairs);
                    keep_furthest(place, claim);
                }
            }
            if pairs.len() >= MOST {
                break;
            }
        }
        Ok(())
    }
}

fn meet(place: &Place, claim: Claim, pairs: &mut Pairs) {
    if let Some(other) = place.filter(|other| other.high >= claim.low) {
        note(pairs, other, claim);
    }
}

fn keep_furthest(place: &mut Place, claim: Claim) {
    if place.is_none_or(|other| other.high < claim.high) {
        *place = Some(claim);
    }
}

/// The parts between these cuts that a route's instances cover, by number.
fn parts(instances: &Instances, cuts: &[u16]) -> Vec<usize> {
    let Instances::Listed(ranges) = instances else { return vec![0] };
    // Ranges may repeat, which is no fault.
    let mut opens = BTreeMap::<u16, i64>::new();
    for &(low, high) in ranges {
        *opens.entry(low).or_default() += 1;
        *opens.entry(high.saturating_add(1)).or_default() -= 1;
    }
    let mut open = 0;
    let covered = cuts.iter().enumerate().filter(|(_, cut)| {
        open += opens.get(cut).copied().unwrap_or_default();
        open > 0
    });
    covered.map(|(part, _)| part).collect()
}
