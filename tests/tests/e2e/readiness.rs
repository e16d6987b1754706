//! Readiness tells the truth: what an edge answers at `/ready`, and what the control plane says of it and of itself.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use realmgate_tests::http::Http;
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{ControlPlane, Envoy, GameServer, Stage, TestNet, modules, parts, wait_until};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::cast::{LIMIT, game, lands, route, servers, services, until_lands};

/// The way from edges to the API, which can be cut.
const WAY: u16 = 18_090;

/// A relay that is there or not.
struct Way {
    at: SocketAddr,
    to: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Way {
    fn new(at: SocketAddr, to: SocketAddr) -> Self {
        Self { at, to, open: None }
    }

    async fn open(&mut self) {
        let (listener, to) = (TcpListener::bind(self.at).await.unwrap(), self.to);
        self.open = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut server = TcpStream::connect(to).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        }));
    }

    async fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            let _ = open.await;
        }
    }
}

fn policy(net: &TestNet, servers: &[GameServer]) -> String {
    let bind = net.at(port::PLAYERS).to_string();
    let listener = json!([{"name": "edge", "bind": bind, "limits": crowd(&json!({}))}]);
    let routes = [route("all", &json!("any"), "game-1")];
    json!({"listeners": listener, "services": services(servers), "routes": routes}).to_string()
}

fn edge(net: &TestNet, control_plane: &ControlPlane, version: Option<&str>, more: &[&str]) -> Envoy {
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap_with("edge-1", admin, more).unwrap();
    let builder = Envoy::with(net.dir(), bootstrap, admin).name("edge");
    match version {
        Some(version) => builder.version(version).spawn().unwrap(),
        None => builder.spawn().unwrap(),
    }
}

/// The edge's own answer.
fn ready(net: &TestNet) -> (u16, String) {
    Http::new(net.at(port::HEALTH)).get("/ready").unwrap_or_default()
}

fn answer(control_plane: &ControlPlane, path: &str) -> Value {
    serde_json::from_str(&control_plane.get(path).1).unwrap()
}

/// The only proxy that is connected, as the API shows it.
fn proxy(control_plane: &ControlPlane) -> Value {
    answer(control_plane, "/v1/proxies")["proxies"].get(0).cloned().unwrap_or_default()
}

/// What is wrong with it.
fn reasons(control_plane: &ControlPlane) -> Vec<String> {
    let problems = proxy(control_plane)["problems"].take();
    let problems = problems.as_array().into_iter().flatten();
    problems.map(|problem| problem["reason"].as_str().unwrap().to_owned()).collect()
}

/// Waits until this is all that is wrong with it, and everybody says so.
fn until_only(control_plane: &ControlPlane, reason: &str) {
    wait_until(&format!("the only problem is {reason}"), LIMIT, || reasons(control_plane) == [reason]);
    let (_, metrics) = control_plane.get("/metrics");
    let row = format!("realmgate_proxy_problems{{reason=\"{reason}\"}} 1");
    assert!(metrics.contains(&row), "{row} is not in /metrics");
    let table = control_plane.realmgate(&["proxies"]).unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains(&format!("edge-1: {reason}: ")), "{table}");
}

fn until_well(net: &TestNet, control_plane: &ControlPlane) {
    wait_until("the edge is ready", LIMIT, || ready(net).0 == 200);
    wait_until("nothing is wrong with it", LIMIT, || {
        let proxy = proxy(control_plane);
        proxy["sync"] == "synced" && proxy["problems"] == json!([])
    });
    let module = answer(control_plane, "/readyz")["filter_module"]["sha256"].take();
    assert_eq!(proxy(control_plane)["module_sha256"], module);
    assert_ne!(module, "");
}

/// A filter module of the test's own, at `filter.path`.
fn module_file(net: &TestNet) -> PathBuf {
    net.dir().join("filter.wasm")
}

fn deploy(net: &TestNet, bytes: &[u8]) {
    modules::deploy(&module_file(net), bytes);
}

/// An edge whose way to the module is missing for `outage` when it starts, and when the module is replaced.
pub(crate) async fn heals(version: Option<&str>, outage: Duration) {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    deploy(&net, &modules::good());
    let filter = json!({"path": module_file(&net), "delivery": "http", "advertise": net.at(WAY).to_string()});
    let control_plane = Stage::control_plane(&net, &json!({"filter": filter})).unwrap();
    control_plane.put_policy(&policy(&net, &servers));
    let mut way = Way::new(net.at(WAY), net.at(port::API));
    let _edge = edge(&net, &control_plane, version, &[]);
    let start = Instant::now();
    wait_until("the edge says so", LIMIT, || ready(&net) == (503, "no_filter\n".to_owned()));
    let waits = |reasons: Vec<String>| reasons == ["filter_fetching"] || reasons == ["filter_rejected"];
    wait_until("and so does the control plane", LIMIT, || waits(reasons(&control_plane)));
    tokio::time::sleep(outage.saturating_sub(start.elapsed())).await;
    assert_eq!(ready(&net).0, 503);
    assert!(lands(net.at(port::PLAYERS), game(1, 1)).await.is_err());
    assert_eq!(proxy(&control_plane)["module_sha256"], "");

    way.open().await;
    let start = Instant::now();
    until_lands(net.at(port::PLAYERS), game(1, 1), Some("game-1"), start).await;
    println!("{version:?}: healed {:?} after an outage of {outage:?}", start.elapsed());
    until_well(&net, &control_plane);

    // The edge serves on with the module that it has.
    way.cut().await;
    let before = proxy(&control_plane)["module_sha256"].take();
    deploy(&net, &modules::next());
    wait_until("it waits for the new module", LIMIT, || waits_or_is_stale(&reasons(&control_plane)));
    tokio::time::sleep(outage).await;
    assert!(waits_or_is_stale(&reasons(&control_plane)), "{}", proxy(&control_plane));
    assert_eq!((ready(&net).0, proxy(&control_plane)["module_sha256"].take()), (200, before));
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
    way.open().await;
    until_well(&net, &control_plane);
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
}

fn waits_or_is_stale(reasons: &[String]) -> bool {
    reasons == ["filter_fetching"] || reasons == ["filter_rejected", "stale_module"]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_envoy_fetches_its_filter_when_the_way_returns() {
    heals(None, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_envoy_fetches_its_filter_when_the_way_returns() {
    heals(Some("1.37"), Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_module_that_is_put_right_heals_edges() {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    let bad = net.at(WAY).to_string();
    let settings = json!({"filter": {"delivery": "http", "advertise": bad}});
    let mut control_plane = Stage::control_plane(&net, &settings).unwrap();
    control_plane.put_policy(&policy(&net, &servers));
    let _edge = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "filter_rejected");
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()));

    let config = net.dir().join("realmgate.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&bad, &net.at(port::API).to_string())).unwrap();
    control_plane.restart().unwrap();
    until_well(&net, &control_plane);
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_module_nobody_is_ready_and_the_last_good_one_outlives_a_bad_one() {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    deploy(&net, b"no module");
    let settings = json!({"filter": {"path": module_file(&net)}});
    let mut control_plane = Stage::control_plane(&net, &settings).unwrap();
    let (status, body) = control_plane.readyz();
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &said["reasons"]), (503, &json!(["filter_module"])), "{body}");
    assert_eq!(
        (&said["filter_module"]["state"], &said["filter_module"]["reason"]),
        (&json!("missing"), &json!("not_wasm"))
    );
    control_plane.put_policy(&policy(&net, &servers));
    let mut envoy = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "no_filter_module");
    // Envoy waits 15 s for filters that nobody tells it of before it opens any listener.
    wait_until("the edge says so", LIMIT * 3, || ready(&net) == (503, "no_filter\n".to_owned()));

    // Where only this machine lacks the file edges are told its path, and say whether they have it.
    fs::remove_file(module_file(&net)).unwrap();
    until_only(&control_plane, "filter_missing");
    assert_eq!((ready(&net).0, control_plane.readyz().0), (503, 503));
    deploy(&net, &modules::good());
    // Edges may find it before the control plane does.
    wait_until("the control plane is ready", LIMIT, || control_plane.readyz().0 == 200);
    until_well(&net, &control_plane);

    deploy(&net, &modules::good()[..5_000]);
    let state = |control_plane: &ControlPlane| answer(control_plane, "/readyz")["filter_module"].take();
    wait_until("it is refused", LIMIT, || state(&control_plane)["reason"] == "malformed");
    for _ in 0..2 {
        assert_eq!(
            (state(&control_plane)["state"].take(), control_plane.readyz().0),
            (json!("degraded"), 200)
        );
        let (_, metrics) = control_plane.get("/metrics");
        assert!(metrics.contains("realmgate_filter_module_up 0"));
        assert!(metrics.contains("realmgate_filter_module_refusals_total{reason=\"malformed\"} 1"));
        until_well(&net, &control_plane);
        control_plane.restart().unwrap();
    }
    // An edge that starts now finds what is there, and is not ready.
    envoy.process().terminate();
    let _edge = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "filter_rejected");
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()));
    deploy(&net, &modules::good());
    until_well(&net, &control_plane);
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_a_new_filter_is_ready_while_it_has_an_earlier_one() {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    deploy(&net, &modules::good());
    let settings = json!({"filter": {"path": module_file(&net)}});
    let mut control_plane = Stage::control_plane(&net, &settings).unwrap();
    control_plane.put_policy(&policy(&net, &servers));
    let mut envoy = edge(&net, &control_plane, None, &[]);
    until_well(&net, &control_plane);
    let good = proxy(&control_plane)["module_sha256"].take();

    deploy(&net, &modules::refusing());
    let rejects =
        |control_plane: &ControlPlane| reasons(control_plane) == ["filter_rejected", "stale_module"];
    wait_until("it refuses, and is stale", LIMIT, || rejects(&control_plane));
    assert_eq!((ready(&net).0, &proxy(&control_plane)["module_sha256"]), (200, &good));
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
    // Envoy acknowledges what it has just refused, if it is the very same.
    control_plane.restart().unwrap();
    wait_until("it is back and refuses", LIMIT, || reasons(&control_plane) == ["filter_rejected"]);
    assert_eq!((ready(&net).0, proxy(&control_plane)["sync"].take()), (200, json!("rejecting")));

    envoy.process().terminate();
    let mut envoy = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "filter_rejected");
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()));
    control_plane.kill9();
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()), "without a control plane it is what it was");
    control_plane.restart().unwrap();
    deploy(&net, &modules::next());
    until_well(&net, &control_plane);
    control_plane.kill9();
    assert_eq!(ready(&net).0, 200);

    envoy.process().terminate();
    control_plane.restart().unwrap();
    let _edge = edge(&net, &control_plane, None, &["--listener", "gone"]);
    until_only(&control_plane, "no_listener");
    wait_until("the edge says so", LIMIT, || ready(&net) == (503, "no_listener\n".to_owned()));
}

#[test]
fn the_module_is_found_wherever_the_program_is_started() {
    let net = TestNet::new();
    // It starts in a folder below which there is no module.
    let control_plane = Stage::control_plane(&net, &json!({"filter": {"path": ""}})).unwrap();
    let module = answer(&control_plane, "/readyz")["filter_module"].take();
    assert_eq!(module["state"], "ok", "{module}");
    assert_eq!(
        PathBuf::from(module["path"].as_str().unwrap()),
        parts::FILTER.find().unwrap().canonicalize().unwrap()
    );
}
