//! Game servers that cannot be connected to: who is ejected and who is not, where a retry goes, what circuit breakers
//! refuse.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use realmgate_tests::process::Process;
use realmgate_tests::{Frame, GameClient, GameServer, Stage, Stopwatch, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cast::{LIMIT, game, lands, route, servers, until_lands};

/// The one service of a test: these endpoints, and whatever else it says.
pub(crate) fn service(name: &str, endpoints: &[SocketAddr], more: &Value) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    let mut service = json!({"name": name, "endpoints": endpoints});
    service.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    service
}

/// Endpoints are never ejected.
pub(crate) fn no_outliers() -> Value {
    json!({"consecutive_failures": 0, "failure_percent": 0})
}

/// Puts a policy with a route for each service: the first has world 1, and so on.
pub(crate) fn serve(stage: &Stage, attempts: u32, services: &[Value]) {
    let mut listeners = stage.listener(&json!({}));
    listeners[0]["connect_attempts"] = json!(attempts);
    listeners[0]["connect_backoff"] = json!({"base": "10ms", "max": "100ms"});
    let route = |(world, service): (u16, &Value)| {
        let name = service["name"].as_str().unwrap();
        route(name, &json!([world]), name)
    };
    let routes: Vec<_> = (1..).zip(services).map(route).collect();
    let policy = json!({"listeners": listeners, "services": services, "routes": routes});
    stage.control_plane.put_policy(&policy.to_string());
}

pub(crate) fn addresses(servers: &[GameServer]) -> Vec<SocketAddr> {
    servers.iter().map(GameServer::address).collect()
}

/// Stops a server and waits until nobody can connect to it.
pub(crate) async fn stop(server: GameServer) -> SocketAddr {
    let address = server.address();
    drop(server);
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    address
}

/// How many of so many players, one after the other, are refused.
async fn refused(edge: SocketAddr, players: usize) -> usize {
    let mut refused = 0;
    for _ in 0..players {
        refused += usize::from(lands(edge, game(1, 1)).await.is_err());
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_in_five_thousand_successes_eject_nobody() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    // From five endpoints on, Envoy's success rate would eject the only one that ever failed.
    let mut servers = servers(&stage.net, 6, 0).await;
    let outliers = json!({"outlier_detection": {"interval": "2s", "min_connections": 10}});
    serve(&stage, 1, &[service("six", &addresses(&servers), &outliers)]);
    let edge = stage.players();
    for _ in 0..5 {
        let mut players = JoinSet::new();
        for _ in 0..8 {
            players.spawn(refused(edge, 125));
        }
        assert_eq!(players.join_all().await.iter().sum::<usize>(), 0);
        let address = stop(servers.remove(0)).await;
        assert_eq!(refused(edge, 6).await, 1, "each server's turn comes once in six");
        servers.insert(0, GameServer::start("game-1", address).await.unwrap());
    }
    let stats = stage.edge.stats("cluster.six.");
    let by_comparison = "cluster.six.outlier_detection.ejections_detected_local_origin_success_rate";
    println!("Envoy's comparison with the others would have ejected it {} times", stats[by_comparison]);
    assert_eq!(stats["cluster.six.upstream_cx_connect_fail"], 5);
    assert!(stats["cluster.six.upstream_cx_total"] >= 5_000);
    assert_eq!(stats["cluster.six.outlier_detection.ejections_enforced_total"], 0);
    let before = servers[0].total();
    assert_eq!(refused(edge, 60).await, 0);
    assert_eq!(servers[0].total() - before, 10, "it has its share still");
}

/// Never five in a row, and yet no server for players.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_every_other_time_is_ejected() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let mut servers = servers(&stage.net, 2, 0).await;
    // A look at the shares takes in at least one whole round below, however slow the machine is.
    let outliers = json!({"interval": "3s", "min_connections": 4});
    serve(&stage, 1, &[service("pair", &addresses(&servers), &json!({"outlier_detection": outliers}))]);
    let counter = |name: &str| stage.edge.stat(&format!("cluster.pair.outlier_detection.{name}"));
    let start = Instant::now();
    while counter("ejections_active") == 0 {
        refused(stage.players(), 8).await;
        let address = stop(servers.remove(0)).await;
        refused(stage.players(), 8).await;
        servers.insert(0, GameServer::start("game-1", address).await.unwrap());
        assert!(start.elapsed() < LIMIT);
    }
    assert_eq!(counter("ejections_enforced_local_origin_failure_percentage"), 1);
    assert_eq!(counter("ejections_enforced_total"), 1);
}

const PROCESS: &str = "REALMGATE_TEST_GAME_SERVER";

/// A game server that can be killed: this very program once more, running [`the_process_of_a_game_server`].
fn game_server_process(net: &TestNet, name: &str, address: SocketAddr) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "resilience::the_process_of_a_game_server", "--ignored", "--nocapture"]);
    command.env(PROCESS, format!("{name} {address}"));
    let mut process = Process::start(name, &mut command, net.dir()).unwrap();
    let up = || std::net::TcpStream::connect(address).is_ok();
    process.wait_ready("the game server listens", LIMIT, up).unwrap();
    process
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "no test: other tests run it as a process of its own"]
async fn the_process_of_a_game_server() {
    let Ok(order) = std::env::var(PROCESS) else { return };
    let (name, address) = order.split_once(' ').unwrap();
    let _server = GameServer::start(name, address.parse().unwrap()).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_no_player_is_ejected_and_comes_back() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let at = [stage.net.at(21_001), stage.net.at(21_002)];
    let mut dies = game_server_process(&stage.net, "game-1", at[0]);
    let _lives = game_server_process(&stage.net, "game-2", at[1]);
    let outliers = json!({"outlier_detection": {"interval": "200ms", "ejection_time": "3s"}});
    serve(&stage, 3, &[service("pair", &at, &outliers)]);
    let edge = stage.players();
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;

    dies.kill9();
    let counter = |name: &str| stage.edge.stat(&format!("cluster.pair.{name}"));
    let start = Instant::now();
    while counter("outlier_detection.ejections_active") == 0 {
        assert_eq!(lands(edge, game(1, 1)).await.unwrap(), "game-2");
        assert!(start.elapsed() < LIMIT);
    }
    assert_eq!(counter("outlier_detection.ejections_enforced_consecutive_local_origin_failure"), 1);
    let failures = counter("upstream_cx_connect_fail");
    assert!((5..=8).contains(&failures), "{failures}");
    for _ in 0..20 {
        assert_eq!(lands(edge, game(1, 1)).await.unwrap(), "game-2");
    }
    let failed = counter("upstream_cx_connect_fail");
    // Unless its time is over already.
    let is_ejected = counter("outlier_detection.ejections_active") == 1;
    assert!(!is_ejected || failed == failures, "an ejected server was tried");

    let _again = game_server_process(&stage.net, "game-1", at[0]);
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
    wait_until("the ejection is over", LIMIT, || counter("outlier_detection.ejections_active") == 0);
}

/// A port that takes no connection and refuses none: its queue is full.
pub(crate) async fn black_hole(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut queue = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(connected.unwrap());
    }
    (listener, queue)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_to_another_server_within_the_attempts() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let live = GameServer::start("live", stage.net.at(21_001)).await.unwrap();
    let (dead, hole) = (stage.net.at(21_002), stage.net.at(21_003));
    let _queue = black_hole(hole).await;
    let more = json!({"outlier_detection": no_outliers(), "connections": {"connect_timeout": "300ms"}});
    let services = [
        service("refuses", &[live.address(), dead], &more),
        service("hangs", &[live.address(), hole], &more),
    ];
    serve(&stage, 1, &services);
    assert_eq!(refused(stage.players(), 10).await, 5, "without a retry");

    serve(&stage, 2, &services);
    for world in [1, 2] {
        let name = services[usize::from(world) - 1]["name"].as_str().unwrap();
        let failures = || stage.edge.stat(&format!("cluster.{name}.upstream_cx_connect_fail"));
        let before = failures();
        for _ in 0..6 {
            assert_eq!(lands(stage.players(), game(world, 1)).await.unwrap(), "live");
        }
        assert!(failures() - before >= 3, "{name}: {before}, then {}", failures());
    }
    assert!(stage.edge.stat("cluster.hangs.upstream_cx_connect_timeout") >= 3);
}

/// The same player hashes to the same server again, and again, until it is ejected.
#[tokio::test(flavor = "multi_thread")]
async fn with_hashing_a_retry_goes_elsewhere_once_the_server_is_ejected() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 2, 0).await;
    let dead = stage.net.at(21_003);
    let endpoints = [servers[0].address(), servers[1].address(), dead];
    let outliers = json!({"outlier_detection": {"consecutive_failures": 2}});
    let mut listeners = stage.listener(&json!({}));
    listeners[0]["connect_attempts"] = json!(4);
    let policy = json!({"listeners": listeners, "services": [service("three", &endpoints, &outliers)],
        "routes": [{"name": "all", "server_type": 200, "strategy": "maglev", "to": [{"service": "three"}]}]});
    stage.control_plane.put_policy(&policy.to_string());
    for instance in 1..=30 {
        assert!(lands(stage.players(), game(1, instance)).await.is_ok(), "instance {instance}");
    }
    let counter = |name: &str| stage.edge.stat(&format!("cluster.three/maglev.{name}"));
    assert_eq!(counter("outlier_detection.ejections_active"), 1);
    let failures = counter("upstream_cx_connect_fail");
    assert!((2..=4).contains(&failures), "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn players_beyond_a_circuit_breaker_are_refused_at_once_and_counted() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let server = GameServer::start("game-1", stage.net.at(21_001)).await.unwrap();
    let hole = stage.net.at(21_002);
    let _queue = black_hole(hole).await;
    serve(
        &stage,
        3,
        &[
            service("few", &[server.address()], &json!({"connections": {"max": 3}})),
            service("slow", &[hole], &json!({"connections": {"max_pending": 2, "connect_timeout": "8s"}})),
        ],
    );
    let edge = stage.players();
    let counter = |name: &str| stage.edge.stat(&format!("cluster.{name}"));
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut client = GameClient::connect(edge).await.unwrap();
        assert_eq!(client.who_are_you(game(1, 1)).await.unwrap(), "game-1");
        sessions.push(client);
    }
    assert_eq!(counter("few.circuit_breakers.default.cx_open"), 1);
    for refused in 1..=5 {
        let watch = Stopwatch::start();
        assert!(lands(edge, game(1, 1)).await.is_err());
        assert!(watch.undisturbed() < Duration::from_secs(1), "{:?}", watch.elapsed());
        assert_eq!(counter("few.upstream_cx_overflow"), refused);
    }
    assert_eq!(server.total(), 3);
    for session in &mut sessions {
        let frame = Frame::to_world(1, 1, "still there?");
        assert_eq!(session.exchange(&frame).await.unwrap(), frame);
    }
    drop(sessions.pop());
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;

    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = GameClient::connect(edge).await.unwrap();
        client.send(&Frame::to_world(2, 1, "")).await.unwrap();
        waiting.push(client);
    }
    wait_until("two wait for the server", LIMIT, || counter("slow.upstream_rq_pending_active") == 2);
    let watch = Stopwatch::start();
    assert!(lands(edge, game(2, 1)).await.is_err());
    assert!(watch.undisturbed() < Duration::from_secs(1), "{:?}", watch.elapsed());
    assert!(counter("slow.upstream_rq_pending_overflow") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_sessions_survive_every_change_of_resilience() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 2, 0).await;
    let endpoints = addresses(&servers);
    serve(&stage, 3, &[service("pair", &endpoints, &json!({}))]);
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let mut client = GameClient::connect(stage.players()).await.unwrap();
        client.who_are_you(game(1, 1)).await.unwrap();
        sessions.push(client);
    }
    let changes = [
        json!({"outlier_detection": {"consecutive_failures": 2}}),
        json!({"connections": {"max": 10, "max_pending": 5, "connect_timeout": "1s", "keepalive": "60s"}}),
        json!({"health_check": {"interval": "200ms"}, "panic_threshold": 0}),
        json!({"health_check": {"interval": "200ms", "check": {"ping": {"message_id": 7}}}}),
        json!({"outlier_detection": no_outliers()}),
    ];
    for change in changes {
        serve(&stage, 3, &[service("pair", &endpoints, &change)]);
        for session in &mut sessions {
            let frame = Frame::to_world(1, 1, "still there?");
            assert_eq!(session.exchange(&frame).await.unwrap(), frame, "{change}");
        }
        // The cluster of the change counts from 0: four live sessions are not in the way of its first.
        assert!(lands(stage.players(), game(1, 1)).await.is_ok(), "{change}");
    }
}
