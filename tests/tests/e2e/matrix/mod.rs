//! The matrix: every supported Envoy, by delta and by state of the world, goes through the same day with a real
//! control plane. A tap on the wire shows what either side said. Numbers are those of the conformance scripts.

mod changes;
mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use realmgate_tests::conformance::{Kind, Variant};
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::tap::Said;
use realmgate_tests::{Envoy, GameServer, Stage, Tap, TestNet, modules, parts, wait_until};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cast::{LIMIT, game, route, servers, until_lands};
use crate::live_sessions::play;

/// Where the tap is.
const TAP: u16 = 18_001;
/// Where further listeners are.
const SECOND: u16 = 7001;
const THIRD: u16 = 7002;
const LAZY: u16 = 7004;
/// Envoy waits 15 s for endpoints behind a cluster (8, 14).
const NO_STALL: Duration = Duration::from_secs(12);

/// The responses, as `cds a b -c`.
fn told(said: &[Said]) -> Vec<String> {
    said.iter().filter(|said| !said.by_proxy).map(ToString::to_string).collect()
}

fn response(said: &Said, kind: Kind) -> bool {
    !said.by_proxy && said.kind == kind
}

#[track_caller]
fn position(said: &[Said], is: impl Fn(&Said) -> bool) -> usize {
    said.iter().position(is).expect("it was said")
}

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
    /// Whether Envoys ask for clusters as players come.
    on_demand: bool,
}

impl Policy {
    fn text(&self, net: &TestNet, servers: &[GameServer]) -> String {
        let clusters = if self.on_demand { "on_demand" } else { "eager" };
        let listener = |(name, port): (&&str, &u16)| {
            json!({"name": name, "bind": net.at(*port).to_string(), "clusters": clusters,
            "limits": crowd(&json!({}))})
        };
        let service = |(world, (server, max)): (&u16, &(usize, u32))| {
            let address = servers[*server].address().to_string();
            json!({"name": format!("world-{world}"), "endpoints": [address], "connections": {"max": max}})
        };
        let name = |world: &u16| format!("world-{world}");
        let routes = self.worlds.keys().map(|world| route(&name(world), &json!([world]), &name(world)));
        let routes: Vec<_> = routes.collect();
        let services: Vec<_> = self.worlds.iter().map(service).collect();
        let listeners: Vec<_> = self.listeners.iter().map(listener).collect();
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
            on_demand: false,
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
        let tapped =
            |text: String| text.replace(&format!("port_value: {}", port::XDS), &format!("port_value: {TAP}"));
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
        day.wait_sync("synced");
        let said = day.heard("start", 0);
        // (2), (22)
        let firsts =
            Kind::ALL.map(|kind| position(&said, |said| response(said, kind) && !said.names.is_empty()));
        assert!(firsts.is_sorted(), "{firsts:?}");
        let agent = day.proxy()["user_agent"].as_str().unwrap().to_owned();
        assert!(agent.starts_with(&format!("envoy {}", version.unwrap_or("1."))), "{agent}");
        day
    }

    fn proxy(&self) -> Value {
        let (_, body) = self.stage.control_plane.get("/v1/proxies");
        serde_json::from_str::<Value>(&body).unwrap()["proxies"][0].clone()
    }

    #[track_caller]
    /// A new module takes two looks at its file and, on every worker, a compilation.
    fn wait_sync(&self, state: &str) {
        wait_until(&format!("it is {state}"), 3 * LIMIT, || self.proxy()["sync"] == state);
    }

    /// Type, resource and words of what it refuses.
    fn rejections(&self) -> Vec<(String, String, String)> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let of = |of: Value| {
            list(&of["rejections"])
                .into_iter()
                .map(move |r| (text(&of["kind"]), text(&r["resource"]), text(&r["message"])))
        };
        list(&self.proxy()["types"]).into_iter().flat_map(of).collect()
    }

    /// Applies the policy, and gives what was said until it was in force.
    fn apply(&self, what: &str) -> Vec<Said> {
        let mark = self.tap.mark();
        self.stage.control_plane.put_policy(&self.policy.text(&self.stage.net, &self.servers));
        self.heard(what, mark)
    }

    /// Starts the control plane again, with the policy that is wanted now.
    fn restart(&mut self) {
        fs::write(&self.policy.file, self.policy.text(&self.stage.net, &self.servers)).unwrap();
        self.stage.control_plane.restart().unwrap();
    }

    /// Puts another filter module in the place of the one in force.
    fn deploy(&self, module: &[u8]) {
        modules::deploy(&self.policy.module, module);
    }

    /// Whether this was said since.
    fn was_said(&self, mark: usize, is: impl Fn(&Said) -> bool) -> bool {
        self.tap.since(mark).iter().any(is)
    }

    /// A new player of this world lands on this server.
    async fn reaches(&self, world: u16, server: usize) {
        until_lands(self.stage.players(), game(world, 1), Some(self.servers[server].name()), Instant::now())
            .await;
    }

    /// A response when this cluster changed.
    fn clusters(&self, changed: &str) -> String {
        let all = self.policy.worlds.keys().map(|world| format!("world-{world}"));
        self.whole(Kind::Cluster, changed, &all.collect::<Vec<_>>())
    }

    /// A response when this listener changed.
    fn listeners(&self, changed: &str) -> String {
        let all: Vec<_> = self.policy.listeners.keys().map(ToString::to_string).collect();
        self.whole(Kind::Listener, changed, &all)
    }

    fn whole(&self, kind: Kind, changed: &str, all: &[String]) -> String {
        match self.variant {
            Variant::Delta => format!("{kind} {changed}"),
            Variant::Sotw => format!("{kind} {}", all.join(" ")),
        }
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

impl Day {
    /// Nothing was ever said that must not be, and the player lost no frame.
    async fn end(mut self, begun: Instant) {
        self.stop.send_replace(true);
        let frames = (&mut self.player).await.unwrap();
        assert!(frames > 10);
        changes::clusters_come_on_demand(&mut self).await;
        let said = self.tap.since(0);
        let mut nonces = BTreeSet::new();
        for said in said.iter().filter(|said| !said.by_proxy) {
            assert!(said.kind != Kind::Extension || said.removed.is_empty(), "(16) {said}");
            assert!(nonces.insert((said.stream, said.kind, said.nonce.clone())), "(3) {said}");
            let names: BTreeSet<_> = said.names.iter().chain(&said.removed).collect();
            assert_eq!(names.len(), said.names.len() + said.removed.len(), "(20) {said}");
        }
        let agent = self.proxy()["user_agent"].as_str().unwrap().to_owned();
        println!(
            "{agent}, {:?}: {frames} frames of a session, {} messages, {:?}",
            self.variant,
            said.len(),
            begun.elapsed()
        );
    }
}

async fn day(version: Option<&'static str>, variant: Variant) {
    let begun = Instant::now();
    let mut day = Day::begin(version, variant).await;
    changes::all(&mut day).await;
    faults::all(&mut day).await;
    day.end(begun).await;
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
