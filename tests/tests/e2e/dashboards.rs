//! The old gateway's metrics: a real Prometheus reads a real edge, and the rules of `prometheus/` give each old name its
//! value. Whatever clients send, an edge has no more series than before.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use realmgate_filter::config::Framing;
use realmgate_tests::address::Address;
use realmgate_tests::prometheus::Series;
use realmgate_tests::stage::port;
use realmgate_tests::wait::poll;
use realmgate_tests::{
    Envoy, Frame, GameClient, GameServer, Prometheus, Redis, Stage, TestNet, parts, wait_until,
};
use realmgate_wire::ServerId;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cast::{LIMIT, game, lands, until_lands};
use crate::resilience::{black_hole, service};

/// Server types of the traffic below: each has one fate.
const TURNED_AWAY: u8 = 20;
const FULL: u8 = 21;
const TIMES_OUT: u8 = 22;
const NOBODY: u8 = 99;

/// What its listener takes: of an address, and of all.
const MOST_OF_AN_ADDRESS: usize = 6;
const MOST_PLAYERS: usize = 8;

/// What an edge of this test takes, instead of the bootstrap's 50,000.
const MOST_CONNECTIONS: u64 = 12;

/// An edge with rules in Redis, and routes of a policy that lead nowhere good.
async fn stage(net: TestNet, redis: &Redis, server: &GameServer) -> Stage {
    let rule = json!({"server_type": 200, "world_id": 7, "service_name": "fleet", "strategy": "round_robin",
        "endpoints": [server.address().to_string()]});
    redis.set("game-gateway:routing:rules", &json!({"1": rule}).to_string());
    let limits = json!({"max_message_bytes": 1000, "connections": MOST_PLAYERS,
        "connections_per_ip": MOST_OF_AN_ADDRESS});
    let settings = json!({"redis": {"url": redis.url()},
        "game_gateway": {"enabled": true, "limits": limits}});
    let control_plane = Stage::control_plane(&net, &settings).unwrap();
    // Histograms are as old as the last flush: every 5 s, if nothing is said.
    let bootstrap = control_plane.edge_bootstrap("edge-1", net.at(port::ADMIN)).unwrap()
        + "\nstats_flush_interval: 0.1s\n";
    let limit = |most: u64| format!("max_active_downstream_connections: {most}");
    let fewer = bootstrap.replace(&limit(50_000), &limit(MOST_CONNECTIONS));
    assert_ne!(bootstrap, fewer);
    let edge = Envoy::with(net.dir(), fewer, net.at(port::ADMIN)).name("edge").start().unwrap();
    let full = json!({"connections": {"max": 1}, "framing": "server"});
    let times_out = json!({"connections": {"connect_timeout": "50ms"},
        "outlier_detection": {"consecutive_failures": 0, "failure_percent": 0}});
    let services = [
        service("turned-away", &[net.at(port::GAME + 20)], &json!({})),
        service("full", &[server.address()], &full),
        service("times-out", &[net.at(port::GAME + 22)], &times_out),
    ];
    let types = [TURNED_AWAY, FULL, TIMES_OUT];
    let route = |(to, server_type): (&Value, u8)| json!({"name": to["name"], "server_type": server_type, "to": [{"service": to["name"]}]});
    let routes: Vec<_> = services.iter().zip(types).map(route).collect();
    // Where those are who fill the edge.
    let other = json!({"name": "other", "bind": net.at(port::PLAYERS).to_string(), "limits": {"header_timeout": "1m"}});
    control_plane
        .put_policy(&json!({"listeners": [other], "services": services, "routes": routes}).to_string());
    let stage = Stage { edge, control_plane, net };
    until_lands(stage.game_gateway(), game(7, 1), Some(server.name()), Instant::now()).await;
    stage
}

/// Sends a first message of this type that comes to nothing.
async fn fails(stage: &Stage, server_type: u8) {
    assert!(lands(stage.game_gateway(), ServerId::new(server_type, 7, 1, false)).await.is_err());
}

/// Waits until `query` adds up to `value`.
#[track_caller]
fn expect(prometheus: &Prometheus, query: &str, value: f64) {
    let mut last = None;
    let reached = poll("it is", LIMIT, || {
        last = prometheus.value(query);
        Ok((last == Some(value)).then_some(()))
    });
    assert!(reached.is_ok(), "{query} is {last:?} instead of {value}");
}

/// The labels of what a query gives, once it gives anything: a target that did not answer in time has no series until it does.
#[track_caller]
fn labels(prometheus: &Prometheus, query: &str) -> BTreeSet<String> {
    let names = |(labels, _): Series| labels.into_keys();
    let mut found = BTreeSet::new();
    wait_until(&format!("{query} gives something"), LIMIT, || {
        found = prometheus.query(query).into_iter().flat_map(names).collect();
        !found.is_empty()
    });
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboards_of_the_old_gateway_go_on() {
    let net = TestNet::new();
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    let server = GameServer::speaking(Framing::Server, "game-1", net.at(port::GAME), 0).await.unwrap();
    let _queue = black_hole(net.at(port::GAME + 22)).await;
    let stage = stage(net, &redis, &server).await;
    let (edge, net) = (stage.game_gateway(), &stage.net);
    let targets = [("game-gateway", net.at(port::HEALTH)), ("realmgate", stage.control_plane.api())];
    let prometheus = Prometheus::start(net.dir(), net.at(port::PROMETHEUS), &targets).unwrap();
    expect(&prometheus, "up", 2.0);
    let before = stage.edge.stat("listener.game-gateway.downstream_cx_total");

    // Two players who stay, one whose later message is too large, one whose first is.
    let mut players = Vec::new();
    for _ in 0..3 {
        let mut player = GameClient::connect(edge).await.unwrap();
        assert_eq!(player.who_are_you(game(7, 1)).await.unwrap(), "game-1");
        players.push(player);
    }
    let large = Frame::to_world(7, 1, vec![0; 1001]);
    for mut player in [players.remove(0), GameClient::connect(edge).await.unwrap()] {
        player.send(&large).await.unwrap();
        player.read_until_closed().await.unwrap();
    }
    for _ in 0..3 {
        fails(&stage, NOBODY).await;
    }
    // Three attempts each, and five failures in a row eject.
    for _ in 0..2 {
        fails(&stage, TURNED_AWAY).await;
    }
    fails(&stage, TIMES_OUT).await;
    let mut only = GameClient::connect(edge).await.unwrap();
    only.who_are_you(ServerId::new(FULL, 7, 1, false)).await.unwrap();
    fails(&stage, FULL).await;
    players.push(only);
    redis.del("game-gateway:routing:rules");
    redis.publish("game-gateway:routing:rules:notify", "reload");

    let expect = |query: &str, value: f64| expect(&prometheus, query, value);
    expect("game_gateway_connections_active", 3.0);
    expect(&format!("sum(game_gateway_connections_total) - {before}"), 12.0);
    expect("game_gateway_sessions_active", 3.0);
    for (error_type, errors) in [
        ("not_found", 3.0),
        ("message_too_large", 2.0),
        ("connection_failed", 3.0),
        ("circuit_breaker_open", 1.0),
    ] {
        expect(&format!("game_gateway_routing_errors_total{{error_type=\"{error_type}\"}}"), errors);
    }
    let at = |number: u16| net.at(port::GAME + number);
    let (alive, dead, hole) = (at(0), at(20), at(22));
    for (backend, connections, state) in [(alive, 3.0, 0.0), (dead, 0.0, 1.0), (hole, 0.0, 0.0)] {
        expect(&format!("game_gateway_backend_connections_active{{backend=\"{backend}\"}}"), connections);
        expect(&format!("game_gateway_circuit_breaker_state{{backend=\"{backend}\"}}"), state);
    }
    expect("game_gateway_backend_retries_total{backend=\"turned-away\"}", 6.0);
    expect("game_gateway_backend_timeouts_total", 3.0);
    // A request for the name has no body, and 29 bytes in front; so has its answer, of the six letters `game-1`. Another
    // session was asked for by `stage`.
    let bytes = |direction: &str| {
        format!("game_gateway_backend_bytes_transmitted_total{{direction=\"{direction}\"}}")
    };
    expect(&bytes("request"), 5.0 * 29.0);
    expect(&bytes("response"), 5.0 * 35.0);
    // Of the player for whom there was no room, the filter saw a message.
    for (direction, messages) in [("client_to_backend", 6.0), ("backend_to_client", 5.0)] {
        expect(&format!("game_gateway_messages_processed_total{{direction=\"{direction}\"}}"), messages);
    }
    let latency = "game_gateway_connection_setup_latency_seconds";
    expect(&format!("{latency}_count{{service_type=\"200\"}}"), 4.0);
    expect(&format!("{latency}_count{{service_type=\"full\"}}"), 1.0);
    expect(&format!("{latency}_bucket{{service_type=\"200\",le=\"5000e-3\"}}"), 4.0);
    // Of milliseconds there would be more.
    let quickest = format!("histogram_quantile(0.95, sum by (le) ({latency}_bucket)) < bool 3");
    expect(&quickest, 1.0);
    expect(&format!("sum({latency}_sum) < bool 3"), 1.0);
    expect("game_gateway_config_refresh_errors_total{config_type=\"routing_rules\"}", 1.0);
    expect("game_gateway_config_refresh_success_total{config_type=\"routing_rules\"} > bool 0", 1.0);
    expect("game_gateway_config_refresh_success_total{config_type=\"realm_mapping\"} > bool 1", 1.0);

    let labels = |query: &str| labels(&prometheus, query).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(labels("game_gateway_backend_connections_active"), "backend");
    assert_eq!(labels("game_gateway_circuit_breaker_state"), "backend");
    assert_eq!(labels("sum by (error_type) (game_gateway_routing_errors_total)"), "error_type");
    expect("count(ALERTS{alertname=\"GameGatewayCircuitBreakerOpen\"})", 1.0);

    turned_away(&stage, players).await;
    for reason in ["connections_per_ip", "connections"] {
        expect(&format!("game_gateway_connection_rejected_total{{reason=\"{reason}\"}}"), 1.0);
    }
    let as_a_whole = "reason=\"global_rate_limit\",envoy_listener_address=\"game-gateway\"";
    expect(&format!("game_gateway_connection_rejected_total{{{as_a_whole}}}"), 1.0);
}

/// One player more than their address may have, one more than the listener takes, and one more than the whole edge.
async fn turned_away(stage: &Stage, mut players: Vec<GameClient>) {
    let edge = stage.game_gateway();
    let elsewhere = Address::claim();
    let own = players[0].local_addr().unwrap().ip();
    for (source, most) in [(own, MOST_OF_AN_ADDRESS), (elsewhere.ip(), MOST_PLAYERS)] {
        while players.len() < most {
            let mut player = GameClient::connect_from(source, edge).await.unwrap();
            player.who_are_you(game(7, 1)).await.unwrap();
            players.push(player);
        }
        GameClient::connect_from(source, edge).await.unwrap().read_until_closed().await.unwrap();
    }
    // A place is free, so that nothing but the edge as a whole is full: by connections to another listener. Each is
    // waited for: Envoy counts it after the system has let the client in.
    players.pop();
    let stat = |name: &str| stage.edge.stat(name);
    wait_until("it is gone", LIMIT, || {
        usize::try_from(stat("connection_limit.game-gateway.active_connections")) == Ok(players.len())
    });
    // Prometheus asks all the while, over a connection each: it may take a place for a moment, and who comes then comes again.
    let mut others = Vec::new();
    let known = || usize::try_from(stat("listener.other.downstream_cx_active")).unwrap();
    let refused = || stat("listener.other.downstream_cx_overload_reject");
    while players.len() + others.len() < usize::try_from(MOST_CONNECTIONS).unwrap() {
        let before = refused();
        let other = TcpStream::connect(stage.players()).await.unwrap();
        wait_until("the edge knows of it", LIMIT, || known() > others.len() || refused() > before);
        if known() > others.len() {
            others.push(other);
        }
    }
    GameClient::connect(edge).await.unwrap().read_until_closed().await.unwrap();
}

/// The words of `promtool` about the files of a folder.
fn promtool(arguments: &[&str]) {
    let folder = parts::workspace().join("prometheus");
    let output =
        Command::new(parts::PROMTOOL.find().unwrap()).args(arguments).current_dir(folder).output().unwrap();
    let words = [output.stdout, output.stderr].map(|words| String::from_utf8_lossy(&words).into_owned());
    assert!(output.status.success(), "promtool {}: {}", arguments.join(" "), words.concat());
}

#[test]
fn rules_and_alerts_keep_their_unit_tests() {
    promtool(&["check", "config", "prometheus.yml"]);
    let mut tests: Vec<_> = fs::read_dir(parts::workspace().join("prometheus/tests"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    tests.sort();
    let tests = tests.iter().map(|path| path.to_str().unwrap());
    promtool(&["test", "rules"].into_iter().chain(tests).collect::<Vec<_>>());
}

/// What the old gateway had, as its operators know it.
const OLD_NAMES: [&str; 14] = [
    "connections_active",
    "connections_total",
    "sessions_active",
    "connection_rejected_total",
    "routing_errors_total",
    "backend_connections_active",
    "circuit_breaker_state",
    "backend_retries_total",
    "backend_timeouts_total",
    "backend_bytes_transmitted_total",
    "connection_setup_latency_seconds",
    "messages_processed_total",
    "config_refresh_success_total",
    "config_refresh_errors_total",
];

#[test]
fn every_old_name_has_a_rule_and_a_row_and_no_other_has() {
    let read = |file: &str| fs::read_to_string(parts::workspace().join(file)).unwrap();
    let after = |text: &str, before: &str| -> BTreeSet<String> {
        let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        text.split(before).skip(1).map(|rest| rest.chars().take_while(is_name).collect()).collect()
    };
    let parts_of_a_histogram = |name: String| {
        let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        whole.map_or(name.clone(), str::to_owned)
    };
    let rules = after(&read("prometheus/game-gateway.rules.yml"), "record: game_gateway_");
    let rules: BTreeSet<_> = rules.into_iter().map(parts_of_a_histogram).collect();
    let documented = after(&read("docs/metrics.md"), "\n| `game_gateway_");
    let expected: BTreeSet<_> = OLD_NAMES.map(str::to_owned).into();
    assert_eq!(rules, expected);
    assert_eq!(documented, expected);
}

/// The names and labels of all series that Envoy has.
fn series(stage: &Stage) -> BTreeSet<String> {
    let text = stage.edge.get("/stats/prometheus");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// Numbers without a pattern that a header could share, the same in every run (splitmix64).
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Connects once for each number, with its first message made of it, and waits until the filter has decided.
async fn clients(edge: SocketAddr, stage: &Stage, numbers: std::ops::Range<u64>) {
    let decided = || {
        let names = ["routed_total", "refused_no_route_total", "refused_message_too_large_total"];
        names.iter().map(|name| stage.filter_stat(&format!("connections_{name}"))).sum::<u64>()
    };
    let before = decided();
    let count = numbers.end - numbers.start;
    let mut crew = JoinSet::new();
    for lane in 0..16 {
        let numbers: Vec<_> = numbers.clone().skip(lane).step_by(16).collect();
        crew.spawn(async move {
            for number in numbers {
                let mut client = GameClient::connect(edge).await.unwrap();
                let mut header = scatter(number).to_le_bytes();
                // A third to each strategy, whatever the rest says, and every other one small enough to pass.
                if number % 4 < 3 {
                    header[5] = [10, 15, 200][usize::try_from(number % 4).unwrap()];
                }
                header[1] &= if number % 2 == 0 { 0 } else { 0xff };
                client.send_bytes(&header).await.unwrap();
            }
        });
    }
    crew.join_all().await;
    poll("all are decided", LIMIT, || Ok((decided() == before + count).then_some(()))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_clients_send_the_number_of_series_does_not_grow() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let server = GameServer::start("game-1", stage.net.at(port::GAME)).await.unwrap();
    let other = GameServer::start("game-2", stage.net.at(port::GAME + 1)).await.unwrap();
    let endpoints = [&server, &other].map(|server| server.address().to_string());
    let route = |(server_type, strategy): (u8, &str)| {
        json!({"name": strategy, "server_type": server_type,
        "strategy": strategy, "to": [{"service": "all"}]})
    };
    let routes = [(10, "round_robin"), (15, "consistent_hash"), (200, "realm_based")].map(route);
    let policy = json!({"listeners": stage.listener(&json!({"max_message_bytes": 20_000})), "routes": routes,
        "services": [{"name": "all", "endpoints": endpoints}]});
    stage.control_plane.put_policy(&policy.to_string());
    let edge = stage.players();
    clients(edge, &stage, 0..300).await;
    let before = series(&stage);
    clients(edge, &stage, 300..3300).await;
    let after = series(&stage);
    assert!(
        before.len() > 500 && before.iter().any(|name| name.contains("envoy_cluster_endpoint_cx_active"))
    );
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
}
