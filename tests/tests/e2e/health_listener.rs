//! The edge's own HTTP listener, which load balancers and Prometheus ask.

use std::io;
use std::net::{IpAddr, SocketAddr};

use realmgate_tests::address::Address;
use realmgate_tests::http::Http;
use realmgate_tests::stage::port;
use realmgate_tests::{Envoy, GameClient, Stage, TestNet, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::cast::{LIMIT, game, route, servers, services};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_ready_while_it_has_routes_and_is_not_draining() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 1, 0).await;
    let edge = Http::new(stage.net.at(port::HEALTH));
    let status = |path: &str| edge.get(path).map_or(0, |(status, _)| status);
    let policy = |routes: serde_json::Value| {
        json!({"listeners": stage.listener(&json!({})), "services": services(&servers), "routes": routes})
            .to_string()
    };
    wait_until("the edge answers", LIMIT, || status("/health") == 200);
    assert_eq!(status("/ready"), 503, "ready without a route");

    stage.control_plane.put_policy(&policy(json!([route("all", &json!("any"), "game-1")])));
    wait_until("the edge is ready", LIMIT, || status("/ready") == 200);
    let (_, metrics) = edge.get("/metrics").unwrap();
    assert!(metrics.contains("\nenvoy_server_live"), "no Envoy statistics in /metrics");

    stage.edge.post("/healthcheck/fail");
    wait_until("a draining edge is not ready", LIMIT, || status("/ready") == 503);
    assert_eq!(status("/health"), 200);
    stage.edge.post("/healthcheck/ok");
    wait_until("the edge is ready again", LIMIT, || status("/ready") == 200);

    stage.control_plane.put_policy(&policy(json!([])));
    wait_until("without routes it is not ready", LIMIT, || status("/ready") == 503);
}

/// Players of the whole edge.
const MOST_PLAYERS: usize = 8;

/// Connections to the health listener.
const MOST_ASKERS: usize = 256;

async fn connect(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    socket.connect(to).await
}

/// The whole answer to a request, and the names in its head.
async fn ask(from: Option<IpAddr>, to: SocketAddr, path: &str) -> io::Result<(String, Vec<String>)> {
    let mut stream = connect(from, to).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let names = head.lines().skip(1).filter_map(|line| line.split(':').next()).map(str::to_owned).collect();
    Ok((answer, names))
}

/// Those of as many players at once as are let in.
async fn players(edge: SocketAddr) -> Vec<GameClient> {
    let mut playing = Vec::new();
    for _ in 0..MOST_PLAYERS + 3 {
        let Ok(mut player) = GameClient::connect(edge).await else { continue };
        if player.who_are_you(game(1, 1)).await.is_ok() {
            playing.push(player);
        }
    }
    playing
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_no_more_than_asked_for_and_is_reached_whoever_fills_the_edge() {
    let (net, scraper) = (TestNet::new(), Address::claim());
    let settings = json!({"edge": {"metrics_clients": scraper.ip().to_string()}});
    let control_plane = Stage::control_plane(&net, &settings).unwrap();
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap("edge-1", admin).unwrap();
    let bootstrap = bootstrap.replace("connections: 50000", &format!("connections: {MOST_PLAYERS}"));
    let edge = Envoy::with(net.dir(), bootstrap, admin).name("edge").start().unwrap();
    let stage = Stage { edge, control_plane, net };
    let servers = servers(&stage.net, 1, 0).await;
    let policy = json!({"listeners": stage.listener(&json!({})), "services": services(&servers),
        "routes": [route("all", &json!("any"), "game-1")]});
    stage.control_plane.put_policy(&policy.to_string());
    let health = stage.net.at(port::HEALTH);
    let http = Http::new(health);
    wait_until("the edge is ready", LIMIT, || http.get("/ready").is_ok_and(|(status, _)| status == 200));

    let told = ["content-length", "content-type", "date", "connection"];
    for (path, status) in [("/health", 200), ("/ready", 200), ("/metrics", 403), ("/stats", 404), ("/", 404)]
    {
        let (answer, names) = ask(None, health, path).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert!(names.iter().all(|name| told.contains(&name.as_str())), "{path}: {answer}");
    }
    stage.edge.post("/healthcheck/fail");
    let (answer, names) = ask(None, health, "/ready").await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && names.iter().all(|name| told.contains(&name.as_str())),
        "{answer}"
    );
    stage.edge.post("/healthcheck/ok");

    // Metrics for who may read them, the documented ones alone, and nothing else of the admin interface.
    let mut first = players(stage.players()).await;
    let (metrics, names) = ask(Some(scraper.ip()), health, "/metrics").await.unwrap();
    assert!(!names.iter().any(|name| name.starts_with("x-") || name == "server"), "{names:?}");
    for (wanted, is_there) in [
        ("\nenvoy_server_live", true),
        ("\nrealmgate_sessions_active", true),
        ("\nenvoy_listener_downstream_cx_active", true),
        ("\nenvoy_cluster_membership_healthy{envoy_cluster_name=\"game-1\"} 1", true),
        ("\nenvoy_cluster_upstream_cx_total{envoy_cluster_name=\"game-1\"}", true),
        ("\nenvoy_cluster_endpoint_healthy{", true),
        ("\nenvoy_cluster_update_duration", false),
        ("\nenvoy_cluster_version", false),
        ("\nenvoy_cluster_endpoint_rq_total", false),
    ] {
        assert_eq!(metrics.contains(wanted), is_there, "{wanted} in {metrics}");
    }
    for path in ["/metrics?filter=.*", "/metrics&filter=.*", "/metrics/", "/metrics?"] {
        let (answer, _) = ask(Some(scraper.ip()), health, path).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }

    // Players who fill the edge, and what asks meanwhile takes and gives back no place of theirs. The harness may have one.
    for _ in 0..3 {
        assert!((MOST_PLAYERS - 1..=MOST_PLAYERS).contains(&first.len()), "{}", first.len());
        for _ in 0..20 {
            assert_eq!(http.get("/health").unwrap().0, 200, "the health listener is out of reach");
        }
        assert_eq!(players(stage.players()).await.len(), 0);
        drop(first);
        let active = || stage.edge.stat("listener.edge.downstream_cx_active");
        wait_until("all have left", LIMIT, || active() == 0);
        first = players(stage.players()).await;
    }

    // Whoever says nothing, or not all of it, holds a place for seconds and not for ever.
    let mut silent = Vec::new();
    for n in 0..MOST_ASKERS {
        let mut stream = connect(None, health).await.unwrap();
        if n % 2 == 0 {
            let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost:").await;
        }
        silent.push(stream);
    }
    wait_until("all places are taken", LIMIT, || http.get("/health").is_err());
    wait_until("they are free again", LIMIT, || http.get("/health").is_ok_and(|(status, _)| status == 200));
    for mut stream in silent {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}
