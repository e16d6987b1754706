//! The routes of one server type, laid out along the worlds: for each stretch of worlds the routes that
//! matter, in order.

use std::collections::{BTreeMap, BTreeSet};

use crate::ranges::NumberSet;

/// What the layout needs to know of a route.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The route's place in the configuration: the lower wins.
    pub route: u32,
    /// Its worlds.
    pub worlds: &'a NumberSet,
    /// Its instances.
    pub instances: &'a NumberSet,
}

/// Sorted, disjoint stretches of worlds, each with its candidates.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    segments: Vec<Segment>,
    /// The candidates of all segments, one after another.
    candidates: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    low: u16,
    high: u16,
    start: usize,
    end: usize,
}

impl Segments {
    /// Lays out the claims of one server type: a sweep over the bounds of all ranges with the set of routes
    /// that are active between two bounds.
    ///
    /// Of the active routes with the same instances only the first can ever win, so the sweep keeps them in
    /// groups by instances and looks at each group's first; that is what keeps thousands of routes with
    /// thousands of ranges at n log n, for instance sets are few. A list of candidates ends at the first that
    /// takes any instance.
    #[must_use]
    pub fn build(claims: &[Claim<'_>]) -> Self {
        let mut groups: BTreeMap<&NumberSet, usize> = BTreeMap::new();
        // (bound, route, group, opens); bounds are u32 because a range may end at the highest u16.
        let mut bounds: Vec<(u32, u32, usize, bool)> = Vec::new();
        for claim in claims {
            let next = groups.len();
            let group = *groups.entry(claim.instances).or_insert(next);
            let whole = [(0, u16::MAX)];
            let ranges: &[(u16, u16)] = match claim.worlds {
                NumberSet::Any => &whole,
                NumberSet::Ranges(ranges) => ranges,
            };
            for &(low, high) in ranges {
                bounds.push((u32::from(low), claim.route, group, true));
                bounds.push((u32::from(high) + 1, claim.route, group, false));
            }
        }
        bounds.sort_unstable();

        let any_group = groups.get(&NumberSet::Any).copied();
        let mut active: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); groups.len()];
        let mut firsts: Vec<u32> = Vec::new();
        let mut layout = Self::default();
        let mut bounds = bounds.into_iter().peekable();
        while let Some((bound, route, group, opens)) = bounds.next() {
            if let Some(set) = active.get_mut(group) {
                if opens {
                    set.insert(route);
                } else {
                    set.remove(&route);
                }
            }
            let Some(&(next, ..)) = bounds.peek() else { break };
            if next == bound {
                continue;
            }
            let cut = any_group.and_then(|group| active.get(group)).and_then(BTreeSet::first).copied();
            firsts.clear();
            firsts.extend(active.iter().filter_map(BTreeSet::first));
            firsts.retain(|&route| cut.is_none_or(|cut| route <= cut));
            firsts.sort_unstable();
            layout.push(bound, next - 1, &firsts);
        }
        layout
    }

    /// The candidates for `world`, in order; the first whose instances fit wins.
    #[must_use]
    pub fn candidates(&self, world: u16) -> &[u32] {
        let after = self.segments.partition_point(|segment| segment.low <= world);
        after
            .checked_sub(1)
            .and_then(|i| self.segments.get(i))
            .filter(|segment| world <= segment.high)
            .and_then(|segment| self.candidates.get(segment.start..segment.end))
            .unwrap_or_default()
    }

    /// Appends a segment, or lengthens the last where it touches and says the same.
    fn push(&mut self, low: u32, high: u32, candidates: &[u32]) {
        let (Ok(low), Ok(high)) = (u16::try_from(low), u16::try_from(high)) else { return };
        if candidates.is_empty() {
            return;
        }
        if let Some(last) = self.segments.last_mut()
            && u32::from(last.high) + 1 == u32::from(low)
            && self.candidates.get(last.start..last.end) == Some(candidates)
        {
            last.high = high;
            return;
        }
        let start = self.candidates.len();
        self.candidates.extend_from_slice(candidates);
        self.segments.push(Segment { low, high, start, end: self.candidates.len() });
    }
}
