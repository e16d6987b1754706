//! Identities and intentions through real Envoys: edge, sidecar, game server, with certificates of the embedded
//! authority.

mod bounds;
mod checks;
mod closing;
mod lost;
mod naming;
mod oracle;
mod peers;
mod unexpected;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use realmgate_tests::stage::port;
use realmgate_tests::{ControlPlane, Envoy, GameClient, GameServer, Stage, Stopwatch, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use self::peers::{Authority, Peer};
use crate::cast::{LIMIT, game, lands, route, until_lands};
use crate::live_sessions::play;

/// Where the sidecar listens.
const INBOUND: u16 = 20_500;
const DOMAIN: &str = "realmgate.internal";

fn id(service: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/default/dc/dc1/svc/{service}")
}

/// A game server `game-1` behind a sidecar of the service `api`. Everything stops in the order of the fields.
struct Mesh {
    sidecar: Envoy,
    control_plane: ControlPlane,
    server: GameServer,
    net: TestNet,
}

impl Mesh {
    async fn start(settings: &Value) -> Self {
        Self::with(None, settings).await
    }

    /// One with a sidecar of another version than the newest.
    async fn with(version: Option<&str>, settings: &Value) -> Self {
        let net = TestNet::new();
        let mut all = json!({"mesh": {"ca": "embedded"}});
        realmgate_tests::control_plane::merge_settings(&mut all, settings);
        let control_plane = Stage::control_plane(&net, &all).unwrap();
        let server = GameServer::recording("game-1", net.at(port::GAME), 1).await.unwrap();
        let (inbound, app) = (net.at(INBOUND).to_string(), server.address().to_string());
        let admin = net.at(port::ADMIN + 1);
        let more = ["--service", "api", "--inbound", &inbound, "--app", &app];
        let mesh = policy(&net, &json!([]), "deny");
        control_plane.put_policy(&mesh);
        let bootstrap = control_plane.bootstrap("sidecar", "api-1", admin, &more).unwrap();
        let sidecar = Envoy::with(net.dir(), bootstrap, admin).name("sidecar").tells_at_once();
        let sidecar =
            version.iter().fold(sidecar, |sidecar, version| sidecar.version(version)).start().unwrap();
        Self { sidecar, control_plane, server, net }
    }

    fn inbound(&self) -> SocketAddr {
        self.net.at(INBOUND)
    }

    /// Makes these the intentions, and waits until the proxies have them.
    fn intend(&self, intentions: &Value, default: &str) {
        self.control_plane.put_policy(&policy(&self.net, intentions, default));
    }

    fn authority(&self) -> Authority {
        Authority::of(&self.net.dir().join("data"))
    }

    /// The lines that the sidecar logged, once one of them holds this.
    fn log(&self, words: &str) -> String {
        let read = || fs::read_to_string(self.net.dir().join("sidecar.log")).unwrap();
        let line = || read().lines().find(|line| line.contains(words)).map(str::to_owned);
        wait_until(&format!("the sidecar logs {words:?}"), LIMIT, || line().is_some());
        line().unwrap()
    }
}

fn policy(net: &TestNet, intentions: &Value, default: &str) -> String {
    json!({
        "listeners": [{"name": "edge", "bind": net.at(port::PLAYERS).to_string()}],
        "services": [{"name": "api", "endpoints": [net.at(INBOUND).to_string()], "tls": "mesh"}],
        "routes": [route("all", &json!("any"), "api")],
        "intentions": intentions,
        "default_intention": default,
    })
    .to_string()
}

fn intention(source: &str, destination: &str, action: &str) -> Value {
    json!({"source": source, "destination": destination, "action": action})
}

#[tokio::test(flavor = "multi_thread")]
async fn players_reach_a_sidecar_by_mutual_tls_and_only_while_intentions_let_their_edge_in() {
    let mesh = Mesh::start(&json!({})).await;
    let edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let players = mesh.net.at(port::PLAYERS);
    assert!(lands(players, game(1, 1)).await.is_err(), "denied");
    assert_eq!(mesh.server.total(), 0, "a denied edge reached the game server");
    let line = mesh.log(r#""source":"spiffe"#);
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["source"], &line["destination"]), (&json!(id("realmgate-edge")), &json!(id("api"))));
    assert!(line["authz"].as_str().unwrap().contains("rbac_access_denied"), "{line}");

    mesh.intend(&json!([intention("realmgate-edge", "api", "allow")]), "deny");
    assert_eq!(lands(players, game(1, 1)).await.unwrap(), "game-1");
    let line: Value = serde_json::from_str(&mesh.log(r#""server":"127"#)).unwrap();
    assert_eq!((&line["authz"], &line["source"]), (&json!(""), &json!(id("realmgate-edge"))));
    assert_eq!(mesh.sidecar.stat("connect_authz.rbac.allowed"), 1);
    assert_eq!(mesh.sidecar.stat("connect_authz.rbac.denied"), 1);

    // A session that is open goes on; new ones are refused within a second of the change.
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(play(players, 1, stopped));
    wait_until("the session has begun", LIMIT, || mesh.server.live() == 1);
    let total = mesh.server.total();
    let watch = Stopwatch::start();
    let (status, body) = mesh.control_plane.put_policy_with("", &policy(&mesh.net, &json!([]), "deny"));
    assert!((200..300).contains(&status), "{body}");
    until_lands(players, game(2, 1), None, watch.began()).await;
    let took = watch.undisturbed();
    assert!(took < Duration::from_secs(1), "new connections were let in for {took:?}");
    let reached = mesh.server.total();
    assert!(lands(players, game(2, 1)).await.is_err());
    assert_eq!(mesh.server.total(), reached, "a denied edge reached the game server");
    assert!(reached >= total);
    stop.send_replace(true);
    assert!(session.await.unwrap() > 0);

    // The server is who the edge wants, or nobody: another service of the same authority is not.
    let mut other: Value = serde_json::from_str(&policy(&mesh.net, &json!([]), "allow")).unwrap();
    let mut twin = other["services"][0].clone();
    twin["name"] = json!("shop");
    other["services"].as_array_mut().unwrap().push(twin);
    other["routes"] = json!([route("all", &json!("any"), "shop")]);
    mesh.control_plane.put_policy(&other.to_string());
    assert!(lands(players, game(1, 1)).await.is_err(), "api stood in for shop");
    wait_until("the edge refuses the certificate", LIMIT, || {
        edge.stat("cluster.shop.ssl.fail_verify_san") > 0
    });
    for file in ["realmgate.log", "sidecar.log", "edge.log"] {
        let log = fs::read_to_string(mesh.net.dir().join(file)).unwrap();
        assert!(!log.contains("PRIVATE KEY"), "{file} holds a key");
    }
    let status = mesh.control_plane.get("/v1/proxies").1;
    assert!(!status.contains("PRIVATE"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_is_what_consul_documents() {
    let mesh = Mesh::start(&json!({})).await;
    let authority = mesh.authority();
    let peers = ["web", "cron", "unsafe", "other"].map(|name| authority.peer(&id(name)));
    let foreign = [
        ("another trust domain", authority.peer("spiffe://99999999.consul/ns/default/dc/dc1/svc/web")),
        ("another authority", Authority::foreign().peer(&id("web"))),
        ("no service", authority.peer(&format!("spiffe://{DOMAIN}/gateway/mesh/dc/dc1"))),
        ("expired", authority.peer_until(&id("web"), SystemTime::now() - Duration::from_secs(5))),
        ("no certificate", Peer::nameless()),
        ("two services", authority.peer_of_many(&[&id("web"), &id("cron")])),
        ("a service and another id", authority.peer_of_many(&[&id("web"), "urn:x"])),
        ("another id and a service", authority.peer_of_many(&["urn:x", &id("web")])),
    ];
    let mut reached = 0_u64;
    for (intentions, default, outcome) in [
        (&[("web", "api", "allow"), ("*", "api", "deny"), ("web", "*", "deny")][..], "deny", "ADDD"),
        (&[("*", "*", "allow")], "deny", "AAAA"),
        (&[("*", "*", "deny")], "allow", "DDDD"),
        (&[("web", "api", "allow")], "deny", "ADDD"),
        (&[("web", "api", "deny")], "allow", "DAAA"),
        (&[("web", "api", "deny"), ("*", "api", "allow")], "deny", "DAAA"),
        (
            &[
                ("web", "api", "allow"),
                ("cron", "api", "allow"),
                ("*", "api", "allow"),
                ("unsafe", "api", "deny"),
            ],
            "deny",
            "AADA",
        ),
        (
            &[
                ("web", "api", "deny"),
                ("cron", "api", "deny"),
                ("*", "api", "deny"),
                ("unsafe", "api", "allow"),
            ],
            "allow",
            "DDAD",
        ),
        // Consul's own RBAC lets web in here, unlike its documentation and its `check`.
        (&[("*", "api", "deny"), ("web", "*", "allow")], "deny", "DDDD"),
    ] {
        let list: Value = intentions.iter().map(|(from, to, action)| intention(from, to, action)).collect();
        mesh.intend(&list, default);
        let mut came = String::new();
        for peer in &peers {
            came.push(if peer.is_let_in(mesh.inbound()).await { 'A' } else { 'D' });
        }
        assert_eq!(came, outcome, "{intentions:?}, default {default}");
        reached += outcome.matches('A').count() as u64;
        assert_eq!(mesh.server.total(), reached, "a denied peer reached the game server: {intentions:?}");
        for (what, peer) in &foreign {
            assert!(
                !peer.is_let_in(mesh.inbound()).await,
                "{what} is let in by {intentions:?}, default {default}"
            );
        }
    }
    // A denied peer that says nothing gets nothing, and the game server does not hear of it.
    mesh.intend(&json!([]), "deny");
    let mut silent = peers[0].connect(mesh.inbound()).await.unwrap();
    assert!(timeout(Duration::from_millis(200), silent.read(&mut [0; 1])).await.is_err(), "it was answered");
    drop(silent);
    assert_eq!(mesh.server.total(), reached);
    wait_until("foreign certificates are counted", LIMIT, || {
        mesh.sidecar.stat("listener.inbound.ssl.fail_verify_error") > 0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_ends_no_session_and_refuses_no_player() {
    let lifetimes = json!({"mesh": {"leaf_lifetime": "5s", "root_lifetime": "11s"}});
    let mesh = Mesh::start(&lifetimes).await;
    let _edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let players = mesh.net.at(port::PLAYERS);
    mesh.intend(&json!([intention("realmgate-edge", "api", "allow")]), "deny");
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(play(players, 1, stopped));
    let roots = || {
        let text = fs::read_to_string(mesh.net.dir().join("data/mesh-ca.json")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        document["roots"].as_array().unwrap().iter().map(|root| root["name"].clone()).collect::<Vec<_>>()
    };
    let first = roots()[0].clone();
    let (start, mut connected) = (Instant::now(), 0);
    while roots().contains(&first) {
        assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1", "after {:?}", start.elapsed());
        connected += 1;
        assert!(start.elapsed() < 2 * LIMIT, "the first root stays");
        // The pace of the players; as fast as they can they would only take the processor.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What the old root signed is of no use any more: all go by the new one.
    assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1");
    let mut client = GameClient::connect(players).await.unwrap();
    assert_eq!(client.who_are_you(game(3, 1)).await.unwrap(), "game-1");
    stop.send_replace(true);
    assert!(session.await.unwrap() > 0 && connected > 10);
}
