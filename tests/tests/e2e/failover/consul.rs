//! What Consul has to say of where players go, and what its own troubles must not say.

use std::time::{Duration, Instant};

use realmgate_tests::consul::{Config, Health, Service, TwoDatacenters};
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Consul, ControlPlane, Stage, TestNet, wait_until};
use realmgate_wire::ServerId;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{come, until_all_land};
use crate::cast::{GAME, LIMIT, lands, servers};
use crate::consul::{control_plane, policy};

/// Whether Consul tells all, and these are all datacenters and whether each is heard.
fn is_heard(control_plane: &ControlPlane, state: &str, datacenters: &Value) -> bool {
    let ready: Value = serde_json::from_str(&control_plane.readyz().1).unwrap();
    ready["consul"]["state"] == state && ready["consul"]["datacenters"] == *datacenters
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_moves_when_consul_starts_again() {
    const AFTER: Duration = Duration::from_millis(1500);
    let net = TestNet::new();
    let mut both = TwoDatacenters::start(net.dir(), None).unwrap();
    let servers = servers(&net, 2, 0).await;
    for (consul, server) in [&both.aws, &both.azure].into_iter().zip(&servers) {
        consul.register_afar("battle", server.name(), server.address());
    }
    let control_plane = control_plane(&net, &both.aws);
    let fail_back = json!({"after": format!("{}ms", AFTER.as_millis()), "over": 0});
    let failover = json!({"targets": [{"datacenter": "azure"}], "fail_back": fail_back});
    control_plane.put_policy(&policy(&net, &json!({"consul": {"service": "battle"}, "failover": failover})));
    let edge = Stage::edge(&net, &control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    wait_until("both are well", LIMIT, || edge.stat("cluster.game.membership_healthy") == 2);
    until_all_land(players, "game-1").await;

    // All the time players come, and none may be sent to azure.
    let (stop, stopped) = watch::channel(false);
    let coming = tokio::spawn(come(players, stopped));
    both.aws.kill9();
    let lost = json!({"aws": false, "azure": false});
    wait_until("that Consul is lost is told", LIMIT, || is_heard(&control_plane, "degraded", &lost));
    both.aws.restart().unwrap();
    // It would find azure by itself, after half a minute.
    let azure = both.azure.http_address().ip();
    both.aws.put(&format!("/v1/agent/join/{azure}?wan=1"), &Value::Null);
    let heard = json!({"aws": true, "azure": true});
    wait_until("all is heard again", 2 * LIMIT, || is_heard(&control_plane, "ok", &heard));
    // For as long as players of a target that comes back would have to wait.
    sleep(AFTER).await;
    stop.send_replace(true);
    assert_eq!(coming.await.unwrap(), ["game-1".to_owned()].into());
}

/// Server types of players who are placed by each of these.
const STRATEGIES: [(u8, &str); 3] = [(GAME, "round_robin"), (10, "maglev"), (11, "ring_hash")];

/// A policy of one service with players of each strategy, whose target is the service `standby`.
fn with_strategies(net: &TestNet, fail_back: &Value) -> String {
    let service = json!({"name": "game", "consul": {"service": "battle"},
        "failover": {"targets": [{"service": "standby"}], "fail_back": fail_back}});
    let route = |(server_type, strategy): (u8, &str)| {
        let mut route = json!({"name": strategy, "server_type": server_type, "strategy": strategy,
            "to": [{"service": "game"}]});
        if server_type != GAME {
            route["hash_key"] = json!("world_instance");
        }
        route
    };
    let listener =
        json!({"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&json!({}))});
    json!({"listeners": [listener], "services": [service],
        "routes": STRATEGIES.map(route)})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_comes_back_gets_its_players_step_by_step_however_they_are_placed() {
    const AFTER: Duration = Duration::from_millis(500);
    const OVER: Duration = Duration::from_secs(5);
    let net = TestNet::alone();
    let consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    let servers = servers(&net, 2, 0).await;
    for (service, server) in ["battle", "standby"].into_iter().zip(&servers) {
        consul.register(&Service::new(service, server.name(), server.address()));
    }
    let control_plane = control_plane(&net, &consul);
    let fail_back =
        json!({"after": format!("{}ms", AFTER.as_millis()), "over": format!("{}ms", OVER.as_millis())});
    control_plane.put_policy(&with_strategies(&net, &fail_back));
    let _edge = Stage::edge(&net, &control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    until_all_land(players, "game-1").await;
    consul.set_health("game-1", Health::Critical);
    until_all_land(players, "game-2").await;

    let (back, mut first) = (Instant::now(), None::<Instant>);
    consul.set_health("game-1", Health::Passing);
    // Of each strategy the landings: when, and whether at the target that comes back.
    let mut landings = STRATEGIES.map(|_| Vec::new());
    for number in 0_u16.. {
        for ((server_type, _), landings) in STRATEGIES.iter().zip(&mut landings) {
            // Hashes want players that differ.
            let [world, instance] = number.to_be_bytes();
            let to = ServerId::new(*server_type, world.into(), instance, false);
            let there = lands(players, to).await.unwrap() == "game-1";
            let now = Instant::now();
            if there {
                first.get_or_insert(now);
            }
            landings.push((now, there));
        }
        if first.is_some_and(|first| first.elapsed() > OVER) {
            break;
        }
        assert!(back.elapsed() < AFTER + OVER + LIMIT, "nobody goes back");
    }
    let first = first.unwrap();
    assert!(first - back > AFTER.mul_f64(0.9), "after {:?}", first - back);
    // Nine steps of a tenth until all: three thirds of 20, 50 and 80 % on average, then all.
    let step = OVER / 10;
    for ((_, strategy), landings) in STRATEGIES.iter().zip(&landings) {
        let third = |from: u32| {
            let slice = first + step * from..first + step * (from + 3);
            let in_it: Vec<_> = landings.iter().filter(|(at, _)| slice.contains(at)).collect();
            let there = in_it.iter().filter(|(_, there)| *there).count();
            [there, in_it.len()].map(|count| f64::from(u32::try_from(count).unwrap()))
        };
        let thirds = [third(0), third(3), third(6)];
        println!("{strategy}: {thirds:?} (back, all) of new players in each third of the way back");
        for ([there, all], expected) in thirds.into_iter().zip([0.2, 0.5, 0.8]) {
            // Each player is a throw of dice: five standard deviations are missed once in a million. And the steps may be late.
            let chance = 5.0 * (all * expected * (1.0 - expected)).sqrt();
            assert!((there - all * expected).abs() <= chance + 0.15 * all, "{strategy}: {thirds:?}");
        }
    }
    for (server_type, strategy) in STRATEGIES {
        for instance in 0..20 {
            let to = ServerId::new(server_type, 1, instance, false);
            assert_eq!(lands(players, to).await.unwrap(), "game-1", "{strategy}: all are back");
        }
    }
}
