//! Where players must not get: the admin interface of their edge, our own listeners, the metadata services of clouds. What a player
//! sends first is chosen by the player, and `GET /con` is a good header of a game.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use realmgate_tests::http::Http;
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{ControlPlane, Envoy, GameClient, Redis, Stage, TestNet, parts, wait_until};
use realmgate_wire::{ClientHeader, ServerId};
use serde_json::{Value, json};

use crate::cast::{LIMIT, servers};

const RULES: &str = "game-gateway:routing:rules";

/// What the attacker sends, and where its first 8 bytes want to go.
fn attack(request: &str) -> (Vec<u8>, ServerId) {
    let bytes = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes();
    let header = ClientHeader::from_bytes(*bytes.first_chunk().unwrap());
    (bytes, header.server_id)
}

/// Rules that send both requests to the first of these endpoints that serves, by nobody's choice but the player's.
fn rules(endpoints: &[String]) -> String {
    let types = ["GET /config_dump", "POST /quitquitquit"].map(|request| attack(request).1.server_type());
    let rule = |server_type: &u8| json!({"server_type": server_type, "service_name": "old", "strategy": "round_robin", "endpoints": endpoints});
    let rules: serde_json::Map<_, _> =
        types.iter().enumerate().map(|(n, server_type)| (n.to_string(), rule(server_type))).collect();
    Value::Object(rules).to_string()
}

fn readiness(control_plane: &ControlPlane) -> Value {
    serde_json::from_str(&control_plane.readyz().1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_and_no_policy_leads_a_player_to_what_is_ours() {
    let net = TestNet::new();
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    redis.set(RULES, "{}");
    let server = servers(&net, 1, 0).await.remove(0);
    let gateway = json!({"enabled": true, "framing": "client", "refresh_interval": "1s"});
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": gateway});
    let stage = Stage::start(net, &settings).unwrap();
    let net = &stage.net;
    let edge = Http::new(net.at(port::HEALTH));
    let ours = [port::ADMIN, port::XDS, port::API, port::HEALTH, port::GAME_GATEWAY];
    let mut endpoints: Vec<_> = ours.iter().map(|port| net.at(*port).to_string()).collect();
    endpoints.extend(["localhost:9901", "169.254.169.254:80", "[64:ff9b::a9fe:a9fe]:80"].map(str::to_owned));
    let refused = endpoints.len();
    endpoints.push(server.address().to_string());
    redis.set(RULES, &rules(&endpoints));
    wait_until("the edge is ready", LIMIT, || edge.get("/ready").is_ok_and(|(status, _)| status == 200));

    // It was ready with no rule, too.
    wait_until("the rules are at the edge", LIMIT, || {
        let before = server.total();
        let mut player = TcpStream::connect(stage.game_gateway()).unwrap();
        player.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        player.write_all(&attack("GET /config_dump").0).unwrap();
        // Closed where no rule is known yet, else answered by whoever is reached.
        let _ = player.read(&mut [0]);
        server.total() > before
    });

    // Everybody lands on the one endpoint that is a game server.
    for n in 0..8 {
        let (bytes, _) = attack(["GET /config_dump", "POST /quitquitquit"][n % 2]);
        let before = server.total();
        let mut player = GameClient::connect(stage.game_gateway()).await.unwrap();
        player.send_bytes(&bytes).await.unwrap();
        wait_until("it is the game server that is reached", LIMIT, || server.total() == before + 1);
    }
    assert!(edge.get("/health").is_ok(), "the edge has ended");
    let told_of = readiness(&stage.control_plane);
    let told = told_of["refused_endpoints"].as_array().unwrap();
    assert_eq!(told.len(), 2 * refused, "{told:#?}");
    assert_eq!(told_of["game_gateway"]["state"], "degraded");
    assert!(told.iter().all(|of| of["source"] == "game_gateway" && of["place"] != ""), "{told:#?}");
    let metrics = stage.control_plane.get("/metrics").1;
    for (reason, count) in [("own_listener", 12), ("link_local", 4), ("multicast", 0)] {
        let row =
            format!("realmgate_endpoints_refused{{reason=\"{reason}\",source=\"game_gateway\"}} {count}");
        assert!(metrics.contains(&row), "{row} is not in\n{metrics}");
    }

    // A policy with such is refused, with the place; one that is good is not.
    let policy = |endpoint: &str| {
        json!({"listeners": [{"name": "edge", "bind": stage.players().to_string(), "limits": crowd(&json!({}))}],
            "services": [{"name": "s", "endpoints": [server.address().to_string(), endpoint]}],
            "routes": [{"name": "r", "server_type": 1, "to": [{"service": "s"}]}]})
        .to_string()
    };
    let loops = stage.players().to_string();
    for endpoint in endpoints.iter().take(refused).chain([&loops, &"0.0.0.0:1".to_owned()]) {
        let (status, body) = stage.control_plane.put_policy_with("", &policy(endpoint));
        assert_eq!(status, 422, "{endpoint}: {body}");
        assert!(body.contains("services[0].endpoints[1]"), "{endpoint}: {body}");
    }
    stage.control_plane.put_policy(&policy("10.0.0.1:1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_interface_is_a_socket_that_its_user_alone_may_open() {
    let net = TestNet::new();
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let folder = net.dir().join("run");
    std::fs::create_dir(&folder).unwrap();
    let socket: PathBuf = folder.join("admin.sock");
    let more = ["--admin-socket", socket.to_str().unwrap()];
    let bootstrap = control_plane.printed_bootstrap("edge", "edge-1", &more).unwrap();
    // What an Envoy that was killed left there is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut edge = Envoy::with(net.dir(), bootstrap, socket.as_path()).name("edge").start().unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(TcpStream::connect(net.at(port::ADMIN)).is_err());
    assert!(edge.config_dump()["configs"].is_array());
    let health = Http::new(net.at(port::HEALTH));
    let metrics = || health.get("/metrics").map_or_else(|_| String::new(), |(_, body)| body);
    wait_until("its metrics come over the socket", LIMIT, || metrics().contains("\nenvoy_server_live"));

    let drain = |arguments: &[&str]| {
        let mut command = Command::new(parts::REALMGATE.find().unwrap());
        command.arg("drain").args(["--notice", "0", "--grace", "0"]).args(arguments).output().unwrap()
    };
    let drained = drain(&["--admin", socket.to_str().unwrap(), "--quit"]);
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    wait_until("the edge has ended", LIMIT, || edge.process().exit_status().is_some());
    let nobody = drain(&["--admin", socket.to_str().unwrap()]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("admin.sock/healthcheck/fail"), "{nobody:?}");
}
