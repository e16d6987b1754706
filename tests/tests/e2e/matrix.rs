//! The matrix: every supported Envoy, by delta and by state of the world, goes through the same day with a real
//! control plane. A tap on the wire shows what either side said. Numbers are those of the conformance scripts.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use realmgate_tests::conformance::{Kind, Variant};
use realmgate_tests::stage::port;
use realmgate_tests::tap::Said;
use realmgate_tests::{Envoy, GameServer, Stage, Tap, TestNet, parts, wait_until};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cast::{LIMIT, game, lands, route, servers, until_lands};
use crate::live_sessions::play;

/// Where the tap is.
const TAP: u16 = 18_001;
/// Envoy waits 15 s for endpoints behind a cluster (8, 14).
const NO_STALL: Duration = Duration::from_secs(5);

/// A day in the life of an Envoy.
struct Day {
    version: Option<&'static str>,
    variant: Variant,
    /// A session that lasts all day.
    player: JoinHandle<u64>,
    stop: watch::Sender<bool>,
    stage: Stage,
    tap: Tap,
    servers: Vec<GameServer>,
    policy: Policy,
}

/// The policy's file, the module's file, and what the policy says: each world has a service of its own.
#[derive(Clone)]
struct Policy {
    file: PathBuf,
    module: PathBuf,
    /// Server and most connections, by world.
    worlds: BTreeMap<u16, (usize, u32)>,
    /// Ports by name.
    listeners: BTreeMap<&'static str, u16>,
}

impl Policy {
    fn text(&self, net: &TestNet, servers: &[GameServer]) -> String {
        let listeners: Vec<_> = self.listeners.iter().collect();
        let listeners = listeners.into_iter().map(|(name, port)| json!({"name": name, "bind": net.at(*port).to_string()}));
        let service = |(world, (server, max)): (&u16, &(usize, u32))| {
            let address = servers[*server].address().to_string();
            json!({"name": format!("world-{world}"), "endpoints": [address], "connections": {"max": max}})
        };
        let name = |world: &u16| format!("world-{world}");
        let routes = self.worlds.keys().map(|world| route(&name(world), &json!([world]), &name(world)));
        let (listeners, routes): (Vec<_>, Vec<_>) = (listeners.collect(), routes.collect());
        let services: Vec<_> = self.worlds.iter().map(service).collect();
        json!({"listeners": listeners, "services": services, "routes": routes}).to_string()
    }
}

impl Day {
    /// Clusters, endpoints, a listener and its filter reach the Envoy in this order, and frames their world.
    async fn begin(version: Option<&'static str>, variant: Variant) -> Self {
        let net = TestNet::new();
        let servers = servers(&net, 3, 0).await;
        let policy = Policy {
            file: net.dir().join("policy.json"),
            module: net.dir().join("filter.wasm"),
            worlds: BTreeMap::from([(1, (0, 100)), (2, (1, 100))]),
            listeners: BTreeMap::from([("edge", port::PLAYERS)]),
        };
        fs::copy(parts::FILTER.find().unwrap(), &policy.module).unwrap();
        // Envoy 1.37.0 crashes when the first listener that has the filter comes after its start.
        let early = version == Some("1.37");
        let first = if early { policy.text(&net, &servers) } else { "{}".to_owned() };
        fs::write(&policy.file, first).unwrap();
        let settings = json!({"filter": {"path": policy.module}, "policy": {"file": policy.file},
            "edge": {"health_listen": ""}});
        let control_plane = Stage::control_plane(&net, &settings).unwrap();
        let tap = Tap::start(net.at(TAP), control_plane.xds()).await.unwrap();

        let admin = net.at(port::ADMIN);
        let tapped = |text: String| text.replace(&format!("port_value: {}", port::XDS), &format!("port_value: {TAP}"));
        let mut bootstrap = tapped(control_plane.edge_bootstrap("edge-1", admin).unwrap());
        if variant == Variant::Sotw {
            bootstrap = bootstrap.replace("api_type: DELTA_GRPC", "api_type: GRPC");
        }
        let builder = Envoy::with(net.dir(), bootstrap, admin).name("edge");
        let edge = match version {
            Some(version) => builder.version(version).start().unwrap(),
            None => builder.start().unwrap(),
        };
        let stage = Stage { edge, control_plane, net };
        let players = stage.players();
        if !early {
            stage.control_plane.put_policy(&policy.text(&stage.net, &servers));
        }
        for (world, (server, _)) in &policy.worlds {
            until_lands(players, game(*world, 1), Some(servers[*server].name()), Instant::now()).await;
        }
        let (stop, stopped) = watch::channel(false);
        let player = tokio::spawn(play(players, 1, stopped));
        let day = Self { version, variant, player, stop, stage, tap, servers, policy };
        wait_until("it is synced", LIMIT, || day.proxy()["sync"] == "synced");
        day.heard("start", 0);
        day
    }

    fn proxy(&self) -> Value {
        let (_, body) = self.stage.control_plane.get("/v1/proxies");
        serde_json::from_str::<Value>(&body).unwrap()["proxies"][0].clone()
    }

    /// What was said since, printed.
    fn heard(&self, what: &str, mark: usize) -> Vec<Said> {
        let said = self.tap.since(mark);
        println!("== {} {:?}: {what}", self.version.unwrap_or("newest"), self.variant);
        for said in &said {
            println!("   {} {said}", said.stream);
        }
        said
    }
}

async fn day(version: Option<&'static str>, variant: Variant) {
    let day = Day::begin(version, variant).await;
    day.stop.send_replace(true);
    println!("{} frames", day.player.await.unwrap());
}

/// Both variants side by side, since half of the time is waiting.
fn on_version(version: Option<&'static str>) {
    let runtime = &Handle::current();
    thread::scope(|scope| {
        for variant in Variant::BOTH {
            scope.spawn(move || runtime.block_on(day(version, variant)));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_37() {
    on_version(Some("1.37"));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_38() {
    on_version(Some("1.38"));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_39() {
    on_version(Some("1.39"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_envoy() {
    on_version(None);
}
