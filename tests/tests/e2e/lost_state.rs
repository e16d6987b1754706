//! A control plane that lost what it knew takes nothing from its proxies, says so, and goes on once it is told again.

use std::fs;
use std::time::Instant;

use realmgate_tests::consul::{Config, Service};
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Consul, ControlPlane, Envoy, GameClient, Redis, Stage, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cast::{LIMIT, game, lands, route, servers, services, until_lands};
use crate::live_sessions::play;

fn answer(control_plane: &ControlPlane, path: &str) -> Value {
    serde_json::from_str(&control_plane.get(path).1).unwrap()
}

/// Waits until so many proxies keep what the control plane does not know.
fn until_held(control_plane: &ControlPlane, proxies: u64) {
    wait_until("what is not known is held", LIMIT, || {
        answer(control_plane, "/readyz")["held_proxies"] == proxies
    });
}

fn metric(control_plane: &ControlPlane, name: &str) -> Option<String> {
    let metrics = control_plane.get("/metrics").1;
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
}

/// An edge of this version, the newest unless it says so, in this variant.
fn edge(net: &TestNet, control_plane: &ControlPlane, version: Option<&str>, api_type: &str) -> Envoy {
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap("edge-1", admin).unwrap();
    let bootstrap = bootstrap.replace("api_type: DELTA_GRPC", &format!("api_type: {api_type}"));
    let edge = Envoy::with(net.dir(), bootstrap, admin).name("edge");
    match version {
        Some(version) => edge.version(version).start().unwrap(),
        None => edge.start().unwrap(),
    }
}

fn listener_updates(stage: &Stage) -> u64 {
    stage.edge.stat("listener_manager.lds.update_success")
}

async fn lost_data_dir(version: Option<&str>, api_type: &str) {
    let net = TestNet::new();
    let servers = servers(&net, 3, 0).await;
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let listener =
        json!([{"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&json!({}))}]);
    let policy = |to: &str| {
        let routes = [route("all", &json!("any"), to), route("one", &json!([7]), "game-2")];
        json!({"listeners": listener, "services": services(&servers), "routes": routes}).to_string()
    };
    control_plane.put_policy(&policy("game-1"));
    let edge = edge(&net, &control_plane, version, api_type);
    let mut stage = Stage { edge, control_plane, net };
    let edge = stage.players();
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(play(edge, 1, stopped));
    wait_until("the session is live", LIMIT, || servers[0].live() > 0);
    // It is told so last.
    let health = realmgate_tests::http::Http::new(stage.net.at(port::HEALTH));
    wait_until("the edge is ready", LIMIT, || health.get("/ready").is_ok_and(|(status, _)| status == 200));
    let before = listener_updates(&stage);

    stage.control_plane.kill9();
    fs::remove_dir_all(stage.net.dir().join("data")).unwrap();
    stage.control_plane.restart().unwrap();
    until_held(&stage.control_plane, 1);
    let ready = stage.control_plane.readyz();
    assert_eq!(ready.0, 200, "a policy can be put: {}", ready.1);
    let told = answer(&stage.control_plane, "/readyz");
    assert_eq!((&told["policy"]["state"], &told["policy"]["version"]), (&json!("never_put"), &json!(0)));
    let reason = told["policy"]["reason"].as_str().unwrap();
    assert!(reason.contains("/policy.redb: if one was put before, check data_dir"), "{reason}");
    assert_eq!(metric(&stage.control_plane, "realmgate_policy_never_put").as_deref(), Some("1"));
    assert_eq!(metric(&stage.control_plane, "realmgate_xds_held_proxies").as_deref(), Some("1"));
    let proxies = stage.control_plane.realmgate(&["proxies"]).unwrap();
    let proxies = String::from_utf8(proxies.stdout).unwrap();
    assert!(
        proxies.contains("edge-1 keeps ") && proxies.contains("realmgate policy apply FILE"),
        "{proxies}"
    );

    // Not before the drain of an emptied edge would have ended sessions is it sure; new players show it at once.
    for world in [1, 7, 900] {
        let server = if world == 7 { "game-2" } else { "game-1" };
        assert_eq!(lands(edge, game(world, 1)).await.unwrap(), server, "a new player of world {world}");
    }
    assert_eq!(health.get("/ready").unwrap().0, 200);
    assert_eq!(listener_updates(&stage), before, "no listener was touched");

    stage.control_plane.put_policy(&policy("game-3"));
    until_held(&stage.control_plane, 0);
    until_lands(edge, game(1, 1), Some("game-3"), Instant::now()).await;
    assert_eq!(metric(&stage.control_plane, "realmgate_policy_never_put").as_deref(), Some("0"));
    stop.send_replace(true);
    assert!(session.await.unwrap() > 0, "the session went on through all of it");

    // Who says that nothing is meant is believed.
    stage.control_plane.kill9();
    fs::remove_dir_all(stage.net.dir().join("data")).unwrap();
    stage.control_plane.restart().unwrap();
    until_held(&stage.control_plane, 1);
    let empty = stage.control_plane.realmgate(&["policy", "apply", "--empty"]).unwrap();
    assert!(empty.status.success(), "{empty:?}");
    until_held(&stage.control_plane, 0);
    wait_until("the edge's listener is gone", LIMIT, || std::net::TcpStream::connect(edge).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_keeps_all_that_a_lost_data_dir_held() {
    lost_data_dir(None, "DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_in_state_of_the_world_keeps_all_that_a_lost_data_dir_held() {
    lost_data_dir(None, "GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_of_older_envoys_keep_all_that_a_lost_data_dir_held() {
    for (version, api_type) in [("1.37", "DELTA_GRPC"), ("1.38", "GRPC"), ("1.39", "DELTA_GRPC")] {
        lost_data_dir(Some(version), api_type).await;
    }
}

const RULES: &str = "game-gateway:routing:rules";

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_rules_alone_needs_no_policy_and_a_lost_rules_key_takes_nothing() {
    let net = TestNet::new();
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    let servers = servers(&net, 2, 0).await;
    let rule = |world: u16, server: usize| {
        json!({"server_type": 200, "service_name": "fleet", "world_id": world, "strategy": "round_robin",
            "endpoints": [servers[server].address().to_string()]})
    };
    let write = |rules: &[Value]| {
        let rules: serde_json::Map<_, _> =
            (1..).map(|n: u32| n.to_string()).zip(rules.iter().cloned()).collect();
        redis.set(RULES, &Value::Object(rules).to_string());
        let start = Instant::now();
        redis.publish(&format!("{RULES}:notify"), "reload");
        start
    };
    write(&[rule(1, 0), rule(2, 0)]);
    let gateway = json!({"enabled": true, "refresh_interval": "200ms", "framing": "client"});
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": gateway});
    let mut stage = Stage::start(net, &settings).unwrap();
    let edge = stage.game_gateway();
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
    let mut live = GameClient::connect(edge).await.unwrap();
    assert_eq!(live.who_are_you(game(2, 1)).await.unwrap(), "game-1");
    assert_eq!(answer(&stage.control_plane, "/readyz")["policy"]["state"], "never_put");

    // A rule that goes while the control plane is away, and one that changes: nothing is held of a source that is heard.
    stage.control_plane.kill9();
    let start = write(&[rule(1, 1)]);
    stage.control_plane.restart().unwrap();
    until_lands(edge, game(1, 1), Some("game-2"), start).await;
    until_lands(edge, game(2, 1), None, start).await;
    assert_eq!(answer(&stage.control_plane, "/readyz")["held_proxies"], 0);

    // The key and what was kept of it are gone.
    stage.control_plane.kill9();
    redis.del(RULES);
    fs::remove_dir_all(stage.net.dir().join("data")).unwrap();
    stage.control_plane.restart().unwrap();
    until_held(&stage.control_plane, 1);
    assert_eq!(answer(&stage.control_plane, "/readyz")["game_gateway"]["never_there"], true);
    let missing = answer(&stage.control_plane, "/readyz")["game_gateway"]["missing"].take();
    assert!(missing.as_str().unwrap().contains("routing:rules"), "{missing}");
    assert_eq!(lands(edge, game(1, 1)).await.unwrap(), "game-2", "a new player");
    let start = write(&[rule(1, 0)]);
    until_lands(edge, game(1, 1), Some("game-1"), start).await;
    until_held(&stage.control_plane, 0);
    assert_eq!(live.who_are_you(game(2, 1)).await.unwrap(), "game-1", "the session went on");
}

#[test]
fn a_policy_file_that_says_nothing_or_takes_much_away_does_not_come_in_force() {
    let net = TestNet::new();
    let file = net.dir().join("policy.yaml");
    let write = |count: usize, more: &str| {
        let services = (0..count).map(|i| format!("{{name: s{i}, endpoints: ['127.0.0.1:1']}}"));
        fs::write(&file, format!("services: [{}]\n{more}", services.collect::<Vec<_>>().join(", "))).unwrap();
    };
    write(20, "");
    let mut control_plane = Stage::control_plane(&net, &json!({"policy": {"file": file}})).unwrap();
    let policy = |control_plane: &ControlPlane| answer(control_plane, "/readyz")["policy"].clone();
    assert_eq!(
        (policy(&control_plane)["services"].clone(), policy(&control_plane)["state"].clone()),
        (json!(20), json!("ok"))
    );

    write(3, "");
    control_plane.restart().unwrap();
    let held = policy(&control_plane);
    assert_eq!(
        (&held["services"], &held["state"], &held["version"]),
        (&json!(20), &json!("degraded"), &json!(1))
    );
    let reason = held["reason"].as_str().unwrap();
    assert!(reason.contains("policy.yaml is held back: it takes away 17 of 20 services"), "{reason}");
    let counted = "realmgate_policy_refusals_total{document=\"policy.file\",reason=\"mass_removal\"}";
    assert_eq!(metric(&control_plane, counted).as_deref(), Some("1"));
    let (_, confirmation) = reason.split_once("in the document with `").unwrap();
    write(3, confirmation.trim_end_matches('`'));
    control_plane.restart().unwrap();
    let confirmed = policy(&control_plane);
    assert_eq!(
        (&confirmed["services"], &confirmed["state"], &confirmed["version"]),
        (&json!(3), &json!("ok"), &json!(2))
    );

    // A ConfigMap that was not filled.
    control_plane.kill9();
    fs::write(&file, "\"\"\n").unwrap();
    let ended = control_plane.restart().unwrap_err().to_string();
    assert!(ended.contains("64") && ended.contains("empty: the document has no keys"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_never_listed_a_service_takes_no_endpoint_away() {
    let net = TestNet::new();
    let consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    let servers = servers(&net, 2, 0).await;
    let register =
        |n: usize| consul.register(&Service::new("battle", servers[n].name(), servers[n].address()));
    register(0);
    let mut control_plane = crate::consul::control_plane(&net, &consul);
    control_plane.put_policy(&crate::consul::policy(&net, &json!({"consul": {"service": "battle"}})));
    let _edge = Stage::edge(&net, &control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    until_lands(players, game(1, 1), Some("game-1"), Instant::now()).await;

    // What was kept of the catalog is lost, and Consul has lost it, too.
    control_plane.kill9();
    fs::remove_file(net.dir().join("data/consul.json")).unwrap();
    consul.deregister("game-1");
    control_plane.restart().unwrap();
    wait_until("the edge is back and in sync", LIMIT, || {
        let proxy = &answer(&control_plane, "/v1/proxies")["proxies"][0];
        proxy["sync"] == "synced" && proxy["types"].as_array().unwrap().iter().any(|of| of["kind"] == "ecds")
    });
    assert_eq!(lands(players, game(1, 1)).await.unwrap(), "game-1", "a new player");
    register(1);
    until_lands(players, game(1, 1), Some("game-2"), Instant::now()).await;
    // Of what was seen, nobody is left: that is news.
    consul.deregister("game-2");
    until_lands(players, game(1, 1), None, Instant::now()).await;
}
