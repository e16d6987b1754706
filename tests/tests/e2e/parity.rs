//! The old gateway's defects, one by one: what we do instead, on a real Envoy in front of servers that speak 20 + 9 bytes.
//!
//! | defect | shown by |
//! |---|---|
//! | five failures in five thousand successes open the breaker | `resilience::five_failures_in_five_thousand_successes_eject_nobody` |
//! | the map of client addresses grows without bound | `limits::a_flood_from_many_addresses_leaves_memory_as_it_was`, and a million addresses in `filter/tests/limits.rs` |
//! | all others | the tests below, by their names |

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use realmgate_tests::scenario::session;
use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, GameServer, Stage, TestNet, wait_until};
use realmgate_wire::{ServerId, SessionIds};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::cast::{LIMIT, answering, game, lands, route, servers, services, until_lands};
use crate::redis_rules::Fleet;

/// A fleet with one rule, for all of type 200, to its first server or to all three.
async fn fleet_with_a_rule(servers: &[usize]) -> Fleet {
    let fleet = Fleet::start(TestNet::new()).await;
    let start = fleet.publish(&[fleet.rule(200, None, "round_robin", servers)]);
    let first = fleet.servers[servers[0]].name();
    until_lands(fleet.stage.game_gateway(), game(9, 1), Some(first), start).await;
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_players_backend_connection_is_not_handed_to_the_next() {
    let fleet = fleet_with_a_rule(&[0]).await;
    let server = &fleet.servers[0];
    let before = server.connections().len();
    for number in 0..5 {
        let mut player = GameClient::connect(fleet.stage.game_gateway()).await.unwrap();
        player.exchange(&Frame::to_world(1, number, "mine")).await.unwrap();
        drop(player);
        let live = format!("the connection of player {number} goes with it");
        wait_until(&live, LIMIT, || server.live() == 0);
    }
    let connections = &server.connections()[before..];
    let ids: BTreeSet<_> = connections.iter().map(|connection| connection.session.unwrap().id).collect();
    assert_eq!((connections.len(), ids.len()), (5, 5));
    for (number, connection) in (0..).zip(connections) {
        assert_eq!((connection.frame_count, connection.frames[0].message_id), (1, number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_over_64_kib_ends_its_session_and_corrupts_none() {
    let fleet = fleet_with_a_rule(&[0]).await;
    let edge = fleet.stage.game_gateway();
    let at = fleet.stage.net.at(port::GAME + 8);
    // 9 + 65,536 behind the first 20 bytes. The old gateway's client would have read a length of 0, and then the body.
    let mut reply = vec![0; 29 + 65_536];
    reply[..4].copy_from_slice(&(9_i32 + 65_536).to_le_bytes());
    answering(at, &reply).await;
    let too_large = json!({"server_type": 200, "world_id": 7, "service_name": "large", "strategy": "round_robin",
        "endpoints": [at.to_string()]});
    fleet.publish(&[fleet.rule(200, None, "round_robin", &[0]), too_large]);
    until_lands(edge, game(7, 1), None, Instant::now()).await;
    let refused = fleet.stage.filter_stat("sessions_closed_reply_too_large_total");

    let mut other = GameClient::connect(edge).await.unwrap();
    other.who_are_you(game(1, 1)).await.unwrap();
    let mut player = GameClient::connect(edge).await.unwrap();
    player.send(&Frame::to_world(7, 1, "")).await.unwrap();
    assert_eq!(player.read_until_closed().await.unwrap().bytes, 0);
    fleet.stage.wait_filter_stat("sessions_closed_reply_too_large_total", |count| count == refused + 1);
    let longest = Frame::to_world(1, 1, vec![1; 65_535]);
    assert_eq!(other.exchange(&longest).await.unwrap().body, longest.body);
}

/// A policy's listener whose limits are short, and a route to a server that echoes.
async fn short_limits(more: &Value) -> (Stage, Vec<GameServer>) {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 1, 0).await;
    let mut listeners = stage.listener(&json!({"header_timeout": "300ms"}));
    listeners[0].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut services = services(&servers);
    services[0]["connections"] = json!({"connect_timeout": "300ms"});
    services[0]["health_check"] = json!({"interval": "200ms", "timeout": "200ms"});
    let policy = json!({"listeners": listeners, "services": services,
        "routes": [route("all", &json!("any"), "game-1")]});
    stage.control_plane.put_policy(&policy.to_string());
    (stage, servers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_slow_with_its_header_does_not_hold_a_slot() {
    let (stage, servers) = short_limits(&json!({})).await;
    let mut slow = TcpStream::connect(stage.players()).await.unwrap();
    // A byte in time, each time, as a slow-header attack does: seven of eight, and never the last.
    let sent = async {
        for byte in Frame::to_world(1, 1, "").to_bytes().unwrap().iter().take(7) {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        slow.read(&mut [0]).await
    };
    let end = timeout(LIMIT, sent).await.expect("it is closed");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    stage.wait_filter_stat("connections_awaiting_header", |waiting| waiting == 0);
    assert_eq!(lands(stage.players(), game(1, 1)).await.unwrap(), servers[0].name());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_any_world_does_not_start_round_robin_again_for_each() {
    let fleet = fleet_with_a_rule(&[0, 1, 2]).await;
    let before: Vec<_> = fleet.servers.iter().map(GameServer::total).collect();
    for world in 1..=30 {
        lands(fleet.stage.game_gateway(), game(world, 1)).await.unwrap();
    }
    for (server, before) in fleet.servers.iter().zip(before) {
        assert_eq!(server.total() - before, 10, "{}", server.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_players_do_not_share_an_address() {
    let (mut stage, _servers) = short_limits(&json!({"proxy_protocol": true})).await;
    let players = ["203.0.113.7", "203.0.113.8", "203.0.113.9"];
    for player in players {
        let mut client = GameClient::connect(stage.players()).await.unwrap();
        let announced = format!("PROXY TCP4 {player} 198.51.100.1 40000 7000\r\n");
        client.send_bytes(announced.as_bytes()).await.unwrap();
        assert_eq!(client.who_are_you(game(1, 1)).await.unwrap(), "game-1");
    }
    // Envoy writes its access log out when it ends.
    stage.edge.process().terminate();
    let log = std::fs::read_to_string(stage.net.dir().join("edge.log")).unwrap();
    for player in players {
        assert!(log.contains(&format!(r#""client.address":"{player}:40000""#)), "{player} in {log}");
    }
}

/// Every timeout that a message of Envoy's configuration has, by its key.
fn timeouts(config: &Value, found: &mut BTreeMap<String, BTreeSet<String>>) {
    match config {
        Value::Object(fields) => {
            for (key, value) in fields {
                let is_time =
                    ["timeout", "duration", "idle", "lifetime"].iter().any(|word| key.contains(word));
                if let (true, Some(time)) = (is_time, value.as_str()) {
                    found.entry(key.clone()).or_default().insert(time.to_owned());
                }
                timeouts(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| timeouts(item, found)),
        _ => {}
    }
}

/// The old gateway's 30 s cannot be waited for here. Instead: of all timers in Envoy's configuration one alone is of a
/// session, and a session outlasts all the others, which this policy makes short.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_does_not_lose_its_session() {
    let (stage, servers) = short_limits(&json!({})).await;
    let mut player = GameClient::connect(stage.players()).await.unwrap();
    player.who_are_you(game(1, 1)).await.unwrap();

    let dump = stage.edge.config_dump();
    let mut found = BTreeMap::new();
    for section in dump["configs"].as_array().unwrap() {
        timeouts(&section["dynamic_active_clusters"], &mut found);
        for listener in section["dynamic_listeners"].as_array().into_iter().flatten() {
            if listener["name"] == "edge" {
                timeouts(listener, &mut found);
            }
        }
    }
    let only = |time: &str| BTreeSet::from([time.to_owned()]);
    assert_eq!(found.remove("idle_timeout"), Some(only("1800s")), "the one timer of a session");
    assert_eq!(found.remove("connect_timeout"), Some(only("0.300s")));
    assert_eq!(found.remove("timeout"), Some(only("0.200s")), "of health checks");
    assert_eq!(found, BTreeMap::new());

    sleep(Duration::from_millis(900)).await;
    assert_eq!(player.who_are_you(game(1, 1)).await.unwrap(), servers[0].name());
    assert_eq!(stage.edge.stat("tcp.edge.idle_timeout"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_removed_does_not_stay_and_neither_change_needs_a_restart() {
    let fleet = fleet_with_a_rule(&[0]).await;
    let edge = fleet.stage.game_gateway();
    let start = fleet.publish(&[
        fleet.rule(200, None, "round_robin", &[0]),
        fleet.rule(200, Some(7), "round_robin", &[1]),
    ]);
    until_lands(edge, game(7, 1), Some("game-2"), start).await;
    let start = fleet.publish(&[fleet.rule(200, Some(7), "round_robin", &[1])]);
    until_lands(edge, game(9, 1), None, start).await;
    assert_eq!(lands(edge, game(7, 1)).await.unwrap(), "game-2");
    let start = fleet.publish(&[]);
    until_lands(edge, game(7, 1), None, start).await;
}

/// The old gateway had 4,095 for a millisecond. Natively, since no client connects that fast: two workers of a process,
/// whose blocks the filter takes from one counter.
#[test]
fn no_two_sessions_have_one_id_however_many_come_at_once() {
    let base = u64::MAX;
    let workers = [0, 1].map(|block| SessionIds::of_block(base, block));
    let ids = workers.map(|mut worker| (0..100_000).map(|_| worker.draw().unwrap()).collect::<BTreeSet<_>>());
    assert_eq!(ids[0].union(&ids[1]).count(), 200_000);
    assert!(ids.iter().flatten().all(|&id| id > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_client_crashes_nothing() {
    let fleet = fleet_with_a_rule(&[0]).await;
    let edge = fleet.stage.game_gateway();
    let refused = fleet.stage.filter_stat("connections_refused_no_route_total");
    let upgrade = b"GET /game HTTP/1.1\r\nHost: game\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    // A frame that announces 2^64 - 1 bytes, and one whose sign bit is set.
    let frames = [
        [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        [0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in [&upgrade[..], &frames[0], &frames[1]] {
        let mut client = GameClient::connect(edge).await.unwrap();
        client.send_bytes(bytes).await.unwrap();
        assert_eq!(client.read_until_closed().await.unwrap().bytes, 0);
    }
    // Eight bytes of each are a header of some server type that no rule has.
    fleet.stage.wait_filter_stat("connections_refused_no_route_total", |count| count == refused + 3);
    assert_eq!(lands(edge, game(9, 1)).await.unwrap(), "game-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_game_frame_that_begins_like_get_is_a_game_frame() {
    let fleet = fleet_with_a_rule(&[0]).await;
    let frame = Frame::new(
        game(9, 1),
        u16::from_le_bytes(*b"T "),
        vec![b'x'; usize::from(u16::from_le_bytes(*b"GE"))],
    );
    assert_eq!(frame.to_bytes().unwrap()[..4], *b"GET ");
    let mut player = GameClient::connect(fleet.stage.game_gateway()).await.unwrap();
    let answer = player.exchange(&frame).await.unwrap();
    assert_eq!((answer.message_id, answer.body), (frame.message_id, frame.body));
}

/// A client's message and the old gateway's words for it, with the session id as scenarios write it.
const FROM_CLIENT: [u8; 4] = [2, 0, 0x34, 0x12];
const BODY: [u8; 2] = [0xaa, 0xbb];
const TO_SERVER: [u8; 31] = [
    0x0b, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 1, 8, 7, 6, 5, 4, 3, 2, 1, 0xaa,
    0xbb,
];
const TO_CLIENT: [u8; 10] = [2, 0, 0x34, 0x12, 0, 0, 0, 0, 0xaa, 0xbb];

/// A server that tells which one it is and what came, and sends it back byte by byte.
async fn recording(number: usize, address: SocketAddr, came: mpsc::UnboundedSender<(usize, [u8; 31])>) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let mut message = [0; 31];
            // One who asked for a name while the edge was made ready sends less, and leaves.
            if stream.read_exact(&mut message).await.is_err() {
                continue;
            }
            came.send((number, message)).unwrap();
            for byte in message {
                stream.write_all(&[byte]).await.unwrap();
            }
        }
    });
}

/// Sends the vector to `to` byte by byte, and gives who got it.
async fn plays_the_vector(
    edge: SocketAddr,
    to: ServerId,
    came: &mut mpsc::UnboundedReceiver<(usize, [u8; 31])>,
) -> usize {
    let mut client = TcpStream::connect(edge).await.unwrap();
    client.set_nodelay(true).unwrap();
    for byte in [&FROM_CLIENT[..], &to.0.to_le_bytes(), &BODY].concat() {
        client.write_all(&[byte]).await.unwrap();
    }
    let mut answer = [0; TO_CLIENT.len()];
    timeout(LIMIT, client.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(answer, TO_CLIENT);
    let (number, message) = came.recv().await.unwrap();
    session::compare(&TO_SERVER, &message).unwrap();
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_bytes_of_the_old_gateway_under_every_strategy() {
    let fleet = Fleet::start(TestNet::new()).await;
    let edge = fleet.stage.game_gateway();
    let (sender, mut came) = mpsc::unbounded_channel();
    let at = [30, 31, 32].map(|number| fleet.stage.net.at(port::GAME + number));
    for (number, address) in at.into_iter().enumerate() {
        recording(number, address, sender.clone()).await;
    }
    let endpoints = at.map(|address| address.to_string());
    // As a fleet has them: keys that say nothing, a field that nobody reads, and any world said in two ways.
    let rules = json!({
        "10": {"server_type": 10, "service_name": "account", "strategy": "round_robin", "endpoints": endpoints},
        "15": {"server_type": 15, "service_name": "version", "strategy": "consistent_hash", "hash_key": "uid",
            "world_id": 0, "endpoints": endpoints},
        "200": {"server_type": 200, "service_name": "game", "strategy": "realm_based", "endpoints": endpoints},
        "201": {"server_type": 200, "service_name": "game", "strategy": "round_robin", "world_id": 8,
            "endpoints": endpoints[2..]},
    });
    fleet.redis.set("game-gateway:routing:rules", &rules.to_string());
    fleet.redis.publish("game-gateway:routing:rules:notify", "reload");
    let cluster = "cluster.game-gateway/game/200/8.membership_healthy";
    wait_until("the edge has the rules", LIMIT, || fleet.stage.edge.stat(cluster) == 1);
    wait_until("the control plane says so", LIMIT, || {
        let output = fleet.stage.control_plane.realmgate(&["proxies"]).unwrap();
        String::from_utf8_lossy(&output.stdout).contains("synced")
    });

    let hash = [2, 1, 1, 1, 1, 1, 0, 2, 0, 0];
    let realm = [1, 1, 1, 2, 0, 1, 1, 1, 0, 1];
    let mut turns = Vec::new();
    for (instance, (by_hash, by_realm)) in (1..).zip(hash.into_iter().zip(realm)) {
        let version = ServerId::new(15, 1, instance, false);
        assert_eq!(plays_the_vector(edge, version, &mut came).await, by_hash, "consistent_hash, {instance}");
        assert_eq!(
            plays_the_vector(edge, game(1, instance), &mut came).await,
            by_realm,
            "realm_based, {instance}"
        );
        assert_eq!(plays_the_vector(edge, game(8, instance), &mut came).await, 2, "the exact world");
        turns.push(
            plays_the_vector(edge, ServerId::new(10, instance.into(), instance, false), &mut came).await,
        );
    }
    for (turn, next) in turns.iter().zip(&turns[1..]) {
        assert_eq!((turn + 1) % 3, *next, "round_robin: {turns:?}");
    }
    // Of world 0, and of no instance, both take turns; nobody has type 99.
    for to in [ServerId::new(15, 1, 0, false), game(0, 1), game(1, 0)] {
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            seen.insert(plays_the_vector(edge, to, &mut came).await);
        }
        assert_eq!(seen.len(), 3, "{to:?}");
    }
    assert!(lands(edge, ServerId::new(99, 1, 1, false)).await.is_err());
}
