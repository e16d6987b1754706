//! The simulated fleet against a real control plane: what the benchmarks rest on.

use std::time::Duration;

use realmgate_tests::fleet::{Kind, moment};
use realmgate_tests::{Fleet, Stage, TestNet};
use serde_json::json;

use crate::cast::{LIMIT, route};

const PROXIES: u64 = 50;

#[test]
fn fifty_proxies_sync_follow_a_change_and_return_for_the_difference() {
    let net = TestNet::new();
    let mut control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let policy = |ports: [u16; 2]| {
        let service = |name: &str, port| json!({"name": name, "endpoints": [format!("10.0.0.1:{port}")]});
        let services = json!([service("blue", ports[0]), service("green", ports[1])]);
        let routes = json!([route("blue", &json!([1]), "blue"), route("green", &json!([2]), "green")]);
        json!({"listeners": [{"name": "edge", "bind": "127.0.0.1:7000"}], "services": services, "routes": routes})
            .to_string()
    };
    control_plane.put_policy(&policy([1, 1]));

    let mut fleet = Fleet::start(control_plane.xds()).unwrap();
    fleet.connect(50, 50).unwrap();
    fleet.synced(LIMIT).unwrap();
    let first = fleet.traffic().unwrap();
    // Two clusters, their endpoints, the listeners of players and of health, and the filter of each.
    assert!(first.resources >= PROXIES * 6 && first.resources.is_multiple_of(PROXIES), "{first:?}");

    fleet.watch(Kind::Eds, Some("blue")).unwrap();
    let start = moment();
    control_plane.put_policy(&policy([2, 1]));
    let seen = fleet.acknowledged(LIMIT).unwrap();
    assert_eq!(seen.count, 50);
    assert!(u128::from(seen.first_ns) > start.as_nanos() && seen.first_ns <= seen.last_ns);
    assert_eq!((seen.traffic.messages, seen.traffic.resources), (PROXIES, PROXIES), "the one resource");

    fleet.watch(Kind::Eds, Some("green")).unwrap();
    control_plane.kill9();
    control_plane.restart().unwrap();
    fleet.reconnect().unwrap();
    fleet.synced(LIMIT).unwrap();
    control_plane.put_policy(&policy([2, 2]));
    let seen = fleet.acknowledged(LIMIT).unwrap();
    assert_eq!(seen.traffic.resources, PROXIES, "what they have is not sent again: {:?}", seen.traffic);

    let late = fleet.acknowledged(Duration::ZERO);
    assert!(late.is_ok(), "it stays acknowledged");
    fleet.watch(Kind::Cds, None).unwrap();
    let failure = fleet.acknowledged(Duration::from_millis(1)).unwrap_err();
    assert!(failure.to_string().contains("only 0 of 50"), "{failure}");
}
