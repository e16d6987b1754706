//! Control planes of one build or of two, and live proxies that move between them: a rolling upgrade, and the time in which
//! both builds run. Nothing of it may touch a listener, since that drains every session.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cast::{GAME, LIMIT, servers};
use crate::control_plane::merge_settings;
use crate::stage::{crowd, port};
use crate::{ControlPlane, Envoy, Frame, GameClient, TestNet, parts, wait_until};

const SESSIONS: u16 = 10;
const SWITCH: u16 = 18_500;
const INBOUND: u16 = 20_500;
const EDGE: u16 = port::ADMIN;
const SIDECAR: u16 = port::ADMIN + 1;
/// What tells of listeners in an Envoy's statistics.
const LISTENERS: &str = "listener_manager.";

/// A build of the control plane, and in what its settings differ.
#[derive(Clone, Debug)]
pub struct Replica<'a> {
    /// The program.
    pub build: &'a Path,
    /// Settings over those that all have.
    pub settings: Value,
}

/// Where proxies find a control plane, which another can take over.
struct Switch {
    to: watch::Sender<SocketAddr>,
    _running: JoinSet<()>,
}

impl Switch {
    async fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.expect("a port on an address of our own is free");
        let (to, target) = watch::channel(to);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut proxy, _)) = listener.accept().await {
                let mut target = target.clone();
                passing.spawn(async move {
                    let to = *target.borrow_and_update();
                    let Ok(mut control_plane) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut proxy, &mut control_plane) => {}
                        _ = target.changed() => {}
                    }
                });
            }
        });
        Self { to, _running: running }
    }
}

/// Plays through an edge and a sidecar while both move between the replicas, back and forth, their policy changes, and the
/// second takes the first one's place. Panics when a session ends, or when a listener is so much as sent again.
pub async fn moves_no_listener(version: Option<&str>, variant: &str, replicas: [Replica<'_>; 2]) {
    let net = TestNet::new();
    let server = servers(&net, 1, 0).await.remove(0);
    let policy = net.dir().join("policy.json");
    fs::write(&policy, policy_text(&net, "5s")).expect("the policy is written");
    let [old, new] = replicas;
    let first = start(&net, 0, old.build, &policy, &old.settings);
    let second = start(&net, 1, new.build, &policy, &new.settings);
    let switch = Switch::start(net.at(SWITCH), first.xds()).await;
    let app = server.address().to_string();
    let inbound = net.at(INBOUND).to_string();
    let proxy = |role: &str, admin: u16, more: &[&str]| {
        let admin = net.at(admin);
        let more = [&["--xds", variant], more].concat();
        let bootstrap = first.bootstrap(role, role, admin, &more).expect("a bootstrap");
        let xds = |port: u16| format!("port_value: {port}");
        let bootstrap = bootstrap.replace(&xds(first.xds().port()), &xds(SWITCH));
        let envoy = Envoy::with(net.dir(), bootstrap, admin).name(role);
        version.iter().fold(envoy, |envoy, version| envoy.version(version)).start().expect("the proxy starts")
    };
    let sidecar = proxy("sidecar", SIDECAR, &["--service", "api", "--inbound", &inbound, "--app", &app]);
    let edge = proxy("edge", EDGE, &[]);
    synced(&first);

    let (stop, stopped) = watch::channel(false);
    let mut sessions = JoinSet::new();
    for world in 1..=SESSIONS {
        sessions.spawn(play(net.at(port::PLAYERS), world, stopped.clone()));
    }
    wait_until("all sessions are live", LIMIT, || server.live() == usize::from(SESSIONS));
    let before = [&edge, &sidecar].map(listeners);
    let unmoved = |what: &str| {
        for (proxy, before) in [&edge, &sidecar].into_iter().zip(&before) {
            assert_eq!(listeners(proxy), *before, "{what}: the listeners of {}", proxy.admin());
        }
    };
    for (round, to) in [&second, &first, &second].into_iter().enumerate() {
        switch.to.send_replace(to.xds());
        synced(to);
        unmoved(&format!("move {round}"));
        for control_plane in [&first, &second] {
            control_plane.put_policy(&policy_text(&net, &format!("{}s", 6 + round)));
        }
        synced(to);
        unmoved(&format!("change {round}"));
    }
    // The second build in the first one's place, with what that left behind.
    let mut gone = first;
    gone.kill9();
    drop(gone);
    let upgraded = start(&net, 0, new.build, &policy, &old.settings);
    switch.to.send_replace(upgraded.xds());
    synced(&upgraded);
    unmoved("the upgrade");
    stop.send_replace(true);
    let frames = sessions.join_all().await;
    assert!(frames.iter().all(|&frames| frames > 10), "{frames:?}");
    assert_eq!(server.total(), u64::from(SESSIONS), "a session came anew");
}

fn start(net: &TestNet, number: u16, build: &Path, policy: &Path, settings: &Value) -> ControlPlane {
    let dir = net.dir().join(format!("replica-{number}"));
    let authority = |number: u16| net.dir().join(format!("replica-{number}/data/mesh-ca.json"));
    fs::create_dir_all(dir.join("data")).expect("a folder");
    if number > 0 {
        // One mesh has one authority.
        fs::copy(authority(0), authority(number)).expect("the authority is copied");
    }
    let mut all = json!({
        "filter": {"path": parts::FILTER.find().expect("the filter is built")},
        "policy": {"file": policy},
        "mesh": {"ca": "embedded"},
        "edge": {"health_listen": net.at(port::HEALTH).to_string()},
        "game_gateway": {"limits": crowd(&json!({}))},
    });
    merge_settings(&mut all, settings);
    let control_plane =
        ControlPlane::start_build(build, &dir, net.at(port::XDS + number), net.at(port::API + number), &all);
    let control_plane = control_plane.expect("the control plane starts");
    wait_until("the authority is kept", LIMIT, || authority(number).exists());
    control_plane
}

fn policy_text(net: &TestNet, header_timeout: &str) -> String {
    let limits = crowd(&json!({"header_timeout": header_timeout}));
    json!({
        "listeners": [
            {"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": limits},
            {"name": "lazy", "bind": net.at(7001).to_string(), "clusters": "on_demand", "proxy_protocol": true},
        ],
        "services": [{"name": "api", "endpoints": [net.at(INBOUND).to_string()], "tls": "mesh"}],
        "routes": [{"name": "all", "server_type": GAME, "worlds": "any", "to": [{"service": "api"}]}],
        "default_intention": "allow",
    })
    .to_string()
}

/// Waits until both proxies follow this control plane, and have what it wants.
fn synced(control_plane: &ControlPlane) {
    wait_until("both proxies are in sync", 2 * LIMIT, || {
        let status: Value = serde_json::from_str(&control_plane.get("/v1/proxies").1).unwrap_or_default();
        let proxies = status.get("proxies").and_then(Value::as_array).into_iter().flatten();
        let synced = proxies.filter(|proxy| proxy.get("sync").is_some_and(|sync| sync == "synced"));
        let ids: BTreeSet<_> = synced.filter_map(|proxy| proxy.get("id")?.as_str()).collect();
        ids == BTreeSet::from(["edge", "sidecar"])
    });
}

fn listeners(proxy: &Envoy) -> BTreeMap<String, u64> {
    let mut listeners = proxy.stats(LISTENERS);
    listeners.retain(|name, _| {
        // How often it was asked for, and when, is no matter.
        ["lds.update_success", "listener_", "total_listeners_"]
            .iter()
            .any(|told| name.strip_prefix(LISTENERS).is_some_and(|name| name.starts_with(told)))
    });
    assert_eq!(listeners.get("listener_manager.total_listeners_draining"), Some(&0), "{listeners:?}");
    listeners
}

async fn play(edge: SocketAddr, world: u16, stop: watch::Receiver<bool>) -> u64 {
    let mut client = GameClient::connect(edge).await.expect("the edge listens");
    let mut frames = 0_u64;
    while !*stop.borrow() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let frame = Frame::to_world(world, 1, frames.to_le_bytes().to_vec());
        let answer = client.exchange(&frame).await;
        assert_eq!(answer.as_ref().ok(), Some(&frame), "world {world}, frame {frames}: {answer:?}");
        frames += 1;
    }
    frames
}
