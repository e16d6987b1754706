//! The harness itself: what the other tests rely on, without a control plane.

use std::fs;
use std::process::Command;
use std::time::Duration;

use realmgate_tests::address::Address;
use realmgate_tests::frame::WHO_ARE_YOU;
use realmgate_tests::game_server::Conduct;
use realmgate_tests::process::Process;
use realmgate_tests::stage::port;
use realmgate_tests::{Envoy, Failure, Frame, GameClient, GameServer, Redis, TestNet, wait_until};
use realmgate_wire::ServerId;
use serde_json::{Value, json};

use crate::cast::LIMIT;

/// An Envoy without the filter that passes everything on `PLAYERS` to `server`.
fn tcp_proxy(net: &TestNet, server: &GameServer) -> Value {
    let address = |a: std::net::SocketAddr| json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
    json!({"static_resources": {
        "listeners": [{
            "name": "players",
            "address": address(net.at(port::PLAYERS)),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "players",
                    "cluster": "game",
                },
            }]}],
        }],
        "clusters": [{
            "name": "game",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "game", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(server.address())}},
            ]}]},
        }],
    }})
}

fn is_running(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_come_back_in_any_chunks_and_are_recorded() {
    let net = TestNet::new();
    let server = GameServer::recording("world-1", net.at(port::GAME), 2).await.unwrap();
    let mut client = GameClient::connect(server.address()).await.unwrap();
    let frames: Vec<_> =
        (0..3u8).map(|n| Frame::to_world(1, n.into(), vec![n; 20 * usize::from(n)])).collect();
    for (frame, sizes) in frames.iter().zip([&[1; 8][..], &[8, 3], &[28]]) {
        client.send_in_chunks(frame, sizes, Duration::from_millis(1)).await.unwrap();
        assert_eq!(&client.answer().await.unwrap(), frame);
    }
    let seen = server.connections();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].peer, client.local_addr().unwrap());
    assert_eq!((seen[0].frame_count, &seen[0].frames[..]), (3, &frames[..2]));
    assert_eq!((server.live(), server.total(), server.frames()), (1, 1, 3));
    drop(client);
    wait_until("the server sees the close", LIMIT, || server.live() == 0 && !server.connections()[0].open);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_sent_together_come_back_together() {
    let net = TestNet::new();
    let server = GameServer::start("world-1", net.at(port::GAME)).await.unwrap();
    let mut client = GameClient::connect(server.address()).await.unwrap();
    let longest = Frame::to_world(1, 1, vec![7; 65_535]);
    let mut wire = longest.to_bytes().unwrap().to_vec();
    wire.extend_from_slice(&Frame::to_world(1, WHO_ARE_YOU, "").to_bytes().unwrap());
    client.send_bytes(&wire).await.unwrap();
    assert_eq!(client.answer().await.unwrap(), longest);
    assert_eq!(client.answer().await.unwrap().body, "world-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_hold_be_silent_and_close() {
    let net = TestNet::new();
    let server = GameServer::start("world-1", net.at(port::GAME)).await.unwrap();
    let brief = Duration::from_millis(50);
    let mut client = GameClient::connect(server.address()).await.unwrap().patience(brief);
    let [first, second] = [1, 2].map(|id| Frame::to_world(1, id, "x"));

    server.set_conduct(Conduct::Silent);
    client.send(&first).await.unwrap();
    wait_until("the frame is read", LIMIT, || server.frames() == 1);
    server.set_conduct(Conduct::Hold);
    client.send(&second).await.unwrap();
    assert_eq!(client.answer().await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(server.frames(), 1);
    server.set_conduct(Conduct::Echo);
    let mut client = client.patience(LIMIT);
    assert_eq!(client.answer().await.unwrap(), second);

    server.set_conduct(Conduct::Close);
    let closed = client.read_until_closed().await.unwrap();
    assert_eq!((closed.bytes, closed.reset), (0, false));
    let refused = GameClient::connect(server.address()).await.unwrap();
    refused.read_until_closed().await.unwrap();
    assert_eq!(server.total(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_server_frees_its_port_and_closes_its_connections() {
    let net = TestNet::new();
    let at = net.at(port::GAME);
    let server = GameServer::start("first", at).await.unwrap();
    let source = Address::claim();
    let mut client = GameClient::connect_from(source.ip(), at).await.unwrap();
    assert_eq!(client.local_addr().unwrap().ip(), source.ip());
    assert_eq!(client.who_are_you(ServerId::new(200, 1, 0, false)).await.unwrap(), "first");
    drop(server);
    client.read_until_closed().await.unwrap();
    // The port is free as soon as the task that owns it is gone.
    let mut second = GameServer::start("second", at).await;
    wait_until("the port is free", LIMIT, || {
        if second.is_err() {
            second = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(GameServer::start("second", at))
            });
        }
        second.is_ok()
    });
    let mut client = GameClient::connect(at).await.unwrap();
    assert_eq!(client.who_are_you(ServerId::default()).await.unwrap(), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_passes_frames_and_shows_what_it_does() {
    let net = TestNet::new();
    let server = GameServer::start("world-1", net.at(port::GAME)).await.unwrap();
    let bootstrap = tcp_proxy(&net, &server).to_string();
    let mut envoy = Envoy::with(net.dir(), bootstrap, net.at(port::ADMIN)).start().unwrap();
    let mut client = GameClient::connect(net.at(port::PLAYERS)).await.unwrap();
    let frame = Frame::to_world(1, 5, "through Envoy");
    assert_eq!(client.exchange(&frame).await.unwrap(), frame);

    assert_eq!(envoy.stat("tcp.players.downstream_cx_total"), 1);
    assert_eq!(envoy.stat("no.such.counter"), 0);
    assert_eq!(envoy.stats("cluster.game.")["cluster.game.upstream_cx_active"], 1);
    assert_eq!(envoy.clusters()["cluster_statuses"][0]["name"], "game");
    assert!(envoy.config_dump()["configs"].as_array().unwrap().len() > 2);
    let ready = |envoy: &Envoy| envoy.get("/server_info").contains("\"state\": \"LIVE\"");
    assert!(ready(&envoy));
    envoy.post("/healthcheck/fail");
    assert!(!ready(&envoy));

    let pid = envoy.process().pid();
    drop(envoy);
    assert!(!is_running(pid), "reaped, and so gone from /proc");
    client.read_until_closed().await.unwrap();
}

#[test]
fn envoy_that_refuses_its_bootstrap_is_quoted() {
    let net = TestNet::new();
    let failure = Envoy::with(net.dir(), "no_such_key: 1", net.at(port::ADMIN)).start().unwrap_err();
    assert!(failure.to_string().contains("no_such_key"), "{failure}");
}

#[test]
fn redis_keeps_what_it_answered_through_a_kill() {
    let net = TestNet::new();
    let mut redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    redis.set("rules", "{}");
    redis.hset("mapping", "1", "10.0.0.1:1");
    redis.hset("mapping", "2", "10.0.0.2:1");
    redis.hdel("mapping", "2");
    assert_eq!(redis.publish("notify", "reload"), 0);
    redis.kill9();
    redis.restart().unwrap();
    assert_eq!(redis.command::<String>(&["GET", "rules"]), "{}");
    assert_eq!(redis.command::<Vec<String>>(&["HGETALL", "mapping"]), ["1", "10.0.0.1:1"]);
    redis.del("rules");
    assert_eq!(redis.command::<Option<String>>(&["GET", "rules"]), None);
}

#[test]
fn a_child_that_ignores_sigterm_and_one_of_a_panicking_test_are_gone() {
    let net = TestNet::new();
    let start = |name: &str, script: &str| {
        Process::start(name, Command::new("sh").args(["-c", script]), net.dir()).unwrap()
    };
    let mut orphan = start("orphan", "echo up; exec sleep 600");
    let pid = orphan.pid();
    orphan.wait_ready("it says so", LIMIT, || true).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _owned = orphan;
        // Not `panic!`, whose message would look like a failure in the test's output.
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    assert!(!is_running(pid));

    // An ignored signal stays ignored through exec.
    let stubborn =
        start("stubborn", "trap '' TERM; echo up; exec sleep 600").grace(Duration::from_millis(300));
    wait_until("the trap is set", LIMIT, || stubborn.log_tail().ends_with("up"));
    let pid = stubborn.pid();
    drop(stubborn);
    assert!(!is_running(pid));
}

#[test]
fn a_child_that_ends_early_is_quoted_at_once() {
    let net = TestNet::new();
    let mut command = Command::new("sh");
    command.args(["-c", "echo out of cheese >&2; exit 7"]);
    let mut process = Process::start("mouse", &mut command, net.dir()).unwrap();
    let failure: Failure = process.wait_ready("it is ready", Duration::from_mins(1), || false).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("out of cheese") && text.contains("exit status: 7"), "{text}");
}

#[test]
fn addresses_are_claimed_once() {
    let addresses: Vec<_> = (0..50).map(|_| Address::claim()).collect();
    let mut ips: Vec<_> = addresses.iter().map(Address::ip).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 50);
}
