//! A line for every connection, whatever became of it, and every line is JSON with all the fields.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use realmgate_filter::config::Framing;
use realmgate_tests::address::Address;
use realmgate_tests::game_server::Conduct;
use realmgate_tests::stage::port;
use realmgate_tests::{ControlPlane, Envoy, Frame, GameClient, GameServer, Stage, TestNet, wait_until};
use serde_json::{Value, json};
use socket2::SockRef;

use crate::cast::{LIMIT, game, route, servers, services};

/// The fields that docs/access-log.md lists.
fn documented() -> Vec<String> {
    let text = include_str!("../../../docs/access-log.md");
    let (_, table) = text.split_once("|---|---|\n").unwrap();
    let rows = table.lines().map_while(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(field, _)| field.to_owned()).collect()
}

/// Those of them that Envoy writes, whatever the filter heard of the connection.
fn of_envoy() -> BTreeSet<String> {
    documented().into_iter().take_while(|field| field != "status").collect()
}

/// A line by the address of its client.
type Lines = HashMap<String, Value>;

fn lines(path: &std::path::Path) -> Lines {
    let text = fs::read_to_string(path).unwrap();
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let lines: Vec<Value> = text.lines().map(read).collect();
    let documented: BTreeSet<_> = documented().into_iter().collect();
    for line in &lines {
        let fields: BTreeSet<_> = line.as_object().unwrap().keys().cloned().collect();
        let is_unheard = line["envoy.close_reason"] == "over_connection_limit";
        assert_eq!(fields, if is_unheard { of_envoy() } else { documented.clone() }, "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(line["duration_ms"].is_u64() && line["network.io.receive"].is_u64(), "{line}");
    }
    let count = lines.len();
    let by_client = |line: Value| (line["client.address"].as_str().unwrap().to_owned(), line);
    let lines: Lines = lines.into_iter().map(by_client).collect();
    assert_eq!(lines.len(), count, "a client with two lines");
    lines
}

/// The connections of a run, by what becomes of them.
struct Run {
    clients: HashMap<&'static str, SocketAddr>,
    edge: SocketAddr,
}

impl Run {
    async fn connect(&mut self, name: &'static str) -> GameClient {
        let client = GameClient::connect(self.edge).await.unwrap();
        self.clients.insert(name, client.local_addr().unwrap());
        client
    }

    /// One that plays a frame in this world.
    async fn play(&mut self, name: &'static str, world: u16) -> GameClient {
        let mut client = self.connect(name).await;
        let frame = Frame::to_world(world, 7, "12345");
        assert_eq!(client.exchange(&frame).await.unwrap().body, frame.body);
        client
    }

    /// One that sends these bytes and is closed for it.
    async fn closed(&mut self, name: &'static str, bytes: &[u8]) {
        let mut client = self.connect(name).await;
        client.send_bytes(bytes).await.unwrap();
        client.read_until_closed().await.unwrap();
    }
}

/// An edge of this version, which has its policy from the beginning: 1.37 crashes when its first listener comes later.
fn edge(net: &TestNet, control_plane: &ControlPlane, version: Option<&str>) -> Envoy {
    let admin = net.at(port::ADMIN);
    let bootstrap = control_plane.edge_bootstrap_with("edge-1", admin, &["--datacenter", "aws%d"]).unwrap();
    let envoy = Envoy::with(net.dir(), bootstrap, admin).name("edge");
    let envoy = match version {
        Some(version) => envoy.version(version),
        None => envoy,
    };
    envoy.start().unwrap()
}

/// What every line says of its end; the newest Envoy has words of its own for some.
fn ends_are_told(lines: &Lines, run: &Run, newest: bool) {
    // Status, reason, and whether Envoy has words of its own for it.
    for (name, status, reason, detail) in [
        ("client", "ok", "client", None),
        ("traced", "ok", "client", None),
        ("server", "ok", "server", None),
        ("no_route", "refused", "no_route", Some("wasm_downstream_close")),
        ("header_timeout", "refused", "header_timeout", Some("wasm_downstream_close")),
        ("message_too_large", "refused", "message_too_large", Some("wasm_downstream_close")),
        ("connect_failed", "failed", "connect_failed", Some("tcp_initializion_failure")),
        ("client_gone", "gone", "client_gone", None),
        ("fault", "failed", "message_too_large", Some("wasm_downstream_close")),
        ("idle", "ok", "proxy", Some("tcp_session_idle_timeout")),
        ("drained", "ok", "proxy", Some("purging_socket")),
    ] {
        let line = &lines[&run.clients[name].to_string()];
        assert_eq!(line["status"], status, "{name}: {line}");
        assert_eq!(line["close_reason"], reason, "{name}: {line}");
        assert_eq!(line["error.message"] == "", status == "ok", "{name}: {line}");
        if let Some(detail) = detail.filter(|_| newest) {
            assert!(line["envoy.close_reason"].as_str().unwrap().starts_with(detail), "{name}: {line}");
        }
        assert_eq!((&line["listener"], &line["datacenter"]), (&json!("edge"), &json!("aws%d")));
        // A span id for each that was routed, with the framing or without.
        let named = !["refused", "gone"].contains(&status);
        for (field, digits) in [("trace_id", 32), ("span_id", 16)] {
            assert_eq!(line[field].as_str().unwrap().len(), if named { digits } else { 0 }, "{name}: {line}");
        }
        assert_eq!(line["session.id"] != "", named, "{name}: {line}");
    }
}

async fn every_end_has_a_line(version: Option<&str>) {
    let net = TestNet::new();
    let log = json!({"edge": {"access_log": net.dir().join("access.log")}});
    let control_plane = Stage::control_plane(&net, &log).unwrap();
    let plain = servers(&net, 1, 4).await.remove(0);
    let traced = GameServer::speaking(Framing::ServerTraced, "traced", net.at(port::GAME + 1), 4);
    let traced = traced.await.unwrap();
    let nobody = net.at(port::GAME + 2).to_string();
    let mut known = services(std::slice::from_ref(&plain));
    known.as_array_mut().unwrap().extend([
        json!({"name": "traced", "endpoints": [traced.address().to_string()], "framing": "server-traced"}),
        json!({"name": "nobody", "endpoints": [nobody]}),
    ]);
    let limits = json!({"header_timeout": "1s", "idle_timeout": "2s", "max_message_bytes": 1000});
    let listener = json!({"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": limits,
        "connect_attempts": 1});
    let routes = [
        route("first", &json!([1]), "game-1"),
        route("second", &json!([2]), "traced"),
        route("third", &json!([3]), "nobody"),
    ];
    let policy = json!({"listeners": [listener], "services": known, "routes": routes});
    control_plane.put_policy(&policy.to_string());
    let mut stage = Stage { edge: edge(&net, &control_plane, version), control_plane, net };

    let mut run = Run { clients: HashMap::new(), edge: stage.players() };
    drop(run.play("client", 1).await);
    drop(run.play("traced", 2).await);
    stage.wait_filter_stat("sessions_active", |active| active == 0);
    let kicked = run.play("server", 1).await;
    plain.set_conduct(Conduct::Close);
    kicked.read_until_closed().await.unwrap();
    plain.set_conduct(Conduct::Echo);
    let to = |world, size| Frame::to_world(world, 7, vec![b'"'; size]).to_bytes().unwrap();
    run.closed("no_route", &to(9, 3)).await;
    run.closed("header_timeout", b"\"\\\n\0\xff").await;
    run.closed("message_too_large", &to(1, 1001)).await;
    run.closed("connect_failed", &to(3, 3)).await;
    let mut gone = run.connect("client_gone").await;
    gone.send_bytes(b"123").await.unwrap();
    drop(gone);
    let mut large = run.play("fault", 2).await;
    large.send_bytes(&to(2, 1001)).await.unwrap();
    large.read_until_closed().await.unwrap();
    run.play("idle", 1).await.read_until_closed().await.unwrap();
    stage.wait_filter_stat("connections_client_gone_total", |gone| gone == 1);
    let _live = run.play("drained", 1).await;
    stage.edge.process().terminate();

    let lines = lines(&stage.net.dir().join("access.log"));
    let server = plain.address().to_string();
    ends_are_told(&lines, &run, version.is_none());
    let line = |name: &str| &lines[&run.clients[name].to_string()];
    let first = json!({"server.type": 200, "world.id": 1, "instance.id": line("client")["instance.id"],
        "route": "first", "cluster": "game-1", "server.address": server, "messages.to_server": null,
        "network.io.receive": 13, "network.io.send": 13});
    for (field, value) in first.as_object().unwrap() {
        assert_eq!(line("client")[field], *value, "{field}: {}", line("client"));
    }
    assert_eq!(line("no_route")["world.id"], 9);
    assert_eq!((&line("header_timeout")["world.id"], &line("no_route")["route"]), (&Value::Null, &json!("")));
    assert_eq!(line("connect_failed")["server.address"], nobody);
    let refused = line("connect_failed")["error.message"].as_str().unwrap();
    assert!(refused.contains("refused"), "{refused}");
    // Envoy takes the time once for all that an event loop does in a round.
    assert!(line("idle")["duration_ms"].as_u64().unwrap() >= 1900);

    let told = traced.connections()[0].session.unwrap();
    let trace = told.trace.unwrap();
    let line = line("traced");
    assert_eq!(line["session.id"], told.id.to_string());
    assert_eq!(line["trace_id"], format!("{:032x}", u128::from_be_bytes(trace.trace_id)));
    assert_eq!(line["span_id"], format!("{:016x}", u64::from_be_bytes(trace.span_id)));
    assert_eq!((&line["messages.to_server"], &line["messages.to_client"]), (&json!(1), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_has_a_line() {
    every_end_has_a_line(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_has_a_line_in_the_oldest_envoy() {
    every_end_has_a_line(Some("1.37")).await;
}

/// A listener whose servers all speak as clients do: what they send is not seen by the filter.
#[tokio::test(flavor = "multi_thread")]
async fn what_limits_refuse_has_a_line_and_a_server_that_ends_first_is_named() {
    let net = TestNet::new();
    let log = json!({"edge": {"access_log": net.dir().join("access.log")}});
    let control_plane = Stage::control_plane(&net, &log).unwrap();
    let server = servers(&net, 1, 0).await.remove(0);
    let [edge, rated] = [0, 1].map(|n| net.at(port::PLAYERS + n));
    let listener = |name: &str, bind: SocketAddr, limits: Value| json!({"name": name, "bind": bind.to_string(), "limits": limits});
    let listeners = [
        listener("edge", edge, json!({"connections": 3, "connections_per_ip": 2})),
        listener("rated", rated, json!({"new_connections_per_ip_per_second": 1})),
    ];
    let policy = json!({"listeners": listeners, "services": services(std::slice::from_ref(&server)),
        "routes": [route("all", &json!("any"), "game-1")]});
    control_plane.put_policy(&policy.to_string());
    let mut envoy = self::edge(&net, &control_plane, None);

    let [here, there] = [Address::claim(), Address::claim()];
    let mut clients = HashMap::new();
    let mut connect = async |name: &'static str, from: &Address, to| {
        let client = GameClient::connect_from(from.ip(), to).await.unwrap();
        clients.insert(name, client.local_addr().unwrap());
        client
    };
    let mut playing = Vec::new();
    for (name, from) in [("one", &here), ("two", &here), ("three", &there)] {
        let mut client = connect(name, from, edge).await;
        client.who_are_you(game(1, 1)).await.unwrap();
        playing.push(client);
        if playing.len() == 2 {
            connect("connections_per_ip", &here, edge).await.read_until_closed().await.unwrap();
        }
    }
    connect("connections", &there, edge).await.read_until_closed().await.unwrap();
    connect("first", &here, rated).await.who_are_you(game(1, 1)).await.unwrap();
    connect("new_connections_per_ip", &here, rated).await.read_until_closed().await.unwrap();
    let kicked = playing.remove(0);
    server.set_conduct(Conduct::Close);
    kicked.read_until_closed().await.unwrap();
    drop(playing);
    envoy.process().terminate();

    let lines = lines(&net.dir().join("access.log"));
    let line = |name: &str| &lines[&clients[name].to_string()];
    for limit in ["connections_per_ip", "new_connections_per_ip"] {
        let line = line(limit);
        assert_eq!((&line["status"], &line["close_reason"]), (&json!("refused"), &json!(limit)), "{line}");
    }
    let refused = line("connections");
    assert_eq!(refused.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>(), of_envoy());
    assert_eq!(line("one")["close_reason"], "server", "{}", line("one"));
    assert_eq!(line("first")["close_reason"], "client", "{}", line("first"));
}

/// Whole addresses stand in no line, also not in those that Envoy writes without the filter, and the step between the ways
/// to write them spares whoever plays.
#[tokio::test(flavor = "multi_thread")]
async fn client_addresses_are_written_as_the_policy_says() {
    let net = TestNet::new();
    let path = net.dir().join("access.log");
    let control_plane = Stage::control_plane(&net, &json!({"edge": {"access_log": path}})).unwrap();
    let server = servers(&net, 1, 0).await.remove(0);
    let to = net.at(port::PLAYERS);
    let put = |addresses: &str| {
        let listener = json!({"name": "edge", "bind": to.to_string(), "limits": {"connections": 2}});
        // Ours, by its name; all others write what nobody may read here.
        let privacy = json!({"client_addresses": "full", "datacenters": {"aws%d": addresses}});
        let policy = json!({"listeners": [listener], "services": services(std::slice::from_ref(&server)),
            "routes": [route("all", &json!("any"), "game-1")], "privacy": privacy});
        control_plane.put_policy(&policy.to_string());
    };
    put("truncated");
    let mut envoy = edge(&net, &control_plane, None);
    let client = Address::claim();
    let connect = async || GameClient::connect_from(client.ip(), to).await.unwrap();
    let mut stays = connect().await;
    stays.who_are_you(game(1, 1)).await.unwrap();
    put("hashed");
    for _ in 0..2 {
        let mut hashed = connect().await;
        hashed.who_are_you(game(1, 1)).await.unwrap();
        connect().await.read_until_closed().await.unwrap();
        drop(hashed);
        wait_until("it is counted no more", LIMIT, || {
            envoy.stat("connection_limit.edge.active_connections") == 1
        });
    }
    stays.who_are_you(game(1, 1)).await.expect("nobody was drained");
    envoy.process().terminate();

    let text = fs::read_to_string(&path).unwrap();
    let whole = [':', '"'].map(|end| format!("{}{end}", client.ip()));
    assert!(!whole.iter().any(|whole| text.contains(whole)), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut shown: Vec<_> =
        lines.iter().map(|line| line["client.address"].as_str().unwrap_or("none")).collect();
    shown.sort_unstable();
    let IpAddr::V4(ip) = client.ip() else { panic!("an IPv4 address") };
    let [a, b, c, _] = ip.octets();
    let is_hash = |shown: &str| shown.len() == 16 && shown.bytes().all(|digit| digit.is_ascii_hexdigit());
    let hash = *shown.iter().find(|shown| is_hash(shown)).unwrap_or_else(|| panic!("no hash: {text}"));
    let mut expected = [&format!("{a}.{b}.{c}.0/24"), hash, hash, "none", "none"];
    expected.sort_unstable();
    assert_eq!(shown, expected, "{text}");
}

/// Without a log the filter is not told of ends, and counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_ends_are_counted() {
    let stage = Stage::start(TestNet::new(), &json!({"edge": {"access_log": ""}})).unwrap();
    let server = servers(&stage.net, 1, 0).await.remove(0);
    let policy = json!({"listeners": stage.listener(&json!({})), "services": services(std::slice::from_ref(&server)),
        "routes": [route("all", &json!("any"), "game-1")]});
    stage.control_plane.put_policy(&policy.to_string());
    let mut client = GameClient::connect(stage.players()).await.unwrap();
    client.who_are_you(game(1, 1)).await.unwrap();
    stage.wait_filter_stat("sessions_active", |active| active == 1);
    drop(client);
    stage.wait_filter_stat("sessions_active", |active| active == 0);

    let [closes, resets] = [(); 2].map(|()| TcpStream::connect(stage.players()).unwrap());
    stage.wait_filter_stat("connections_awaiting_header", |waiting| waiting == 2);
    drop(closes);
    SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
    drop(resets);
    stage.wait_filter_stat("connections_client_gone_total", |gone| gone == 2);
    assert_eq!(stage.filter_stat("connections_awaiting_header"), 0);
    assert_eq!(stage.filter_stat("connections_routed_total"), 1);
}
