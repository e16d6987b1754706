//! Frames go to the right world, unchanged, however they arrive; what cannot be routed is closed.

use std::time::Duration;

use realmgate_tests::{Frame, GameClient, Stage, Stopwatch, TestNet};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cast::{game, lands, route, servers, services};

const WORLDS: u16 = 50;
const CONNECTIONS: u16 = 200;
const FRAMES_EACH: u16 = 5;

/// The chunks in which a connection sends its first header: cut in two at each byte boundary in turn, and now
/// and then a byte at a time.
fn chunks(connection: u16) -> Vec<usize> {
    match usize::from(connection % 9) {
        0 => vec![1; 8],
        cut => vec![cut],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_frames_reach_fifty_worlds_unchanged() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, WORLDS, usize::from(FRAMES_EACH)).await;
    let route_of = |(n, server): (u16, &realmgate_tests::GameServer)| {
        route(server.name(), &json!([n + 1]), server.name())
    };
    let policy = json!({
        "listeners": stage.listener(&json!({})),
        "services": services(&servers),
        "routes": (0..).zip(&servers).map(route_of).collect::<Vec<_>>(),
    });
    stage.control_plane.put_policy(&policy.to_string());

    let mut players = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let edge = stage.players();
        players.spawn(async move {
            let world = connection % WORLDS + 1;
            let mut client = GameClient::connect(edge).await.unwrap();
            for number in 0..FRAMES_EACH {
                let body = vec![number.to_le_bytes()[0]; usize::from(number) * 100];
                let frame = Frame::to_world(world, number, body);
                let sizes = if number == 0 { chunks(connection) } else { Vec::new() };
                client.send_in_chunks(&frame, &sizes, Duration::from_millis(1)).await.unwrap();
                assert_eq!(client.answer().await.unwrap(), frame);
            }
        });
    }
    players.join_all().await;

    for (number, server) in (0..).zip(&servers) {
        let connections = server.connections();
        assert_eq!(connections.len(), usize::from(CONNECTIONS / WORLDS), "{}", server.name());
        let frames = connections.iter().flat_map(|connection| &connection.frames);
        assert!(frames.clone().all(|frame| frame.server_id.world() == number + 1), "{}", server.name());
        assert_eq!(frames.count(), usize::from(CONNECTIONS / WORLDS * FRAMES_EACH));
    }
    stage.wait_filter_stat("connections_routed_total", |routed| routed == u64::from(CONNECTIONS));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_routed_is_closed_in_time() {
    let mut stage = Stage::start(TestNet::alone(), &json!({})).unwrap();
    let servers = servers(&stage.net, 1, 0).await;
    let limits = json!({"header_timeout": "300ms", "max_message_bytes": 1000});
    let policy = json!({
        "listeners": stage.listener(&limits),
        "services": services(&servers),
        "routes": [route("one", &json!([1]), "game-1")],
    });
    stage.control_plane.put_policy(&policy.to_string());
    assert_eq!(lands(stage.players(), game(1, 1)).await.unwrap(), "game-1");

    for unknown in [game(2, 1), game(0, 1), realmgate_wire::ServerId::new(10, 1, 1, false)] {
        let mut client = GameClient::connect(stage.players()).await.unwrap();
        let watch = Stopwatch::start();
        client.send(&Frame::new(unknown, 1, "hello?")).await.unwrap();
        let closed = client.read_until_closed().await.unwrap();
        assert!(watch.undisturbed() < Duration::from_millis(100), "{unknown:?}: {closed:?}");
        assert_eq!(closed.bytes, 0);
    }
    stage.wait_filter_stat("connections_refused_no_route_total", |refused| refused == 3);

    let longest = Frame::to_world(1, 1, vec![1; 1000]);
    let mut client = GameClient::connect(stage.players()).await.unwrap();
    assert_eq!(client.exchange(&longest).await.unwrap(), longest);
    let mut client = GameClient::connect(stage.players()).await.unwrap();
    let watch = Stopwatch::start();
    client.send(&Frame::to_world(1, 1, vec![1; 1001])).await.unwrap();
    client.read_until_closed().await.unwrap();
    assert!(watch.undisturbed() < Duration::from_millis(100), "{:?}", watch.elapsed());
    stage.wait_filter_stat("connections_refused_message_too_large_total", |refused| refused == 1);

    // One client stops a byte short, one says nothing at all.
    let watch = Stopwatch::start();
    let silent = GameClient::connect(stage.players()).await.unwrap();
    let mut short = GameClient::connect(stage.players()).await.unwrap();
    short.send_bytes(&[0; 7]).await.unwrap();
    for client in [silent, short] {
        client.read_until_closed().await.unwrap();
        assert!(watch.elapsed() >= Duration::from_millis(300), "{:?}", watch.elapsed());
    }
    // A filter sees the time only when it ticks.
    assert!(watch.undisturbed() < Duration::from_millis(800), "{:?}", watch.elapsed());
    stage.wait_filter_stat("connections_refused_header_timeout_total", |refused| refused == 2);
    stage.wait_filter_stat("connections_awaiting_header", |waiting| waiting == 0);
    assert_eq!(servers[0].total(), 2, "no refused connection reached a game server");

    // Envoy writes its access log out when it ends.
    stage.edge.process().terminate();
    let log = std::fs::read_to_string(stage.net.dir().join("edge.log")).unwrap();
    for (reason, times) in [("no_route", 3), ("message_too_large", 1), ("header_timeout", 2)] {
        let line = format!(r#""close_reason":"{reason}""#);
        assert_eq!(log.matches(&line).count(), times, "{reason} in {log}");
    }
    assert!(log.contains(r#""server.type":200,"world.id":2,"instance.id":1"#), "{log}");
}
