//! Game servers that speak 20 + 9 or 20 + 33 bytes, through a whole edge: every message both ways, a session id for
//! each connection, and changes that spare live sessions.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use bytes::BytesMut;
use realmgate_filter::config::Framing;
use realmgate_tests::game_server::Connection;
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Envoy, Frame, GameClient, GameServer, Stage, TestNet};
use realmgate_wire::ServerId;
use serde_json::json;

use crate::cast::{answering, game, route, servers_speaking, services, until_lands};

/// Worlds 1, 2 and 3 each have a server of another framing.
const FRAMINGS: [(&str, Framing); 3] =
    [("client", Framing::Client), ("server", Framing::Server), ("server-traced", Framing::ServerTraced)];

/// A server of each framing that keeps `keep` frames of each connection.
async fn one_of_each(net: &TestNet, keep: usize) -> Vec<GameServer> {
    let mut servers = Vec::new();
    for (number, (name, framing)) in (0..).zip(FRAMINGS) {
        servers.push(GameServer::speaking(framing, name, net.at(port::GAME + number), keep).await.unwrap());
    }
    servers
}

/// A policy in which each server's name is its service and its framing.
fn policy(stage: &Stage, servers: &[GameServer]) -> String {
    let mut services = services(servers);
    for service in services.as_array_mut().unwrap() {
        service["framing"] = service["name"].clone();
    }
    let routes: Vec<_> = (1..).zip(servers).map(|(n, s)| route(s.name(), &json!([n]), s.name())).collect();
    json!({"listeners": stage.listener(&json!({})), "services": services, "routes": routes}).to_string()
}

/// What a framing leaves of a frame's server id, on both ways.
fn through(framing: Framing, frame: &Frame) -> Frame {
    let id = frame.server_id;
    let left = if framing.is_client() { id } else { ServerId::new(0, 0, 0, id.compressed()) };
    Frame { server_id: left, ..frame.clone() }
}

/// Messages of all sizes, compressed and not, one by one and many at once.
async fn play(edge: std::net::SocketAddr, world: u16, framing: Framing) {
    let mut client = GameClient::connect(edge).await.unwrap();
    let mut frames = Vec::new();
    for (number, length) in (0..).zip([0, 1, 64, 2000, 2048, 16_384, 40_000, 65_535, 5]) {
        let server_id = ServerId::new(200, world, 1, number % 2 == 1);
        let frame = Frame::new(server_id, number, vec![number.to_le_bytes()[0]; length]);
        assert_eq!(client.exchange(&frame).await.unwrap(), through(framing, &frame), "{framing:?}");
        frames.push(frame);
    }
    let mut all = BytesMut::new();
    for frame in &frames {
        frame.encode(&mut all).unwrap();
    }
    client.send_bytes(&all).await.unwrap();
    for frame in &frames {
        assert_eq!(client.answer().await.unwrap(), through(framing, frame), "{framing:?}, pipelined");
    }
}

/// Ids and traces of all sessions that a server had; none twice.
fn sessions(servers: &[GameServer]) -> BTreeSet<i64> {
    let mut ids = BTreeSet::new();
    for Connection { session, .. } in servers.iter().flat_map(GameServer::connections) {
        let Some(session) = session else { continue };
        assert!(session.id > 0);
        assert!(ids.insert(session.id), "session {} came twice", session.id);
        if let Some(trace) = session.trace {
            assert_eq!(trace.trace_id[..8], session.id.to_be_bytes());
            assert!(trace.trace_id[8..] != [0; 8] && trace.span_id != [0; 8]);
        }
    }
    ids
}

async fn on_version(version: Option<&str>) {
    const PLAYERS: usize = 10;
    let net = TestNet::new();
    let servers = one_of_each(&net, 1).await;
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    // Envoy 1.37.0 crashes when the first listener that has the filter comes after its start (1.38 does not).
    let listener =
        json!([{"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&json!({}))}]);
    control_plane.put_policy(&json!({"listeners": listener}).to_string());
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap("edge-1", admin).unwrap();
    let builder = Envoy::with(net.dir(), bootstrap, admin).name("edge").concurrency(4);
    let edge = match version {
        Some(version) => builder.version(version).start().unwrap(),
        None => builder.start().unwrap(),
    };
    let stage = Stage { edge, control_plane, net };
    stage.control_plane.put_policy(&policy(&stage, &servers));
    let edge = stage.players();
    for (world, (name, _)) in (1..).zip(FRAMINGS) {
        until_lands(edge, game(world, 1), Some(name), Instant::now()).await;
    }
    let mut players = tokio::task::JoinSet::new();
    for (world, (_, framing)) in (1..).zip(FRAMINGS) {
        for _ in 0..PLAYERS {
            players.spawn(play(edge, world, framing));
        }
    }
    players.join_all().await;
    assert!(sessions(&servers).len() >= 2 * PLAYERS);
    // 18 messages of each player and some of those who asked for a name.
    let least = u64::try_from(2 * 18 * PLAYERS).unwrap();
    stage.wait_filter_stat("messages_to_server_total", |count| count >= least);
    stage.wait_filter_stat("messages_to_client_total", |count| count >= least);
    stage.wait_filter_stat("sessions_active", |count| count == 0);
    assert!(stage.edge.stats("wasmcustom.realmgate_sessions_closed").values().all(|&count| count == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_is_spoken_to_in_its_framing() {
    on_version(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_is_spoken_to_in_its_framing_by_the_oldest_envoy() {
    on_version(Some("1.37")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_is_spoken_to_in_its_framing_by_the_envoys_between() {
    for version in ["1.38", "1.39"] {
        on_version(Some(version)).await;
    }
}

fn signal(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Envoy hands over what has come meanwhile in one piece, larger than what the filter looks at in one.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_that_piled_up_is_translated() {
    const MESSAGES: u16 = 8000;
    let mut stage = Stage::start(TestNet::alone(), &json!({})).unwrap();
    let servers = one_of_each(&stage.net, 0).await;
    stage.control_plane.put_policy(&policy(&stage, &servers));
    until_lands(stage.players(), game(2, 1), Some("server"), Instant::now()).await;
    let mut client = GameClient::connect(stage.players()).await.unwrap();
    client.who_are_you(game(2, 1)).await.unwrap();
    let mut burst = BytesMut::new();
    let frame = |number: u16| Frame::to_world(2, number % 1000, "12345678");
    for number in 0..MESSAGES {
        frame(number).encode(&mut burst).unwrap();
    }
    let pid = stage.edge.process().pid();
    signal("-STOP", pid);
    let sent = client.send_bytes(&burst).await;
    signal("-CONT", pid);
    sent.unwrap();
    for number in 0..MESSAGES {
        assert_eq!(client.answer().await.unwrap(), through(Framing::Server, &frame(number)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_framing_is_for_new_sessions() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = one_of_each(&stage.net, 1).await;
    let edge = stage.players();
    let to = |server: usize| {
        let (name, address) = (servers[server].name(), servers[server].address().to_string());
        let service = json!({"name": "game", "endpoints": [address], "framing": name});
        let routes = [route("all", &json!("any"), "game")];
        json!({"listeners": stage.listener(&json!({})), "services": [service], "routes": routes}).to_string()
    };
    let mut live: Vec<(GameClient, usize)> = Vec::new();
    for server in [0, 1, 2, 0, 1] {
        stage.control_plane.put_policy(&to(server));
        until_lands(edge, game(1, 1), Some(servers[server].name()), Instant::now()).await;
        live.push((GameClient::connect(edge).await.unwrap(), server));
        for (client, server) in &mut live {
            assert_eq!(client.who_are_you(game(1, 1)).await.unwrap(), servers[*server].name());
        }
    }
    let all: BTreeSet<_> = sessions(&servers);
    assert!(all.len() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_nonsense_loses_its_session_and_no_other() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let good = servers_speaking(Framing::Server, &stage.net, 1, 0).await;
    let nonsense = [stage.net.at(port::GAME + 8), stage.net.at(port::GAME + 9)];
    answering(nonsense[0], b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    answering(nonsense[1], &[0xff; 3000]).await;
    let service =
        |name: &str, address: String| json!({"name": name, "endpoints": [address], "framing": "server"});
    let policy = json!({
        "listeners": stage.listener(&json!({})),
        "services": [service("game-1", good[0].address().to_string()), service("http", nonsense[0].to_string()),
                     service("ones", nonsense[1].to_string())],
        "routes": [route("good", &json!([1]), "game-1"), route("http", &json!([2]), "http"),
                   route("ones", &json!([3]), "ones")],
    });
    stage.control_plane.put_policy(&policy.to_string());
    let edge = stage.players();
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
    let mut player = GameClient::connect(edge).await.unwrap();
    player.who_are_you(game(1, 1)).await.unwrap();
    for (world, reason) in [(2, "reply_too_large"), (3, "reply_too_short")] {
        let mut lost = GameClient::connect(edge).await.unwrap();
        lost.send(&Frame::to_world(world, 0, "hello")).await.unwrap();
        let end = lost.read_until_closed().await.unwrap();
        assert_eq!(end.bytes, 0, "a byte of nonsense reached the client");
        stage.wait_filter_stat(&format!("sessions_closed_{reason}_total"), |count| count == 1);
        assert_eq!(player.who_are_you(game(1, 1)).await.unwrap(), "game-1");
    }
    stage.wait_filter_stat("sessions_active", |count| count == 1);
}
