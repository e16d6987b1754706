//! The load tool for a second in each mode, through a real edge to game servers of both framings.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use realmgate_filter::config::Framing;
use realmgate_tests::game_server::Conduct;
use realmgate_tests::load::{self, Identity, Mode, Plan, Servers};
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Stage, TestNet, wait_until};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::cast::{LIMIT, game, route, servers, until_lands};

/// World 3 is served in the gateway's framing.
const WORLDS: [(u16, Framing); 3] = [(1, Framing::Client), (2, Framing::Client), (3, Framing::Server)];

fn begin(to: SocketAddr, arguments: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_realmgate-load"));
    command.args(arguments.split(' ')).args(["--to", &to.to_string()]);
    command.args(["--for", "1", "--players", "20", "--worlds", "1-3", "--json", "--quiet"]);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_of_the_load_tool_loads_and_measures() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let mut servers = Vec::new();
    let (mut services, mut routes) = (Vec::new(), Vec::new());
    for (world, framing) in WORLDS {
        let (at, name) = (stage.net.at(port::GAME + world), format!("game-{world}"));
        servers.push(Servers::start(&[(at, Identity { world, instance: 1 })], framing).unwrap());
        services.push(json!({"name": name, "endpoints": [at.to_string()], "framing": framing}));
        routes.push(route(&name, &json!([world]), &name));
    }
    let narrow = stage.net.at(port::PLAYERS + 1);
    let mut listeners = stage.listener(&json!({}));
    let one = json!({"name": "narrow", "bind": narrow.to_string(), "limits": crowd(&json!({"connections_per_ip": 1}))});
    listeners.as_array_mut().unwrap().push(one);
    let policy = json!({"listeners": listeners, "services": services, "routes": routes});
    stage.control_plane.put_policy(&policy.to_string());
    until_lands(stage.players(), game(3, 1), Some("3/1"), std::time::Instant::now()).await;

    let runs = [
        "echo --who",
        "echo --rate 500 --threads 2",
        "pipelined --size 200",
        "connect --source 127.0.0.1",
        "idle",
        "mixed",
        "slow --size 16 --gap 0.02",
        "garbage",
        "knock",
    ];
    let to = |arguments| if arguments == "knock" { narrow } else { stage.players() };
    let children = runs.map(|arguments| (arguments, begin(to(arguments), arguments)));
    for (arguments, child) in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let result: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments}: {e}: {text}"));
        assert!(output.status.success() && result["errors"] == json!({}), "{arguments}: {text}");
        let count = |key: &str| result[key].as_u64().unwrap();
        match arguments.split(' ').next().unwrap() {
            "echo" if result["rate"].is_null() => {
                // 20 players take the worlds in turn.
                assert_eq!(result["answered_by"], json!({"1/1": 7, "2/1": 7, "3/1": 6}));
                assert!(count("messages") > 20 && count("connections") == 0, "{text}");
                assert!(result["latency_us"]["p50"].as_f64().unwrap() > 1.0, "{text}");
            }
            "echo" => assert!((200..=501).contains(&count("messages")), "what was due: {text}"),
            "pipelined" => assert!(count("messages") > 100, "{text}"),
            "connect" => {
                assert!(count("connections") > 10 && count("messages") == count("connections"), "{text}");
            }
            "idle" => assert_eq!(result["latency_us"]["count"], 20, "the last message of each: {text}"),
            "mixed" => assert_eq!(result["answered_by"].as_object().unwrap().len(), 3, "{text}"),
            "slow" => assert!(result["ends"]["answered"].as_u64().unwrap() >= 20, "{text}"),
            "knock" => {
                assert!(result["ends"]["closed"].as_u64().unwrap() >= 20, "all but the first: {text}");
            }
            _ => assert!(!result["ends"].as_object().unwrap().is_empty() && count("messages") > 0, "{text}"),
        }
    }
    // Nobody is left behind.
    stage.wait_filter_stat("sessions_active", |count| count == 0);
    stage.wait_filter_stat("connections_awaiting_header", |count| count == 0);
}

#[test]
fn errors_are_counted_and_end_with_failure() {
    let net = TestNet::new();
    let output = Command::new(env!("CARGO_BIN_EXE_realmgate-load"))
        .args(["echo", "--to", &net.at(port::PLAYERS).to_string(), "--players", "2", "--patience", "0.3"])
        .args(["--json", "--quiet"])
        .output()
        .unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success());
    assert_eq!(result["errors"]["players_missing"], 1, "{result}");
    assert!(result["errors"]["refused"].as_u64().unwrap() > 0, "nobody listens: {result}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stall_keeps_from_being_sent_is_an_error() {
    let net = TestNet::new();
    let server = servers(&net, 1, 2).await.remove(0);
    let plan = Plan {
        players: 1,
        rate: Some(200_000.0),
        patience: Duration::from_secs(1),
        ..Plan::new(Mode::Echo, server.address(), Duration::from_secs(2))
    };
    let load = tokio::task::spawn_blocking(move || load::run(&plan, 1, &[], false));
    // A second message is sent when the first is answered.
    wait_until("it plays", LIMIT, || server.connections().iter().any(|one| one.frames.len() > 1));
    server.set_conduct(Conduct::Silent);
    let outcome = load.await.unwrap().unwrap();
    assert!(outcome.errors.get("not_sent").is_some_and(|count| *count > 10_000), "{:?}", outcome.errors);
}

/// A server that ends with its answer, in the same segment.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_with_an_answer_is_noticed() {
    let net = TestNet::new();
    let to = net.at(port::GAME);
    let listener = TcpListener::bind(to).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut player, _)) = listener.accept().await {
            for is_last in [false, true] {
                let mut message = Vec::new();
                let _ = player.read_buf(&mut message).await;
                SockRef::from(&player).set_tcp_cork(is_last).unwrap();
                let _ = player.write_all(&message).await;
            }
            let _ = player.shutdown().await;
            // Who does not notice waits for an answer that never comes.
            let _ = player.read_to_end(&mut Vec::new()).await;
        }
    });
    let plan = Plan {
        players: 1,
        patience: Duration::from_millis(500),
        ..Plan::new(Mode::Echo, to, Duration::from_millis(500))
    };
    let outcome =
        tokio::task::spawn_blocking(move || load::run(&plan, 1, &[], false)).await.unwrap().unwrap();
    assert!(outcome.errors.contains_key("closed"), "{:?}", outcome.errors);
}
