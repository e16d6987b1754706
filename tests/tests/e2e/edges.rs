//! Every kind of edge: each supported Envoy, both variants of xDS, the filter as a file and over HTTP.

use std::collections::BTreeSet;
use std::time::Instant;

use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Envoy, GameServer, Stage, TestNet, parts};
use serde_json::{Value, json};

use crate::cast::{game, lands, servers, services, until_lands};

/// So many players in a row miss a server that has a fifth of them once in 10^24 times.
const INSTANCES: u8 = 250;

/// Strategies, hash keys and splits over three servers.
fn policy(stage_listener: &Value, servers: &[GameServer]) -> String {
    let mut services = services(servers);
    let all: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    let (host, port) = (servers[1].address().ip().to_string(), servers[1].address().port());
    let more = [
        json!({"name": "all", "endpoints": all}),
        json!({"name": "resolved", "dns": {"host": host, "port": port}}),
    ];
    services.as_array_mut().unwrap().extend(more);
    json!({
        "listeners": stage_listener,
        "services": services,
        "routes": [
            {"name": "maglev", "server_type": 200, "worlds": [1], "strategy": "maglev", "to": [{"service": "all"}]},
            {"name": "ring", "server_type": 200, "worlds": [2], "strategy": "ring_hash", "hash_key": "world_instance",
             "to": [{"service": "all"}]},
            {"name": "turns", "server_type": 200, "worlds": [3], "to": [{"service": "all"}]},
            {"name": "split", "server_type": 200, "worlds": ["4-9"], "hash_key": "instance",
             "to": [{"service": "game-1", "weight": 3}, {"service": "game-2", "weight": 1}]},
            {"name": "by-address", "server_type": 200, "worlds": [10], "strategy": "maglev", "hash_key": "source_ip",
             "to": [{"service": "all"}]},
            {"name": "dns", "server_type": 200, "worlds": [12], "to": [{"service": "resolved"}]},
            {"name": "few", "server_type": 200, "worlds": [11], "instances": ["1-3"], "to": [{"service": "game-3"}]},
        ],
    })
    .to_string()
}

/// What the policy promises, seen from outside.
async fn keeps_its_promises(stage: &Stage, servers: &[GameServer]) {
    stage.control_plane.put_policy(&policy(&stage.listener(&json!({})), servers));
    let edge = stage.players();
    until_lands(edge, game(11, 1), Some("game-3"), Instant::now()).await;
    for (world, servers) in [(1, 3), (2, 3), (4, 2)] {
        let mut seen = BTreeSet::new();
        for instance in 1..=INSTANCES {
            let first = lands(edge, game(world, instance)).await.unwrap();
            for _ in 0..3 {
                let again = lands(edge, game(world, instance)).await.unwrap();
                assert_eq!(again, first, "world {world}, instance {instance} does not stay");
            }
            seen.insert(first);
            // Load balancers hash the servers' addresses, of which each run has others: how many players one server gets in a
            // row is up to chance.
            if instance >= 10 && seen.len() == servers {
                break;
            }
        }
        assert_eq!(seen.len(), servers, "world {world} uses {seen:?}");
    }
    let mut turns = BTreeSet::new();
    for _ in 0..3 {
        turns.insert(lands(edge, game(3, 1)).await.unwrap());
    }
    assert_eq!(turns.len(), 3, "round robin gave {turns:?}");
    let first = lands(edge, game(10, 1)).await.unwrap();
    for instance in 2..20 {
        assert_eq!(lands(edge, game(10, instance)).await.unwrap(), first, "one address, two servers");
    }
    until_lands(edge, game(12, 1), Some("game-2"), Instant::now()).await;
    assert!(lands(edge, game(11, 4)).await.is_err(), "an instance that is not listed was routed");
    assert_eq!(stage.filter_stat("connections_refused_host_error_total"), 0);
}

async fn on_version(version: Option<&str>) {
    let net = TestNet::new();
    let servers = servers(&net, 3, 0).await;
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    // Envoy 1.37.0 crashes when the first listener that has the filter comes after its start (1.38 does not).
    let listener =
        json!([{"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&json!({}))}]);
    control_plane.put_policy(&json!({"listeners": listener}).to_string());
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap("edge-1", admin).unwrap();
    let builder = Envoy::with(net.dir(), bootstrap, admin).name("edge");
    let edge = match version {
        Some(version) => builder.version(version).start().unwrap(),
        None => builder.start().unwrap(),
    };
    let stage = Stage { edge, control_plane, net };
    keeps_its_promises(&stage, &servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_envoy_keeps_every_promise_of_a_policy() {
    on_version(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_envoy_keeps_every_promise_of_a_policy() {
    on_version(Some("1.37")).await;
}

// 1.38 is the first that hashes strings.
#[tokio::test(flavor = "multi_thread")]
async fn the_envoys_between_keep_every_promise_of_a_policy() {
    for version in ["1.38", "1.39"] {
        on_version(Some(version)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_by_state_of_the_world_keeps_every_promise_of_a_policy() {
    let net = TestNet::new();
    let servers = servers(&net, 3, 0).await;
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap("edge-1", admin).unwrap();
    let bootstrap = bootstrap.replace("api_type: DELTA_GRPC", "api_type: GRPC");
    let edge = Envoy::with(net.dir(), bootstrap, admin).name("edge").start().unwrap();
    let stage = Stage { edge, control_plane, net };
    keeps_its_promises(&stage, &servers).await;
    let (_, proxies) = stage.control_plane.get("/v1/proxies");
    assert!(proxies.contains(r#""variant":"sotw""#), "{proxies}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_without_the_file_fetches_the_filter_by_its_hash() {
    let net = TestNet::new();
    let servers = servers(&net, 3, 0).await;
    let stage = Stage::start(net, &json!({"filter": {"delivery": "http"}})).unwrap();
    keeps_its_promises(&stage, &servers).await;
    let dump = stage.edge.config_dump().to_string();
    assert!(dump.contains("/v1/filter/"), "the filter did not come over HTTP");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_without_a_control_plane_routes() {
    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../envoy/static.yaml");
    const FILTER: &str = "target/wasm32-unknown-unknown/release/realmgate_filter.wasm";
    let net = TestNet::new();
    let one = GameServer::start("one", net.at(7101)).await.unwrap();
    let two = GameServer::start("two", net.at(7102)).await.unwrap();
    let filter = parts::FILTER.find().unwrap().display().to_string();
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    assert!(text.contains(FILTER));
    let text = text.replace("127.0.0.1", &net.ip().to_string()).replace(FILTER, &filter);
    let _edge = Envoy::with(net.dir(), text, net.at(port::ADMIN)).start().unwrap();
    let edge = net.at(7000);
    assert_eq!(lands(edge, game(1, 1)).await.unwrap(), one.name());
    assert_eq!(lands(edge, game(2, 1)).await.unwrap(), two.name());
    assert!(lands(edge, game(3, 1)).await.is_err());
}
