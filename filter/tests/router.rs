//! The router against a model that walks all routes, and what it says for picks, keys and splits.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;
use realmgate_filter::config::{Destination, Framing, RouteConfig, Split};
use realmgate_filter::ranges::NumberSet;
use realmgate_filter::{Decision, FilterConfig, Router};
use realmgate_wire::ServerId;

fn router(routes: &str) -> Router {
    Router::new(&FilterConfig::from_json(format!(r#"{{"routes": {routes}}}"#).as_bytes()).unwrap()).unwrap()
}

fn game(world: u16, instance: u8) -> ServerId {
    ServerId::new(200, world, instance, false)
}

fn decide(router: &Router, id: ServerId) -> Option<Decision> {
    router.decide(id, Some("192.0.2.7"), || 0)
}

fn cluster(router: &Router, id: ServerId) -> Option<String> {
    decide(router, id).map(|decision| decision.cluster)
}

#[test]
fn the_first_route_that_matches_wins() {
    let router = router(
        r#"[
        {"server_type": 200, "worlds": "17", "instances": "1-3,9", "to": [{"cluster": "few"}]},
        {"server_type": 200, "worlds": "17", "to": [{"cluster": "world/{world}"}]},
        {"server_type": 200, "worlds": "1-20000", "to": [{"cluster": "range"}]},
        {"server_type": 200, "instances": "5", "to": [{"cluster": "five"}]},
        {"server_type": 200, "to": [{"cluster": "{server_type}/{world}/{instance}"}]},
        {"server_type": 10, "worlds": "32767", "to": [{"cluster": "last"}]}
    ]"#,
    );
    for (world, instance, expected) in [
        (17, 3, "few"),
        (17, 9, "few"),
        (17, 4, "world/17"),
        (17, 0, "world/17"),
        (16, 5, "range"),
        (20_000, 0, "range"),
        (20_001, 5, "five"),
        (20_001, 6, "200/20001/6"),
        (0, 5, "five"),
        (0, 0, "200/0/0"),
        (32_767, 255, "200/32767/255"),
    ] {
        assert_eq!(cluster(&router, game(world, instance)).as_deref(), Some(expected), "{world}/{instance}");
    }
    assert_eq!(cluster(&router, ServerId::new(10, 32_767, 1, true)).as_deref(), Some("last"));
    assert_eq!(cluster(&router, ServerId::new(10, 32_766, 1, true)), None);
    assert_eq!(cluster(&router, ServerId::new(10, 0, 1, true)), None);
    assert_eq!(cluster(&router, ServerId::new(11, 17, 1, false)), None);
}

#[test]
fn picks_are_those_of_the_old_gateway() {
    let by = |strategy| {
        router(&format!(
            r#"[{{"server_type": 200, "to": [{{"cluster": "all",
            "pick": {{"strategy": "{strategy}", "of": 3, "cluster": "one-{{pick}}"}}}}]}}]"#
        ))
    };
    let picks = |router: &Router| -> Vec<u32> {
        (1..=10).map(|instance| decide(router, game(1, instance)).unwrap().pick.unwrap()).collect()
    };
    let (consistent, realm) = (by("consistent_hash"), by("realm_based"));
    assert_eq!(picks(&consistent), [2, 1, 1, 1, 1, 1, 0, 2, 0, 0]);
    assert_eq!(picks(&realm), [1, 1, 1, 2, 0, 1, 1, 1, 0, 1]);
    assert_eq!(cluster(&realm, game(1, 4)).unwrap(), "one-2");
    // Where the old gateway went round robin, the cluster of all endpoints does.
    assert_eq!(cluster(&realm, game(0, 4)).unwrap(), "all");
    assert_eq!(cluster(&realm, game(1, 0)).unwrap(), "all");
    assert_eq!(cluster(&consistent, game(0, 4)).unwrap(), "one-1");
    assert_eq!(decide(&consistent, game(1, 0)).unwrap().pick, None);
}

#[test]
fn hash_keys_are_made_of_what_the_route_names() {
    let key = |name: &str, ip| {
        let router = router(&format!(r#"[{{"server_type": 200, {name} "to": [{{"cluster": "a"}}]}}]"#));
        let decision = router.decide(game(7, 9), ip, || 0).unwrap();
        decision.hash_key().map(str::to_owned)
    };
    assert_eq!(key("", Some("192.0.2.7")), None);
    assert_eq!(key(r#""hash_key": "instance","#, None).as_deref(), Some("9"));
    assert_eq!(key(r#""hash_key": "world_instance","#, None).as_deref(), Some("7/9"));
    assert_eq!(key(r#""hash_key": "source_ip","#, Some("2001:db8::1")).as_deref(), Some("2001:db8::1"));
    assert_eq!(key(r#""hash_key": "source_ip","#, None), None);
}

fn split(weights: &[u32], split: &str, hash_key: bool) -> Router {
    let to: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(i, weight)| format!(r#"{{"cluster": "c{i}", "weight": {weight}}}"#))
        .collect();
    let key = if hash_key { r#""hash_key": "world_instance","# } else { "" };
    let to = to.join(",");
    router(&format!(r#"[{{"server_type": 200, "split": "{split}", {key} "to": [{to}]}}]"#))
}

/// Destinations of 100,000 players.
fn spread(router: &Router) -> Vec<usize> {
    let ids = (1..=1000_u16).flat_map(|world| (1..=100_u8).map(move |instance| game(world, instance)));
    ids.map(|id| decide(router, id).unwrap().destination).collect()
}

#[test]
fn sticky_splits_keep_the_weights_and_move_as_few_as_needed() {
    let before = spread(&split(&[90, 10], "sticky", true));
    assert_eq!(before, spread(&split(&[90, 10], "sticky", true)));
    let share = |spread: &[usize]| spread.iter().filter(|&&to| to == 1).count();
    assert!((9_500..10_500).contains(&share(&before)), "{}", share(&before));

    let after = spread(&split(&[80, 20], "sticky", true));
    let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    assert!((9_500..10_500).contains(&moved.len()), "{}", moved.len());
    assert!(moved.iter().all(|&(&before, &after)| (before, after) == (0, 1)), "only towards the new");
    // The scale of the weights does not matter.
    assert_eq!(after, spread(&split(&[800_000, 200_000], "sticky", true)));
}

#[test]
fn random_splits_follow_the_number_drawn() {
    let at = |router: &Router, point: u64| router.decide(game(1, 1), None, || point).unwrap().destination;
    for router in [split(&[1, 2, 1], "random", true), split(&[1, 2, 1], "sticky", false)] {
        let quarter = 1 << 62;
        assert_eq!(at(&router, 0), 0);
        assert_eq!(at(&router, quarter - 1), 0);
        assert_eq!(at(&router, quarter), 1);
        assert_eq!(at(&router, 3 * quarter - 1), 1);
        assert_eq!(at(&router, 3 * quarter), 2);
        assert_eq!(at(&router, u64::MAX), 2);
    }
}

/// These stay: another hash would send players elsewhere on an update of the filter.
#[test]
fn sticky_splits_are_the_same_in_every_version() {
    let router = split(&[1, 1, 1, 1], "sticky", true);
    let destinations: Vec<_> = (1..=16).map(|i| decide(&router, game(1, i)).unwrap().destination).collect();
    assert_eq!(destinations, [2, 2, 0, 1, 1, 3, 0, 3, 0, 0, 1, 3, 3, 2, 3, 2]);
}

fn number_set(max: u16) -> impl Strategy<Value = NumberSet> {
    let range = (1..=max, 0..=max / 3).prop_map(move |(low, length)| (low, (low + length).min(max)));
    prop_oneof![
        1 => Just(NumberSet::Any),
        3 => prop::collection::vec(range, 1..4).prop_map(NumberSet::from_ranges),
    ]
}

fn routes() -> impl Strategy<Value = Vec<RouteConfig>> {
    // Few numbers, so that routes meet.
    let route = (1..=2_u8, number_set(12), number_set(4)).prop_map(|(server_type, worlds, instances)| {
        let to =
            vec![Destination { cluster: "c".to_owned(), weight: 1, pick: None, framing: Framing::Client }];
        RouteConfig {
            server_type,
            worlds,
            instances,
            hash_key: None,
            to,
            split: Split::Sticky,
            name: String::new(),
        }
    });
    prop::collection::vec(route, 0..12)
}

proptest! {
    #[test]
    fn the_router_is_the_model(routes in routes()) {
        let router = Router::new(&FilterConfig { routes: routes.clone(), ..FilterConfig::default() }).unwrap();
        for server_type in 0..=3 {
            for world in (0..=14).chain([32_767]) {
                for instance in (0..=6).chain([255]) {
                    let model = routes.iter().position(|route| {
                        route.server_type == server_type
                            && route.worlds.contains(world)
                            && route.instances.contains(u16::from(instance))
                    });
                    let id = ServerId::new(server_type, world, instance, world % 2 == 0);
                    let found = router.decide(id, None, || 0).map(|decision| decision.route);
                    prop_assert_eq!(found, model, "type {} world {} instance {}", server_type, world, instance);
                }
            }
        }
    }
}

/// Each world a route of its own, each route a thousand ranges: neither may take minutes, whatever the
/// machine.
#[test]
fn large_configurations_stay_n_log_n() {
    let route = |worlds| RouteConfig {
        server_type: 200,
        worlds,
        instances: NumberSet::Any,
        hash_key: None,
        to: vec![Destination {
            cluster: "game-{world}".to_owned(),
            weight: 1,
            pick: None,
            framing: Framing::Client,
        }],
        split: Split::Sticky,
        name: String::new(),
    };
    let each_world = (1..=32_767).map(|world| route(NumberSet::Ranges(vec![(world, world)])));
    let combs = (0..500_u16).map(|i| {
        route(NumberSet::from_ranges(
            (0..1000).map(|tooth| (1 + i % 16 + tooth * 32, 1 + i % 16 + tooth * 32)),
        ))
    });
    for routes in [each_world.collect::<Vec<_>>(), combs.collect()] {
        let begun = Instant::now();
        let router = Router::new(&FilterConfig { routes, ..FilterConfig::default() }).unwrap();
        println!("{:?}", begun.elapsed());
        assert!(begun.elapsed().as_secs() < 20);
        assert_eq!(decide(&router, game(5, 1)).unwrap().route, 4);
        let mut taken = BTreeMap::new();
        for world in 1..=32_767 {
            *taken.entry(decide(&router, game(world, 1)).map(|decision| decision.route)).or_insert(0) += 1;
        }
        assert!(taken.len() > 16);
    }
}
