//! Game servers that hang or say nothing: whom a ping marks as down, when all are tried, and what silence does not do.

use std::collections::BTreeSet;
use std::time::Duration;

use realmgate_filter::config::Framing;
use realmgate_tests::game_server::Conduct;
use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, GameServer, Stage, Stopwatch, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, timeout};

use crate::cast::{LIMIT, game, lands, route};
use crate::resilience::{addresses, no_outliers, serve, service, stop};

/// A check that notices within a second, on a busy machine too.
fn quick(check: &Value) -> Value {
    let thresholds = json!({"unhealthy_threshold": 2, "healthy_threshold": 1});
    let mut health_check = json!({"check": check, "interval": "200ms", "timeout": "600ms"});
    health_check.as_object_mut().unwrap().extend(thresholds.as_object().unwrap().clone());
    health_check
}

fn healthy(stage: &Stage, cluster: &str) -> u64 {
    stage.edge.stat(&format!("cluster.{cluster}.membership_healthy"))
}

fn wait_healthy(stage: &Stage, cluster: &str, count: u64) {
    let what = format!("{count} endpoints of {cluster} are well");
    wait_until(&what, LIMIT, || healthy(stage, cluster) == count);
}

/// Where so many players land; a refused one lands nowhere.
async fn landings(stage: &Stage, world: u16, players: usize) -> Vec<Option<String>> {
    let mut landings = Vec::new();
    for _ in 0..players {
        landings.push(lands(stage.players(), game(world, 1)).await.ok());
    }
    landings
}

/// Waits until ten players in a row land on the server of this name: the load balancer hears of an endpoint's health a
/// moment after the statistics.
async fn until_all_land(stage: &Stage, world: u16, name: &str) {
    let start = Instant::now();
    loop {
        let landings = landings(stage, world, 10).await;
        if landings.iter().all(|on| on.as_deref() == Some(name)) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "world {world}: {landings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_marks_a_server_that_hangs_as_down_in_every_framing() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let framings =
        [("client", Framing::Client), ("server", Framing::Server), ("server-traced", Framing::ServerTraced)];
    let ping = json!({"ping": {"message_id": 77, "body": "00ff10", "reply_body": "00ff10"}});
    let mut pairs = Vec::new();
    let mut services = Vec::new();
    for ((name, framing), number) in framings.into_iter().zip(0..) {
        let mut pair = Vec::new();
        for (which, at) in [("well", 2 * number), ("hangs", 2 * number + 1)] {
            pair.push(GameServer::speaking(framing, which, stage.net.at(port::GAME + at), 0).await.unwrap());
        }
        let more = json!({"framing": name, "health_check": quick(&ping)});
        services.push(service(name, &addresses(&pair), &more));
        pairs.push(pair);
    }
    // A check that needs no answer, and one in bytes: the same servers as the first.
    services.push(service("tcp", &addresses(&pairs[0]), &json!({"health_check": quick(&json!("tcp"))})));
    let bytes = json!({"bytes": {"send": "0000ff7f00000000", "expect": ["ff7f", "77656c6c"]}});
    services.push(service("bytes", &addresses(&pairs[0][..1]), &json!({"health_check": quick(&bytes)})));
    serve(&stage, 1, &services);
    for (name, _) in framings {
        wait_healthy(&stage, name, 2);
    }
    wait_healthy(&stage, "bytes", 1);

    // Sessions on either server, which the check must not end.
    let mut sessions = Vec::new();
    let mut on = BTreeSet::new();
    while on.len() < 2 {
        let mut client = GameClient::connect(stage.players()).await.unwrap();
        on.insert(client.who_are_you(game(1, 1)).await.unwrap());
        sessions.push(client);
    }
    for pair in &pairs {
        pair[1].set_conduct(Conduct::Hold);
    }
    for (world, (name, _)) in (1..).zip(framings) {
        wait_healthy(&stage, name, 1);
        until_all_land(&stage, world, "well").await;
    }
    assert_eq!(healthy(&stage, "tcp"), 2, "the kernel accepts for a server that hangs");
    for pair in &pairs {
        pair[1].set_conduct(Conduct::Echo);
    }
    for (world, (name, _)) in (1..).zip(framings) {
        wait_healthy(&stage, name, 2);
        let start = Instant::now();
        while lands(stage.players(), game(world, 1)).await.unwrap() != "hangs" {
            assert!(start.elapsed() < LIMIT, "nobody lands on the server that is well again");
        }
    }
    for mut session in sessions {
        let frame = Frame::to_world(1, 1, "still there?");
        assert_eq!(session.exchange(&frame).await.unwrap(), frame);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_too_few_are_well_all_are_tried_or_none() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let mut servers = crate::cast::servers(&stage.net, 3, 0).await;
    let at = addresses(&servers);
    let service = |name: &str, panic: &Value| {
        let mut more = json!({"outlier_detection": no_outliers(), "health_check": quick(&json!("tcp"))});
        if !panic.is_null() {
            more["panic_threshold"] = panic.clone();
        }
        service(name, &at, &more)
    };
    let services =
        [service("default", &Value::Null), service("never", &json!(0)), service("half", &json!(50))];
    serve(&stage, 1, &services);
    let all_healthy = |count| ["default", "never", "half"].map(|name| wait_healthy(&stage, name, count));
    all_healthy(3);
    for server in servers.drain(1..).collect::<Vec<_>>() {
        stop(server).await;
    }
    all_healthy(1);
    let well =
        |landings: Vec<Option<String>>| landings.iter().filter(|on| on.as_deref() == Some("game-1")).count();
    until_all_land(&stage, 1, "game-1").await;
    until_all_land(&stage, 2, "game-1").await;
    // A third is less than half: players are sent to the dead servers too.
    while stage.edge.stat("cluster.half.lb_healthy_panic") == 0 {
        landings(&stage, 3, 1).await;
    }
    assert_eq!(well(landings(&stage, 3, 9).await), 3);

    stop(servers.remove(0)).await;
    all_healthy(0);
    let stat = |name: &str| stage.edge.stat(&format!("cluster.{name}"));
    for (name, world, counter) in
        [("never", 2, "never.upstream_cx_none_healthy"), ("default", 1, "default.lb_healthy_panic")]
    {
        while stat(counter) == 0 {
            landings(&stage, world, 1).await;
        }
        let failures = format!("{name}.upstream_cx_connect_fail");
        let before = stat(&failures);
        assert_eq!(well(landings(&stage, world, 3).await), 0);
        assert_eq!(stat(&failures) - before, if name == "never" { 0 } else { 3 }, "{name}");
    }
    let _again = GameServer::start("game-1", at[0]).await.unwrap();
    all_healthy(1);
    until_all_land(&stage, 2, "game-1").await;
}

/// Longer than the 30 s after which the old gateway gave up on a silent server.
const SILENCE: Duration = Duration::from_secs(32);

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_ends_no_session_before_the_idle_timeout() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let server = GameServer::start("silent", stage.net.at(port::GAME)).await.unwrap();
    let impatient = stage.net.at(port::PLAYERS + 1);
    let mut listeners = stage.listener(&json!({}));
    listeners
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "impatient", "bind": impatient.to_string(), "limits": {"idle_timeout": "8s"}}));
    let policy = json!({"listeners": listeners, "services": [service("silent", &[server.address()], &json!({}))],
        "routes": [route("all", &json!("any"), "silent")]});
    stage.control_plane.put_policy(&policy.to_string());

    let start = Instant::now();
    let mut patient = GameClient::connect(stage.players()).await.unwrap();
    let mut talks = GameClient::connect(impatient).await.unwrap();
    let mut waits = GameClient::connect(impatient).await.unwrap();
    for client in [&mut patient, &mut talks, &mut waits] {
        assert_eq!(client.who_are_you(game(1, 1)).await.unwrap(), "silent");
    }
    server.set_conduct(Conduct::Silent);
    let frame = Frame::to_world(1, 1, "hello?");
    let waits = tokio::spawn(async move { waits.read_until_closed().await.map(|_| start.elapsed()) });
    // Both listeners carry bytes one way only; that is enough, whatever the server does.
    let mut pace = interval(Duration::from_millis(500));
    patient.send(&frame).await.unwrap();
    let silent = Instant::now();
    while silent.elapsed() < SILENCE {
        pace.tick().await;
        talks.send(&frame).await.unwrap();
    }
    let closed = waits.await.unwrap().unwrap();
    assert!(closed >= Duration::from_secs(8) && closed < SILENCE, "{closed:?}");
    let quiet = timeout(Duration::from_millis(100), talks.read_frame()).await;
    assert!(quiet.is_err(), "the session that talks was ended: {quiet:?}");
    server.set_conduct(Conduct::Echo);
    for session in [&mut patient, &mut talks] {
        assert_eq!(session.exchange(&frame).await.unwrap(), frame);
    }
    assert_eq!(stage.edge.stat("tcp.impatient.idle_timeout"), 1);
    assert_eq!(stage.edge.stat("tcp.edge.idle_timeout"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_addresses_closes_its_players_at_once() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    // A name that no resolver knows, with one or without.
    let nowhere = json!({"name": "nowhere", "dns": {"host": "nowhere.invalid", "port": 7777}});
    serve(&stage, 3, &[nowhere]);
    let start = Instant::now();
    while stage.edge.stat("cluster.nowhere.upstream_cx_none_healthy") == 0 {
        assert_eq!(landings(&stage, 1, 1).await, [None]);
        assert!(start.elapsed() < LIMIT);
    }
    let watch = Stopwatch::start();
    assert_eq!(landings(&stage, 1, 1).await, [None]);
    assert!(watch.undisturbed() < Duration::from_secs(1), "{:?}", watch.elapsed());
}

/// Envoy uses a new cluster, and goes on to others, once its endpoints were checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_holds_changes_up_for_the_timeout_and_no_longer() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let server = GameServer::start("hangs", stage.net.at(port::GAME)).await.unwrap();
    server.set_conduct(Conduct::Hold);
    // The listener and its filter are there already.
    serve(&stage, 1, &[service("hangs", &[server.address()], &json!({}))]);
    let check = json!({"check": {"ping": {"message_id": 1}}, "timeout": "2s"});
    let watch = Stopwatch::start();
    serve(&stage, 1, &[service("hangs", &[server.address()], &json!({"health_check": check}))]);
    let took = watch.elapsed();
    println!("applied after {took:?}");
    assert!(took > Duration::from_millis(1500) && watch.undisturbed() < Duration::from_secs(4), "{took:?}");
    // Not one is well, so it is tried, and answers by now.
    server.set_conduct(Conduct::Echo);
    assert_eq!(landings(&stage, 1, 1).await, [Some("hangs".to_owned())]);
}
