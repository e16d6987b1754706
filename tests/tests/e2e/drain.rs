//! An edge is taken out of service: readiness first, then new connections, and live sessions last.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use realmgate_tests::game_server::Conduct;
use realmgate_tests::http::Http;
use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, GameServer, Stage, TestNet, parts, wait_until};
use serde_json::json;

use crate::cast::{LIMIT, game, lands, route, servers, services};

async fn stage() -> (Stage, GameServer) {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let server = servers(&stage.net, 1, 0).await.remove(0);
    let policy = json!({
        "listeners": stage.listener(&json!({})),
        "services": services(std::slice::from_ref(&server)),
        "routes": [route("all", &json!("any"), "game-1")],
    });
    stage.control_plane.put_policy(&policy.to_string());
    (stage, server)
}

/// `realmgate drain`, which is killed when the test fails.
struct Drain {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Drain {
    fn start(stage: &Stage, arguments: &[&str]) -> Self {
        let mut command = Command::new(parts::REALMGATE.find().unwrap());
        command.args(["drain", "--admin", &stage.net.at(port::ADMIN).to_string()]).args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, said: String::new() }
    }

    /// Blocks until it has said this; it ends by itself, and then says no more.
    fn says(&mut self, what: &str) {
        while !self.said.contains(what) {
            assert!(self.stderr.read_line(&mut self.said).unwrap() > 0, "{what}: {}", self.said);
        }
    }

    /// Its exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        wait_until("the drain ends", LIMIT, || self.child.try_wait().unwrap().is_some());
        self.stderr.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_sessions_end_by_themselves() {
    let (stage, server) = stage().await;
    let health = Http::new(stage.net.at(port::HEALTH));
    let ready = || health.get("/ready").map_or(0, |(status, _)| status);
    wait_until("the edge is ready", LIMIT, || ready() == 200);
    let mut player = GameClient::connect(stage.players()).await.unwrap();
    player.who_are_you(game(1, 1)).await.unwrap();

    let mut drain = Drain::start(&stage, &["--notice", "3s", "--grace", "1m"]);
    wait_until("readiness goes", LIMIT, || ready() == 503);
    assert_eq!(lands(stage.players(), game(1, 1)).await.unwrap(), "game-1", "refused before its time");
    // A message that is on its way while the listener closes.
    server.set_conduct(Conduct::Hold);
    let frame = Frame::to_world(1, 5, "on its way");
    player.send(&frame).await.unwrap();
    wait_until("new connections are refused", LIMIT, || {
        std::net::TcpStream::connect(stage.players()).is_err()
    });
    server.set_conduct(Conduct::Echo);
    assert_eq!(player.answer().await.unwrap(), frame);
    for _ in 0..10 {
        assert_eq!(player.exchange(&frame).await.unwrap(), frame);
    }
    assert_eq!((ready(), health.get("/health").unwrap().0), (503, 200), "probes are still answered");

    drain.says("no new connections; 1 live");
    drop(player);
    let (code, said) = drain.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("drained\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_is_kept_and_no_more() {
    let (mut stage, _server) = stage().await;
    let mut player = GameClient::connect(stage.players()).await.unwrap();
    let frame = Frame::to_world(1, 5, "still here");
    player.exchange(&frame).await.unwrap();
    let start = Instant::now();
    let drain = Drain::start(&stage, &["--notice", "0", "--grace", "2s", "--quit"]);
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(player.exchange(&frame).await.unwrap(), frame);
    }
    player.read_until_closed().await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2));
    let (code, said) = drain.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("after 2s 1 connections were closed"), "{said}");
    wait_until("the edge has ended", LIMIT, || stage.edge.process().exit_status().is_some());

    let (code, said) = Drain::start(&stage, &[]).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/healthcheck/fail"), "{said}");
}
