//! Live sessions are sacred: no routine change ends one or loses a frame of it.

use std::path::Path;
use std::time::{Duration, Instant};

use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, Redis, Stage, TestNet, parts, wait_until};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::cast::{LIMIT, game, route, servers, services, until_lands};

const SESSIONS: u16 = 50;
const CHANGES: usize = 50;
/// A world that no rule names: rules for a world outrank a policy's route for any, on every listener.
const UNRULED: u16 = 900;

/// Exchanges frames until told to stop, and gives how many; panics when one is lost or changed.
pub(crate) async fn play(edge: std::net::SocketAddr, world: u16, stop: watch::Receiver<bool>) -> u64 {
    let mut client = GameClient::connect(edge).await.unwrap();
    let mut pace = interval(Duration::from_millis(20));
    let mut frames = 0_u64;
    while !*stop.borrow() {
        pace.tick().await;
        let frame = Frame::to_world(world, 1, frames.to_le_bytes().to_vec());
        let answer = client.exchange(&frame).await;
        assert_eq!(answer.as_ref().ok(), Some(&frame), "world {world}, frame {frames}: {answer:?}");
        frames += 1;
    }
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_survive_a_hundred_changes_a_filter_update_and_a_restart() {
    let net = TestNet::new();
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    redis.set("game-gateway:routing:rules", "{}");
    let servers = servers(&net, 3, 0).await;
    let module = net.dir().join("filter.wasm");
    std::fs::copy(parts::FILTER.find().unwrap(), &module).unwrap();
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": {"enabled": true, "framing": "client"},
        "filter": {"path": module}});
    let mut stage = Stage::start(net, &settings).unwrap();
    let policy = |stage: &Stage, timeout: &str, routes: Value| {
        let limits = json!({"header_timeout": timeout});
        json!({"listeners": stage.listener(&limits), "services": services(&servers), "routes": routes})
            .to_string()
    };
    let all_to = |service: &str| json!([route("all", &json!("any"), service)]);
    let edge = stage.players();
    stage.control_plane.put_policy(&policy(&stage, "5s", all_to("game-1")));
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;

    let before = servers[0].total();
    let (stop, stopped) = watch::channel(false);
    let mut sessions = JoinSet::new();
    for world in 1..=SESSIONS {
        sessions.spawn(play(edge, world, stopped.clone()));
    }
    realmgate_tests::wait_until("all sessions are live", crate::cast::LIMIT, || {
        servers[0].total() == before + u64::from(SESSIONS)
    });

    for change in 0..CHANGES {
        // New sessions go elsewhere each time; worlds come and go, and with them clusters.
        let service = servers[1 + change % 2].name();
        stage.control_plane.put_policy(&policy(&stage, "5s", all_to(service)));
        until_lands(edge, game(UNRULED, 1), Some(service), Instant::now()).await;
        let rule = json!({"server_type": 200, "service_name": format!("rule-{change}"), "world_id": 1 + change,
            "strategy": "round_robin", "endpoints": [servers[change % 3].address().to_string()]});
        redis.set("game-gateway:routing:rules", &json!({"1": rule}).to_string());
        let start = Instant::now();
        redis.publish("game-gateway:routing:rules:notify", "reload");
        let world = u16::try_from(1 + change).unwrap();
        let name = servers[change % 3].name();
        until_lands(stage.game_gateway(), game(world, 1), Some(name), start).await;
    }
    replace_module(&stage, &module);
    // Even without the service that they use, and with another filter configuration.
    let others = json!({"listeners": stage.listener(&json!({"header_timeout": "1s"})),
        "services": services(&servers[1..]), "routes": all_to("game-2")});
    stage.control_plane.put_policy(&others.to_string());
    stage.control_plane.kill9();
    stage.control_plane.restart().unwrap();
    stage.control_plane.put_policy(&policy(&stage, "2s", all_to("game-3")));
    until_lands(edge, game(UNRULED, 1), Some("game-3"), Instant::now()).await;

    stop.send_replace(true);
    let frames = sessions.join_all().await;
    println!("{} frames in {SESSIONS} sessions", frames.iter().sum::<u64>());
    assert!(frames.iter().all(|&frames| frames > 10), "{frames:?}");
}

/// Deploys another build of the filter behind the same path, and waits until the edge runs it.
pub(crate) fn replace_module(stage: &Stage, module: &Path) {
    let answer = |path: &str| serde_json::from_str::<Value>(&stage.control_plane.get(path).1).unwrap();
    let hash = || answer("/readyz")["filter_module"]["sha256"].clone();
    let before = hash();
    let mut bytes = std::fs::read(module).unwrap();
    // A custom section, which means nothing: id, length, length of its name, name.
    bytes.extend_from_slice(b"\0\x05\x04next");
    let next = module.with_extension("next");
    std::fs::write(&next, bytes).unwrap();
    std::fs::rename(next, module).unwrap();
    wait_until("the new module is seen", LIMIT, || hash() != before);
    wait_until("the edge runs the new module", LIMIT, || {
        let synced = answer("/v1/proxies")["proxies"][0]["sync"] == "synced";
        synced && stage.edge.config_dump().to_string().contains(hash().as_str().unwrap())
    });
}
