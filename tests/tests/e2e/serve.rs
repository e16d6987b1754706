//! The control plane as a process: it starts whatever is missing, and has after a kill what it had before.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use realmgate_filter::config::Framing;
use realmgate_tests::control_plane::merge_settings;
use realmgate_tests::stage::port;
use realmgate_tests::{ControlPlane, Envoy, Redis, Stage, TestNet, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cast::{
    LIMIT, game, lands, route, servers, servers_speaking, services, until_lands, until_lands_somewhere,
};

#[tokio::test(flavor = "multi_thread")]
async fn starts_without_redis_and_takes_its_rules_when_it_comes() {
    let net = TestNet::new();
    let servers = servers_speaking(Framing::Server, &net, 1, 0).await;
    let redis_at = net.at(port::REDIS);
    let settings =
        json!({"redis": {"url": format!("redis://{redis_at}/")}, "game_gateway": {"enabled": true}});
    let control_plane = Stage::control_plane(&net, &settings).unwrap();
    let (_, said) = control_plane.readyz();
    assert!(said.contains("redis") || said.contains("game_gateway"), "what is missing is not named: {said}");

    let redis = Redis::start(net.dir(), redis_at).unwrap();
    let rule = json!({"server_type": 200, "service_name": "one", "strategy": "round_robin",
        "endpoints": [servers[0].address().to_string()]});
    redis.set("game-gateway:routing:rules", &json!({"1": rule}).to_string());
    wait_until("it is ready", LIMIT, || control_plane.readyz().0 == 200);
    let _edge = Stage::edge(&net, &control_plane).unwrap();
    until_lands(net.at(port::GAME_GATEWAY), game(3, 1), Some("game-1"), Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_is_ready_and_serves_an_edge_that_routes_nothing() {
    let mut stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    assert_eq!(stage.control_plane.get("/healthz").0, 200);
    assert_eq!(stage.control_plane.readyz().0, 200);
    wait_until("the edge is known", LIMIT, || stage.control_plane.get("/v1/proxies").1.contains("edge-1"));
    assert!(lands(stage.players(), game(1, 1)).await.is_err());

    // As others are told to read their settings again, and as a terminal ends.
    stage.control_plane.process().signal(Signal::HUP);
    let log = stage.net.dir().join("realmgate.log");
    wait_until("the signal was heard", LIMIT, || fs::read_to_string(&log).unwrap().contains("SIGHUP"));
    assert_eq!(stage.control_plane.readyz().0, 200, "it serves on");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_it_has_what_it_had_even_without_redis() {
    let net = TestNet::new();
    let mut redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    let servers = servers(&net, 2, 0).await;
    let rule = json!({"server_type": 200, "service_name": "one", "strategy": "round_robin",
        "endpoints": [servers[1].address().to_string()]});
    redis.set("game-gateway:routing:rules", &json!({"1": rule}).to_string());
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": {"enabled": true}});
    let mut stage = Stage::start(net, &settings).unwrap();
    let policy = json!({"listeners": stage.listener(&json!({})), "services": services(&servers[..1]),
        "routes": [route("all", &json!("any"), "game-1")]});
    stage.control_plane.put_policy(&policy.to_string());
    let (players, gateway) = (stage.players(), stage.game_gateway());
    until_lands(players, game(3, 1), Some("game-1"), Instant::now()).await;
    until_lands_somewhere(gateway, game(3, 1), Instant::now()).await;
    let on_gateway = lands(gateway, game(3, 1)).await.unwrap();

    redis.kill9();
    stage.control_plane.kill9();
    // What it keeps is for its owner alone, also where somebody has opened it.
    let data_dir = stage.net.dir().join("data");
    assert_eq!(open_to_others(&data_dir), BTreeMap::new());
    let [wide, file] = [0o755, 0o644].map(Permissions::from_mode);
    fs::set_permissions(&data_dir, wide).unwrap();
    fs::set_permissions(data_dir.join("policy.redb"), file).unwrap();
    assert_eq!(lands(players, game(3, 1)).await.unwrap(), "game-1", "an edge serves on by itself");
    stage.control_plane.restart().unwrap();
    // An Envoy that knows nothing yet shows what the control plane knows.
    let Stage { edge, control_plane, net } = stage;
    drop::<Envoy>(edge);
    let _edge = Stage::edge(&net, &control_plane).unwrap();
    until_lands(players, game(3, 1), Some("game-1"), Instant::now()).await;
    until_lands(gateway, game(3, 1), Some(&on_gateway), Instant::now()).await;
    assert_eq!(open_to_others(&net.dir().join("data")), BTreeMap::new());
}

/// The modes of a folder and of what is in it, as far as others may do anything there.
fn open_to_others(folder: &Path) -> BTreeMap<PathBuf, u32> {
    let inside = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let modes = inside.chain([folder.to_owned()]).map(|path| {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        (path, mode)
    });
    modes.filter(|(_, mode)| mode & 0o077 != 0).collect()
}

#[test]
fn settings_that_cannot_be_meant_end_it_before_a_port_is_bound() {
    let net = TestNet::new();
    let refused = |settings: &Value| {
        let started = ControlPlane::start(net.dir(), net.at(port::XDS), net.at(port::API), settings);
        started.expect_err("it starts with settings that it should refuse").to_string()
    };
    let mut both = json!({"api": {"listen": "0.0.0.0:18081"}});
    for (settings, named) in [
        (json!({"no_such_key": 1}), "no_such_key"),
        (json!({"xds": {"listen": "somewhere"}}), "xds.listen"),
        (both.clone(), "insecure"),
    ] {
        let failure = refused(&settings);
        assert!(failure.contains("exit status: 64") && failure.contains(named), "{failure}");
    }
    merge_settings(&mut both, &json!({"xds": {"listen": "0.0.0.0:18001"}}));
    assert!(refused(&both).contains("exit status: 64"));
}
