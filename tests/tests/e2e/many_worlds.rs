//! As many worlds as a header can name: small configuration, no pause for those who play.

use std::time::{Duration, Instant};

use realmgate_filter::config::Framing;
use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, GameServer, Redis, Stage, Stopwatch, TestNet};
use realmgate_wire::ServerId;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::cast::{game, lands, route, servers, servers_speaking, services, until_lands};

/// Exchanges frames without a break until told to stop, and gives the longest time that one took.
async fn longest_exchange(mut client: GameClient, world: u16, stop: watch::Receiver<bool>) -> Duration {
    let frame = Frame::to_world(world, 1, "tick");
    let mut longest = Duration::ZERO;
    while !*stop.borrow() {
        let watch = Stopwatch::start();
        assert_eq!(client.exchange(&frame).await.unwrap(), frame);
        longest = longest.max(watch.undisturbed());
        // A player's pace, far finer than the pause that is looked for.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn all_worlds_by_ranges_are_a_small_configuration_that_pauses_nobody() {
    let stage = Stage::start(TestNet::alone(), &json!({})).unwrap();
    let servers = servers(&stage.net, 4, 0).await;
    let policy = |routes: Vec<Value>| {
        json!({"listeners": stage.listener(&json!({})), "services": services(&servers), "routes": routes})
            .to_string()
    };
    let edge = stage.players();
    // Ranges of 1,024 worlds in turn to the four services.
    let last = ServerId::MAX_WORLD;
    let range = |n: u16| (n * 1024).max(1)..=(n * 1024 + 1023).min(last);
    let by_service = |s: u16| (0..8).map(move |k| range(k * 4 + s));
    let routes = (0..4).map(|s| {
        let worlds: Vec<_> = by_service(s).map(|r| format!("{}-{}", r.start(), r.end())).collect();
        let name = servers[usize::from(s)].name();
        route(name, &json!(worlds), name)
    });
    let one = policy(vec![route("first", &json!([1]), "game-1")]);
    let all = policy(routes.collect());
    // A pause that the change makes comes each time, one that the machine makes does not.
    let mut longest = Duration::MAX;
    let mut took = Duration::MAX;
    for _ in 0..3 {
        stage.control_plane.put_policy(&one);
        until_lands(edge, game(last, 1), None, Instant::now()).await;
        let mut player = GameClient::connect(edge).await.unwrap();
        player.who_are_you(game(1, 1)).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let playing = tokio::spawn(longest_exchange(player, 1, stopped));
        let start = Instant::now();
        stage.control_plane.put_policy(&all);
        took = took.min(until_lands(edge, game(last, 1), Some("game-4"), start).await);
        stop.send_replace(true);
        longest = longest.min(playing.await.unwrap());
    }
    let size = stage.edge.filter_config().len();
    println!("{last} worlds: in force after {took:?}, {size} bytes, longest exchange meanwhile {longest:?}");
    assert!((1..4096).contains(&size), "{size} bytes");
    assert!(longest < Duration::from_millis(50), "{longest:?}");
    for n in 0..32 {
        for world in [*range(n).start(), *range(n).end()] {
            let expected = servers[usize::from(n % 4)].name();
            assert_eq!(lands(edge, game(world, 1)).await.unwrap(), expected, "world {world}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_rules_of_a_world_each_are_reachable() {
    const RULES: u16 = 2000;
    let net = TestNet::alone();
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    let servers = servers_speaking(Framing::Server, &net, 4, 0).await;
    let serving = |world: u16| -> &GameServer { &servers[usize::from(world % 4)] };
    let rule = |world: u16| {
        let rule = json!({"server_type": 200, "service_name": format!("world-{world}"), "world_id": world,
            "strategy": "round_robin", "endpoints": [serving(world).address().to_string()]});
        (world.to_string(), rule)
    };
    redis.set("game-gateway:routing:rules", "{}");
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": {"enabled": true}});
    let mut stage = Stage::start(net, &settings).unwrap();
    let edge = stage.game_gateway();
    let before = resident_mib(stage.edge.process().pid());

    let rules = (1..=RULES).map(rule).collect::<Map<_, _>>();
    redis.set("game-gateway:routing:rules", &Value::Object(rules).to_string());
    let start = Instant::now();
    redis.publish("game-gateway:routing:rules:notify", "reload");
    let took = until_lands(edge, game(RULES, 1), Some(serving(RULES).name()), start).await;
    for world in (1..=RULES).step_by(97) {
        assert_eq!(lands(edge, game(world, 1)).await.unwrap(), serving(world).name(), "world {world}");
    }
    let grown = resident_mib(stage.edge.process().pid()).saturating_sub(before);
    let resident = resident_mib(stage.control_plane.process().pid());
    println!(
        "{RULES} rules: in force after {took:?}, Envoy grew by {grown} MiB, control plane has {resident} MiB"
    );
}

/// Resident memory of a process.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
