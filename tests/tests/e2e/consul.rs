//! The whole of it on a real Consul: its instances, its certificates, its intentions, its own proxies, two datacenters.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use realmgate_tests::consul::{Config, Health, Service, TwoDatacenters};
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{
    Consul, ControlPlane, Envoy, Frame, GameClient, GameServer, Stage, Stopwatch, TestNet, wait_until,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cast::{LIMIT, game, lands, route, servers, until_lands};
use crate::failover::until_all_land;
use crate::live_sessions::play;

/// What a change in Consul may take until it holds for players: its own time, and well under a second of ours.
const SOON: Duration = Duration::from_millis(700);

/// Where sidecars listen; further ones follow.
const INBOUND: u16 = 20_500;

/// Where Consul's proxy of a client listens for it.
const UPSTREAM: u16 = 20_600;

pub(crate) fn control_plane(net: &TestNet, consul: &Consul) -> ControlPlane {
    let settings = json!({"consul": {"address": consul.url()}, "mesh": {"ca": "consul"}});
    Stage::control_plane(net, &settings).unwrap()
}

/// Whether all that is taken from Consul is up to date.
fn is_ok(control_plane: &ControlPlane) -> bool {
    let ready: Value = serde_json::from_str(&control_plane.readyz().1).unwrap();
    ready["consul"]["state"] == "ok"
}

/// A policy of one service with all players, which is called otherwise here than in Consul.
pub(crate) fn policy(net: &TestNet, service: &Value) -> String {
    let mut all = json!({"name": "game"});
    realmgate_tests::control_plane::merge_settings(&mut all, service);
    let listener =
        json!({"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&json!({}))});
    let routes = [route("all", &json!("any"), "game")];
    json!({"listeners": [listener], "services": [all], "routes": routes}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn players_follow_what_consul_says_of_instances_and_stay_when_it_dies() {
    let net = TestNet::alone();
    let mut consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    let servers = servers(&net, 3, 0).await;
    let register = |n: usize| {
        consul.register(&Service::new("battle", servers[n].name(), servers[n].address()));
    };
    register(0);
    let control_plane = control_plane(&net, &consul);
    control_plane.put_policy(&policy(&net, &json!({"consul": {"service": "battle"}})));
    let _edge = Stage::edge(&net, &control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    until_all_land(players, "game-1").await;
    wait_until("it is ready", LIMIT, || is_ok(&control_plane));

    // Nobody is led to what answers for the machine's secrets, and everybody hears of it.
    consul.register(&Service::new("battle", "metadata", "169.254.169.254:80".parse().unwrap()));
    let is_told = || {
        let ready: Value = serde_json::from_str(&control_plane.readyz().1).unwrap();
        let refused = &ready["refused_endpoints"][0];
        let place = refused["place"].as_str().unwrap_or_default();
        ready["consul"]["state"] == "degraded"
            && place.starts_with("aws/battle metadata at ")
            && refused["reason"] == "link_local"
    };
    wait_until("it is told that one is left out", LIMIT, is_told);
    until_all_land(players, "game-1").await;
    consul.deregister("metadata");
    wait_until("nothing is left out", LIMIT, || is_ok(&control_plane));

    let start = Instant::now();
    register(1);
    let took = until_lands(players, game(1, 1), Some("game-2"), start).await;
    println!("a new instance got its first player after {took:?}");
    let watch = Stopwatch::start();
    consul.set_health("game-1", Health::Critical);
    until_all_land(players, "game-2").await;
    let took = watch.undisturbed();
    println!("an instance became critical: all players went to the other after {took:?}");
    assert!(took < SOON, "{took:?}");

    let mut session = GameClient::connect(players).await.unwrap();
    assert_eq!(session.who_are_you(game(1, 1)).await.unwrap(), "game-2");
    register(2);
    until_lands(players, game(1, 1), Some("game-3"), Instant::now()).await;
    consul.kill9();
    wait_until("that Consul is lost is told", LIMIT, || {
        let (status, body) = control_plane.readyz();
        status == 200 && body.contains("degraded") && body.contains("consul")
    });
    let mut seen = [0; 3];
    for _ in 0..20 {
        let on = lands(players, game(1, 1)).await.unwrap();
        seen[servers.iter().position(|server| server.name() == on).unwrap()] += 1;
    }
    assert!(seen[0] == 0 && seen[1] > 0 && seen[2] > 0, "{seen:?}");
    let frame = Frame::to_world(1, 1, "still here");
    assert_eq!(session.exchange(&frame).await.unwrap(), frame);
}

/// A game server `game-1` behind a sidecar of ours, registered in Consul as the instance `api-1` of `api`.
pub(crate) struct Mesh {
    sidecar: Envoy,
    control_plane: ControlPlane,
    server: GameServer,
    pub(crate) consul: Consul,
    net: TestNet,
}

impl Mesh {
    async fn start() -> Self {
        let net = TestNet::new();
        let consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
        Self::on(net, consul, &json!({})).await
    }

    /// The same with further settings of the control plane.
    pub(crate) async fn on(net: TestNet, consul: Consul, settings: &Value) -> Self {
        let server = GameServer::start("game-1", net.at(port::GAME)).await.unwrap();
        let inbound = net.at(INBOUND);
        consul.register(&Service::new("api", "api-1", server.address()));
        consul.register(&Service::sidecar("api", "api-1", inbound, server.address()));
        let mut all = json!({"consul": {"address": consul.url()}, "mesh": {"ca": "consul"}});
        realmgate_tests::control_plane::merge_settings(&mut all, settings);
        let control_plane = Stage::control_plane(&net, &all).unwrap();
        control_plane.put_policy(&policy(&net, &json!({"consul": {"service": "api"}, "tls": "mesh"})));
        let admin = net.at(port::ADMIN + 1);
        let (inbound, app) = (inbound.to_string(), server.address().to_string());
        let more = ["--service", "api", "--inbound", &inbound, "--app", &app];
        let bootstrap = control_plane.bootstrap("sidecar", "api-1", admin, &more).unwrap();
        let sidecar = Envoy::with(net.dir(), bootstrap, admin).name("sidecar").start().unwrap();
        Self { sidecar, control_plane, server, consul, net }
    }

    /// Where the sidecar listens.
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.net.at(INBOUND)
    }

    fn id(&self, service: &str) -> Value {
        json!(format!("spiffe://{}/ns/default/dc/aws/svc/{service}", self.consul.trust_domain()))
    }

    /// Waits until the sidecar has logged a connection of this service that was let in, or one that was not.
    fn wait_logged(&self, source: &str, is_let_in: bool) {
        let (source, destination) = (self.id(source), self.id("api"));
        let is_it = |line: Value| {
            let ids = line["source"] == source && line["destination"] == destination;
            ids && (line["authz"] == "") == is_let_in
        };
        let log = self.net.dir().join("sidecar.log");
        wait_until("the sidecar logs it", LIMIT, || {
            let text = fs::read_to_string(&log).unwrap();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).any(is_it)
        });
    }

    /// Denies or allows, which has to hold for connections to `at` within a second.
    async fn intend(&self, source: &str, action: &str, at: SocketAddr) {
        let watch = Stopwatch::start();
        self.consul.intention(source, "api", action);
        let expected = (action == "allow").then_some("game-1");
        until_lands(at, game(1, 1), expected, watch.began()).await;
        let took = watch.undisturbed();
        println!("{action} {source} holds after {took:?}");
        assert!(took < Duration::from_secs(1), "{action} {source} holds after {took:?}");
    }

    /// That nobody who comes to `at` is heard of by the game server.
    async fn assert_refused(&self, at: SocketAddr) {
        let before = self.server.total();
        for _ in 0..5 {
            assert!(lands(at, game(1, 1)).await.is_err());
        }
        assert_eq!(self.server.total(), before, "a denied peer reached the game server");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_and_a_sidecar_know_each_other_by_consuls_certificates_and_heed_its_intentions() {
    let mut mesh = Mesh::start().await;
    let _edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let players = mesh.net.at(port::PLAYERS);
    until_all_land(players, "game-1").await;
    mesh.wait_logged("realmgate-edge", true);

    let mut session = GameClient::connect(players).await.unwrap();
    assert_eq!(session.who_are_you(game(1, 1)).await.unwrap(), "game-1");
    mesh.intend("realmgate-edge", "deny", players).await;
    mesh.assert_refused(players).await;
    mesh.wait_logged("realmgate-edge", false);
    mesh.intend("realmgate-edge", "allow", players).await;

    // A control plane that starts while Consul is down has no certificates: it leaves those who have some alone.
    mesh.consul.kill9();
    mesh.control_plane.restart().unwrap();
    wait_until("both proxies are back", LIMIT, || {
        let proxies = mesh.control_plane.get("/v1/proxies").1;
        proxies.contains("api-1") && proxies.contains("edge-1")
    });
    assert_eq!(mesh.control_plane.readyz().0, 503, "it serves proxies without certificates");
    for _ in 0..20 {
        assert_eq!(lands(players, game(1, 1)).await.unwrap(), "game-1");
    }
    mesh.consul.restart().unwrap();
    // It takes all that is to tell of itself for critical, until it does.
    for id in ["api-1", "api-1-sidecar-proxy"] {
        mesh.consul.set_health(id, Health::Passing);
    }
    wait_until("it serves again", LIMIT, || is_ok(&mesh.control_plane));
    mesh.intend("realmgate-edge", "deny", players).await;
    mesh.intend("realmgate-edge", "allow", players).await;
    assert_eq!(session.who_are_you(game(1, 1)).await.unwrap(), "game-1");
    for file in ["realmgate.log", "sidecar.log", "edge.log"] {
        let log = fs::read_to_string(mesh.net.dir().join(file)).unwrap();
        assert!(!log.contains("PRIVATE KEY"), "{file} holds a key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_keeps_its_certificate_when_a_new_control_plane_is_denied_it() {
    let net = TestNet::new();
    let token = Some("5a2e3f5c-0000-4000-8000-000000000003".to_owned());
    let consul = Consul::start(net.dir(), Config { token, ..Config::new("aws") }).unwrap();
    let read = r#"agent_prefix "" { policy = "read" } node_prefix "" { policy = "read" }
        service_prefix "" { policy = "read" intentions = "read" }"#;
    let certificates = r#"service "realmgate-edge" { policy = "write" } service "api" { policy = "write" }"#;
    let [all, less] = [("all", format!("{read} {certificates}")), ("less", read.to_owned())]
        .map(|(name, rules)| consul.token(name, &rules));
    let file = net.dir().join("token");
    fs::write(&file, &all).unwrap();
    consul.intention("realmgate-edge", "api", "allow");
    let mut mesh = Mesh::on(net, consul, &json!({"consul": {"token_file": &file}})).await;
    let _edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let players = mesh.net.at(port::PLAYERS);
    until_all_land(players, "game-1").await;

    // Consul's agent gives a token what it has given it before.
    fs::write(&file, less).unwrap();
    mesh.control_plane.restart().unwrap();
    wait_until("it serves, and both proxies are back", LIMIT, || {
        let (proxies, (status, ready)) =
            (mesh.control_plane.get("/v1/proxies").1, mesh.control_plane.readyz());
        let are_back = proxies.contains("api-1") && proxies.contains("edge-1");
        are_back && status == 200 && ready.contains("leaf") && ready.contains("denies")
    });
    let proxies: Value = serde_json::from_str(&mesh.control_plane.get("/v1/proxies").1).unwrap();
    assert!(
        proxies["proxies"].as_array().unwrap().iter().all(|proxy| proxy["sync"] == "pending"),
        "{proxies}"
    );
    for _ in 0..20 {
        assert_eq!(lands(players, game(1, 1)).await.unwrap(), "game-1");
    }
    assert_eq!(mesh.sidecar.stat("listener_manager.listener_removed"), 0, "it was taken its listener");

    fs::write(&file, all).unwrap();
    wait_until("all is well", LIMIT, || {
        let ready: Value = serde_json::from_str(&mesh.control_plane.readyz().1).unwrap();
        ready["consul"]["state"] == "ok"
    });
    mesh.intend("realmgate-edge", "deny", players).await;
    mesh.assert_refused(players).await;
}

/// The serial numbers of the certificates that this Envoy shows.
fn shown(envoy: &Envoy) -> BTreeSet<String> {
    let certificates: Value = serde_json::from_str(&envoy.get("/certs")).unwrap();
    let chains = certificates["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["cert_chain"].as_array().unwrap());
    chains.flatten().map(|leaf| leaf["serial_number"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_of_consuls_ends_no_session_and_refuses_no_player() {
    let mesh = Mesh::start().await;
    let edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let players = mesh.net.at(port::PLAYERS);
    until_all_land(players, "game-1").await;
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(play(players, 1, stopped));
    let both = || [shown(&edge), shown(&mesh.sidecar)];
    let before = both();
    assert!(before.iter().all(|shown| !shown.is_empty()), "{before:?}");
    mesh.consul.rotate_root().unwrap();
    let start = Instant::now();
    // The agent takes up to 30 s to sign anew, and each proxy gets its own when that is done: all this time old and new
    // must be believed by everybody.
    while both().iter().zip(&before).any(|(now, before)| now.is_subset(before)) {
        assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1", "after {:?}", start.elapsed());
        assert!(start.elapsed() < 4 * LIMIT, "a certificate stays: {before:?}, {:?}", both());
        // The pace of the players; as fast as they can they would only take the processor.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("both show certificates of the new root after {:?}", start.elapsed());
    for _ in 0..20 {
        assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1");
    }
    stop.send_replace(true);
    assert!(session.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn consuls_own_proxy_is_a_peer_of_our_sidecar_and_of_our_edge() {
    let mesh = Mesh::start().await;
    let (net, consul) = (&mesh.net, &mesh.consul);
    // As a client: `web` comes to our sidecar by an upstream of its own.
    let (web, upstream) = (net.at(port::GAME + 1), net.at(UPSTREAM));
    consul.register(&Service::new("web", "web-1", web));
    let upstreams = json!({"Proxy": {"Upstreams": [{
        "DestinationName": "api",
        "LocalBindAddress": upstream.ip().to_string(),
        "LocalBindPort": upstream.port(),
    }]}});
    consul.register(&Service::sidecar("web", "web-1", net.at(INBOUND + 1), web).with(&upstreams));
    let _web = consul.connect_proxy("web-1").unwrap();
    until_lands(upstream, game(1, 1), Some("game-1"), Instant::now()).await;
    mesh.wait_logged("web", true);
    mesh.intend("web", "deny", upstream).await;
    mesh.assert_refused(upstream).await;
    mesh.wait_logged("web", false);
    mesh.intend("web", "allow", upstream).await;

    // As a server: `shop` is behind it, and our edge comes.
    let shop = GameServer::start("shop-1", net.at(port::GAME + 2)).await.unwrap();
    consul.register(&Service::new("shop", "shop-1", shop.address()));
    consul.register(&Service::sidecar("shop", "shop-1", net.at(INBOUND + 2), shop.address()));
    let _shop = consul.connect_proxy("shop-1").unwrap();
    mesh.control_plane.put_policy(&policy(net, &json!({"consul": {"service": "shop"}, "tls": "mesh"})));
    let _edge = Stage::edge(net, &mesh.control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    until_lands(players, game(1, 1), Some("shop-1"), Instant::now()).await;
    consul.intention("realmgate-edge", "shop", "deny");
    until_lands(players, game(1, 1), None, Instant::now()).await;
    consul.intention("realmgate-edge", "shop", "allow");
    until_lands(players, game(1, 1), Some("shop-1"), Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn players_go_to_the_other_datacenter_by_what_consul_says_and_come_back() {
    let net = TestNet::new();
    let both = TwoDatacenters::start(net.dir(), None).unwrap();
    let mut proxies = Vec::new();
    let mut servers = Vec::new();
    for (n, consul) in (0..).zip([&both.aws, &both.azure]) {
        let name = format!("{}-1", consul.datacenter());
        let server = GameServer::start(&name, net.at(port::GAME + n)).await.unwrap();
        consul.register(&Service::new("battle", &name, server.address()));
        consul.register(&Service::sidecar("battle", &name, net.at(INBOUND + n), server.address()));
        proxies.push(consul.connect_proxy(&name).unwrap());
        servers.push(server);
    }
    let control_plane = control_plane(&net, &both.aws);
    let failover = json!({"targets": [{"datacenter": "azure"}], "fail_back": {"after": "1s", "over": 0}});
    let service = json!({"consul": {"service": "battle"}, "tls": "mesh", "failover": failover});
    control_plane.put_policy(&policy(&net, &service));
    let edge = Stage::edge(&net, &control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    wait_until("both are well", LIMIT, || edge.stat("cluster.game.membership_healthy") == 2);
    // One that Consul did not think well of at first has to come back like any other.
    wait_until("both have all of their players", LIMIT, || {
        let metrics = control_plane.get("/metrics").1;
        let mut returning = metrics.lines().filter(|l| l.starts_with("realmgate_failover_target_returning{"));
        returning.all(|line| line.ends_with(" 0"))
    });
    until_all_land(players, "aws").await;
    // The server there proves to be of its own datacenter.
    let proxy = "aws-1-sidecar-proxy";
    let start = Instant::now();
    both.aws.set_health(proxy, Health::Critical);
    until_all_land(players, "azure").await;
    println!(
        "the only instance of aws became critical: all players went to azure after {:?}",
        start.elapsed()
    );
    let start = Instant::now();
    both.aws.set_health(proxy, Health::Passing);
    until_all_land(players, "aws").await;
    let took = start.elapsed();
    println!("it passes again: all players came back after {took:?} of 1 s");
    assert!(took > Duration::from_millis(900), "{took:?}");
}
