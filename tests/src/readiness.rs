//! What an edge and its control plane say of readiness, and a day in which the way to the filter module is cut.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a harness exists to fail tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::cast::{LIMIT, game, lands, route, servers, services, until_lands};
use crate::http::Http;
use crate::stage::{crowd, port};
use crate::{ControlPlane, Envoy, GameServer, Stage, TestNet, modules, wait_until};

/// The way from edges to the API, which can be cut.
pub const WAY: u16 = 18_090;

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

/// A policy of one listener, `edge`, which sends everybody to the first of these.
pub fn policy(net: &TestNet, servers: &[GameServer]) -> String {
    let bind = net.at(port::PLAYERS).to_string();
    let listener = json!([{"name": "edge", "bind": bind, "limits": crowd(&json!({}))}]);
    let routes = [route("all", &json!("any"), "game-1")];
    json!({"listeners": listener, "services": services(servers), "routes": routes}).to_string()
}

/// The edge of this control plane, which may have nothing to serve with.
pub fn edge(net: &TestNet, control_plane: &ControlPlane, version: Option<&str>, more: &[&str]) -> Envoy {
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap_with("edge-1", admin, more).unwrap();
    let builder = Envoy::with(net.dir(), bootstrap, admin).name("edge");
    match version {
        Some(version) => builder.version(version).spawn().unwrap(),
        None => builder.spawn().unwrap(),
    }
}

/// The edge's own answer.
pub fn ready(net: &TestNet) -> (u16, String) {
    Http::new(net.at(port::HEALTH)).get("/ready").unwrap_or_default()
}

/// What the API answers, as JSON.
pub fn answer(control_plane: &ControlPlane, path: &str) -> Value {
    serde_json::from_str(&control_plane.get(path).1).unwrap()
}

/// The only proxy that is connected, as the API shows it.
pub fn proxy(control_plane: &ControlPlane) -> Value {
    answer(control_plane, "/v1/proxies")["proxies"].get(0).cloned().unwrap_or_default()
}

/// What is wrong with it.
pub fn reasons(control_plane: &ControlPlane) -> Vec<String> {
    let problems = proxy(control_plane)["problems"].take();
    let problems = problems.as_array().into_iter().flatten();
    problems.map(|problem| problem["reason"].as_str().unwrap().to_owned()).collect()
}

/// Waits until this is all that is wrong with it, and everybody says so.
pub fn until_only(control_plane: &ControlPlane, reason: &str) {
    wait_until(&format!("the only problem is {reason}"), LIMIT, || reasons(control_plane) == [reason]);
    let row = format!("realmgate_proxy_problems{{reason=\"{reason}\"}} 1");
    wait_until(&format!("{row} is in /metrics"), LIMIT, || control_plane.get("/metrics").1.contains(&row));
    wait_until(&format!("{reason} is in the table"), LIMIT, || {
        let table = control_plane.realmgate(&["proxies"]).unwrap();
        String::from_utf8(table.stdout).unwrap().contains(&format!("edge-1: {reason}: "))
    });
}

/// Waits until it is ready, and nothing is wrong with it.
pub fn until_well(net: &TestNet, control_plane: &ControlPlane) {
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
pub fn module_file(net: &TestNet) -> PathBuf {
    net.dir().join("filter.wasm")
}

/// Puts this there.
pub fn deploy(net: &TestNet, bytes: &[u8]) {
    modules::deploy(&module_file(net), bytes);
}

/// An edge whose way to the module is missing for `outage` when it starts, and when the module is replaced.
pub async fn heals(version: Option<&str>, outage: Duration) {
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
