//! Datacenters by the time that it takes to reach them, in an order that does not flap.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::catalog::Datacenter;
use super::Locality;

/// A datacenter overtakes another when it is nearer by more than this part of its own time...
const MARGIN: f64 = 0.2;

/// ...and by more than this: coordinates of datacenters next to each other differ by less from one minute to the next.
const LEAST: Duration = Duration::from_millis(2);

/// The order that follows `previous` by what is measured now. Those that were not in it yet come in by their time.
pub(super) fn nearest(previous: &[String], datacenters: &BTreeMap<String, Datacenter>) -> Vec<String> {
    let rtt = |name: &String| datacenters.get(name).and_then(|datacenter| datacenter.rtt);
    let mut ordered: Vec<(String, Duration)> =
        previous.iter().filter_map(|name| Some((name.clone(), rtt(name)?))).collect();
    let mut new: Vec<_> = datacenters
        .iter()
        .filter(|(name, _)| !previous.contains(name))
        .filter_map(|(name, datacenter)| Some((datacenter.rtt?, name.clone())))
        .collect();
    new.sort();
    for (rtt, name) in new {
        let place = ordered.iter().position(|(_, other)| rtt < *other).unwrap_or(ordered.len());
        ordered.insert(place, (name, rtt));
    }
    // Each exchange takes a nearer one forward, so this ends.
    while let Some(i) = ordered.windows(2).position(overtakes) {
        ordered.swap(i, i + 1);
    }
    ordered.into_iter().map(|(name, _)| name).collect()
}

fn overtakes(pair: &[(String, Duration)]) -> bool {
    let [(_, first), (_, second)] = pair else { return false };
    *first > second.mul_f64(1.0 + MARGIN).max(*second + LEAST)
}

/// Puts the edge's own datacenter first, then the others as they are near, then those that nobody measured. Times are
/// measured from the control plane's datacenter: they say nothing to edges elsewhere.
pub(super) fn order(localities: &mut [Locality], home: &str, local: &str, nearest: &[String]) {
    let place = |locality: &Locality| {
        let measured = nearest.iter().position(|name| *name == locality.datacenter);
        match measured.filter(|_| home == local) {
            _ if !home.is_empty() && locality.datacenter == home => (0, 0),
            Some(place) => (1, place),
            None => (2, 0),
        }
    };
    localities.sort_by_key(place);
    for locality in localities {
        let why = match place(locality) {
            (0, _) => "in the edge's own datacenter",
            (1, _) => "by latency",
            _ => "latency not known",
        };
        locality.why = format!("{}, {why}", locality.why);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn measured(rtts: &[(&str, f64)]) -> BTreeMap<String, Datacenter> {
        let datacenter = |ms: f64| Datacenter { rtt: Some(Duration::from_secs_f64(ms / 1e3)) };
        rtts.iter().map(|&(name, ms)| (name.to_owned(), datacenter(ms))).collect()
    }

    #[test]
    fn a_nearer_one_overtakes_by_the_margin_and_not_before() {
        let start = nearest(&[], &measured(&[("a", 50.0), ("b", 40.0), ("c", 45.0)]));
        assert_eq!(start, ["b", "c", "a"]);
        let close = nearest(&start, &measured(&[("a", 41.0), ("b", 48.0), ("c", 47.0)]));
        assert_eq!(close, start, "within a fifth nothing changes");
        assert_eq!(nearest(&close, &measured(&[("a", 35.0), ("b", 48.0), ("c", 47.0)])), ["a", "b", "c"]);
        // One that is measured no more is left out, and comes in by its time.
        assert_eq!(nearest(&start, &measured(&[("a", 50.0), ("b", 40.0)])), ["b", "a"]);
        // Next to each other: a fifth of a millisecond is nothing.
        let near = nearest(&[], &measured(&[("a", 0.5), ("b", 0.6)]));
        assert_eq!(nearest(&near, &measured(&[("a", 2.4), ("b", 0.5)])), near);
    }

    proptest! {
        #[test]
        fn jitter_below_the_margin_moves_nobody(
            base in prop::collection::vec(5.0f64..300.0, 2..6),
            jitter in prop::collection::vec(prop::collection::vec(-0.08f64..0.08, 6), 1..20),
        ) {
            const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
            let at = |factors: &[f64]| {
                let rtts: Vec<_> = NAMES.iter().zip(&base).zip(factors).map(|((&n, b), f)| (n, b * (1.0 + f))).collect();
                measured(&rtts)
            };
            let start = nearest(&[], &at(&[0.0; 6]));
            let mut order = start.clone();
            for factors in &jitter {
                order = nearest(&order, &at(factors));
                prop_assert_eq!(&order, &start);
            }
        }

        #[test]
        fn whoever_is_measured_is_in_it_once(
            steps in prop::collection::vec(prop::collection::btree_map("[a-e]", 0.0f64..100.0, 0..5), 1..10),
        ) {
            let mut order = Vec::new();
            for step in steps {
                let now: Vec<_> = step.iter().map(|(name, ms)| (name.as_str(), *ms)).collect();
                order = nearest(&order, &measured(&now));
                let mut sorted = order.clone();
                sorted.sort();
                prop_assert_eq!(sorted, step.keys().cloned().collect::<Vec<_>>());
            }
        }
    }
}
