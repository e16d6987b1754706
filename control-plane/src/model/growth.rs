//! What documents cost grows as they do, whatever their shape: in steps, which are counted, and in processor time, which also
//! tells of loops that nobody counts.

use std::fmt::Write;
use std::time::Duration;

use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

use super::{
    Effort, EndpointPolicy, Instances, MAX_BYTES, Overlay, Policy, Route, Unread, WorldClass, Worlds, diff,
    endpoint_problems, listeners_of_consul, mass_removal, overlap, parse_within,
};

/// A document of about this many lines.
pub(crate) type Shape = fn(usize) -> String;

/// Shapes that once cost the square of their length, or might.
pub(crate) const SHAPES: [(&str, Shape); 22] = [
    ("worlds, one by one", |n| routes(&[(&list(n, |i| (i % 32_767 + 1).to_string()), "")])),
    ("a range, again and again", |n| routes(&[(&list(n, |_| "'1-32767'".to_owned()), "")])),
    ("a world, again and again", |n| routes(&[(&list(n, |_| "7".to_owned()), "")])),
    ("nested ranges", |n| {
        routes(&[(&list(n, |i| format!("'{}-{}'", i % 9_000 + 1, 32_767 - i % 9_000)), "")])
    }),
    ("two routes, the same ranges", |n| {
        let worlds = list(n / 2, |i| format!("'{}-{}'", i % 16_000 * 2 + 1, i % 16_000 * 2 + 2));
        routes(&[(&worlds, ""), (&worlds, "")])
    }),
    ("the same worlds at a listener each", |n| {
        each(n, |i| format!("worlds: ['1-32767'], listeners: [l{i}]"))
    }),
    ("any world at a listener each", |n| each(n, |i| format!("listeners: [l{i}]"))),
    ("the same range everywhere", |n| each(n, |_| "worlds: ['1-9']".to_owned())),
    ("the same range by instance", |n| each(n, |i| format!("worlds: ['1-9'], instances: [{}]", i % 255 + 1))),
    ("many ranges by instance", |n| {
        let worlds = list(n / 8, |i| format!("'{}-{}'", i % 16_000 * 2 + 1, i % 16_000 * 2 + 2));
        routes(
            &(1..=64).map(|i| (worlds.as_str(), i)).map(|(w, i)| (w, INSTANCES[i % 64])).collect::<Vec<_>>(),
        )
    }),
    ("instances, again and again", |n| {
        routes(&[("any", &format!("instances: {}", list(n, |_| "'1-255'".to_owned())))])
    }),
    ("listeners", listeners),
    ("listeners at one address", |n| {
        let all = (0..n).map(|i| format!("  - {{name: l{i}, bind: '127.0.0.1:1'}}\n"));
        format!("listeners:\n{}", all.collect::<String>())
    }),
    ("a service each", |n| {
        let mut text = String::from("services:\n");
        (0..n).for_each(|i| writeln!(text, "  - {{name: s{i}, endpoints: ['127.0.0.1:1']}}").unwrap());
        text.push_str("routes:\n");
        let route = |i| {
            format!(
                "  - {{name: r{i}, server_type: 1, worlds: [{}], to: [{{service: s{i}}}]}}",
                i % 32_767 + 1
            )
        };
        (0..n).for_each(|i| writeln!(text, "{}", route(n - 1 - i)).unwrap());
        text
    }),
    ("services that are not there", |n| each(n, |_| String::new()).replace("service: s}", "service: t}")),
    ("endpoints", |n| {
        service(&format!("endpoints: {}", list(n, |i| format!("'10.{}.{}.1:1'", i / 256 % 256, i % 256))))
    }),
    ("an endpoint, again and again", |n| {
        service(&format!("endpoints: {}", list(n, |_| "'10.0.0.1:1'".to_owned())))
    }),
    ("datacenters and targets", |n| {
        let targets = list(n, |i| format!("{{datacenter: d{i}}}"));
        service(&format!(
            "consul: {{service: a}}, datacenters: {}, failover: {{targets: {targets}}}",
            list(n, |i| format!("d{i}"))
        ))
    }),
    ("intentions", |n| {
        format!("intentions: {}", list(n, |i| format!("{{source: s{i}, destination: d, action: allow}}")))
    }),
    ("unknown keys", |n| (0..n).fold(String::new(), |text, i| text + &format!("k{i}: 1\n"))),
    ("endpoints that are listeners", |n| {
        let endpoints = list(n, |i| format!("'127.{}.{}.1:9'", i / 256 % 256, i % 256));
        let text = each(n, |i| format!("server_type: {}, listeners: [l{}]", i % 256, n - 1 - i));
        text.replace("server_type: 1, ", "").replace("['127.0.0.1:1']", &endpoints)
    }),
    ("lines that say nothing", |n| format!("{}{{}}\n", "# nothing\n\n".repeat(n))),
];

const INSTANCES: [&str; 64] = {
    let mut all = ["instances: [1]"; 64];
    let (tens, mut i) =
        (["instances: [1, 9]", "instances: ['2-4']", "instances: [200]", "instances: ['100-140']"], 0);
    while i < 64 {
        all[i] = tens[i % 4];
        i += 1;
    }
    all
};

fn list(n: usize, item: impl Fn(usize) -> String) -> String {
    format!("[{}]", (0..n).map(item).collect::<Vec<_>>().join(", "))
}

fn service(more: &str) -> String {
    format!("services:\n  - {{name: s, {more}}}\n")
}

fn routes(all: &[(&str, &str)]) -> String {
    let route = |(i, (worlds, more)): (usize, &(&str, &str))| {
        let comma = if more.is_empty() { "" } else { ", " };
        format!("  - {{name: r{i}, server_type: 1, worlds: {worlds}, to: [{{service: s}}]{comma}{more}}}\n")
    };
    format!(
        "{}routes:\n{}",
        service("endpoints: ['127.0.0.1:1']"),
        all.iter().enumerate().map(route).collect::<String>()
    )
}

fn listeners(n: usize) -> String {
    let listener = |i: usize| format!("  - {{name: l{i}, bind: '127.{}.{}.1:9'}}\n", i / 256 % 256, i % 256);
    format!("listeners:\n{}", (0..n).map(listener).collect::<String>())
}

/// A route a listener.
fn each(n: usize, more: impl Fn(usize) -> String) -> String {
    let route = |i: usize| {
        let more = more(i);
        let comma = if more.is_empty() { "" } else { ", " };
        format!("  - {{name: r{i}, server_type: 1, to: [{{service: s}}]{comma}{more}}}\n")
    };
    let routes = (0..n).map(route).collect::<String>();
    format!("{}{}routes:\n{routes}", listeners(n), service("endpoints: ['127.0.0.1:1']"))
}

pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Steps and processor time of everything that becomes of a document.
fn cost(text: &str) -> (u64, Duration) {
    let effort = Effort::endless();
    let begun = processor_time();
    if let Ok(policy) = parse_within(text, &effort) {
        let names = policy.services.iter().map(|service| format!("x-{}", service.name));
        let services = names.zip(policy.services.iter().cloned().map(Some)).collect();
        let overlay = Overlay { services, ..Overlay::default() };
        let _ = overlay.over_within(&policy, &effort);
        let none = Policy::default();
        let rules = EndpointPolicy::default();
        let _ = (endpoint_problems(text, &policy, &rules), listeners_of_consul(&policy, &rules));
        std::hint::black_box((
            diff(&none, &policy),
            mass_removal(&policy, &none),
            mass_removal(&none, &policy),
        ));
    }
    (effort.steps(), processor_time().saturating_sub(begun))
}

#[test]
fn a_document_of_any_shape_costs_what_its_length_does() {
    for (name, shape) in SHAPES {
        let (small, large) = (shape(150), shape(1_200));
        assert!(large.len() > 6 * small.len(), "{name}");
        let (few, many) = (cost(&small).0, cost(&large).0);
        assert!(many <= 9 * few + 4_096, "{name}: {few} steps, and {many} for eight times as much");
        grows_evenly(name, || cost(&small).1, || cost(&large).1);
    }
}

/// Holds what eight times as much costs against what a part costs: the best of some runs, since others use the machine. A
/// square would be 64 times as much.
pub(crate) fn grows_evenly(what: &str, part: impl Fn() -> Duration, whole: impl Fn() -> Duration) {
    let best = |cost: &dyn Fn() -> Duration| (0..2).map(|_| cost()).min().unwrap_or_default();
    let is_even = || best(&whole) <= 24 * best(&part) + Duration::from_millis(1);
    assert!((0..5).any(|_| is_even()), "{what}: {:?}, and {:?} for eight times as much", part(), whole());
}

/// Run with `--release -- --ignored --nocapture` to see what the largest documents take.
#[test]
#[ignore = "a measurement"]
fn the_largest_documents() {
    for (name, shape) in SHAPES {
        let mut n = 1_000;
        while shape(n * 5 / 4).len() <= MAX_BYTES {
            n = n * 5 / 4;
        }
        let text = shape(n);
        let (steps, time) = cost(&text);
        println!("{name}: n = {n}, {} bytes, {steps} steps, {time:?}", text.len());
    }
}

#[test]
fn what_nobody_waits_for_is_ended() {
    for (name, shape) in SHAPES {
        let text = shape(3_000);
        let asked = std::cell::Cell::new(0);
        let stop = || {
            asked.set(asked.get() + 1);
            true
        };
        assert_eq!(parse_within(&text, &Effort::until(&stop)), Err(Unread::Stopped), "{name}");
        assert_eq!(asked.get(), 1, "{name}");
    }
}

/// Whether any two routes, or one with itself, claim the same and neither is more specific: each entry against each.
fn meets_by_hand(routes: &[Route]) -> bool {
    let entries = |route: &Route| match &route.worlds {
        Worlds::Any => vec![(WorldClass::Any, 0, u16::MAX)],
        Worlds::Listed(ranges) => {
            ranges.iter().map(|&(low, high)| (WorldClass::of(low, high), low, high)).collect()
        }
    };
    let ranges_meet = |a: (u16, u16), b: (u16, u16)| a.0 <= b.1 && b.0 <= a.1;
    let worlds_meet = |a: &Route, b: &Route, same: bool| {
        entries(a).iter().enumerate().any(|(i, a)| {
            let mut others = entries(b).into_iter().enumerate().filter(|(j, _)| !same || i != *j);
            others.any(|(_, b)| a.0 == b.0 && ranges_meet((a.1, a.2), (b.1, b.2)))
        })
    };
    let instances_meet = |a: &Route, b: &Route| match (&a.instances, &b.instances) {
        (Instances::Any, Instances::Any) => true,
        (Instances::Listed(a), Instances::Listed(b)) => {
            a.iter().any(|a| b.iter().any(|b| ranges_meet(*a, *b)))
        }
        _ => false,
    };
    let listeners_meet = |a: &Route, b: &Route| {
        a.listeners.is_empty()
            || b.listeners.is_empty()
            || a.listeners.iter().any(|name| b.listeners.contains(name))
    };
    routes.iter().enumerate().any(|(i, a)| {
        worlds_meet(a, a, true)
            || routes.iter().skip(i + 1).any(|b| {
                a.server_type == b.server_type
                    && worlds_meet(a, b, false)
                    && instances_meet(a, b)
                    && listeners_meet(a, b)
            })
    })
}

proptest! {
    #[test]
    fn the_quick_way_finds_what_comparing_all_with_all_finds(
        routes in proptest::collection::vec(
            (
                0..2_u8,
                proptest::option::of(proptest::collection::vec((1..40_u16, 0..3_u16), 1..4)),
                proptest::option::weighted(0.6, proptest::collection::vec((1..6_u16, 0..2_u16), 1..3)),
                proptest::collection::vec("[abc]", 0..3),
            ),
            1..7,
        ),
    ) {
        let written = |ranges: Option<Vec<(u16, u16)>>| {
            ranges.map(|ranges| ranges.into_iter().map(|(low, more)| (low, low + more)).collect())
        };
        let routes = routes.into_iter().enumerate().map(|(i, (server_type, worlds, instances, listeners))| Route {
            name: format!("r{i}"),
            server_type,
            worlds: written(worlds).map_or(Worlds::Any, Worlds::Listed),
            instances: written(instances).map_or(Instances::Any, Instances::Listed),
            strategy: super::Strategy::default(),
            hash_key: None,
            to: Vec::new(),
            split: realmgate_filter::config::Split::default(),
            listeners,
        });
        let routes: Vec<_> = routes.collect();
        let mut found = Vec::new();
        overlap::overlaps(&routes, &mut found, &Effort::endless()).unwrap();
        prop_assert_eq!(!found.is_empty(), meets_by_hand(&routes), "{:?} in {:?}", found, routes);
    }
}
