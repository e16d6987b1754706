//! New routes and the clusters that they name, on real Envoys: whatever breaks or changes meanwhile, players meet no cluster
//! that is not there, and routes get on.

use std::time::{Duration, Instant};

use realmgate_tests::game_server::Conduct;
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Envoy, Link, Stage, Stopwatch, TestNet, wait_until};
use serde_json::{Value, json};

use crate::cast::{LIMIT, game, lands, route, servers, until_lands};
use crate::resilience::service;

/// What a check of a server that says nothing takes.
const CHECK: Duration = Duration::from_secs(6);

/// How often `tcp_proxy` found no cluster of the name that the filter chose.
fn no_cluster(edge: &Envoy) -> u64 {
    let stats = edge.stats("tcp.");
    let refused = stats.iter().filter(|(name, _)| name.ends_with("downstream_cx_no_route"));
    refused.map(|(_, count)| count).sum()
}

fn policy(stage: &Stage, services: &[Value], worlds: &[u16]) -> String {
    let name = |world: &u16| format!("world-{world}");
    let routes: Vec<_> =
        worlds.iter().map(|world| route(&name(world), &json!([world]), &name(world))).collect();
    json!({"listeners": stage.listener(&json!({})), "services": services, "routes": routes}).to_string()
}

/// While a cluster warms Envoy asks for no clusters, on a new stream neither, and on that it asks for filters at once.
async fn a_restart_while_a_cluster_warms(version: Option<&str>) {
    let net = TestNet::new();
    let servers = servers(&net, 3, 0).await;
    servers[2].set_conduct(Conduct::Silent);
    let addresses: Vec<_> = servers.iter().map(realmgate_tests::GameServer::address).collect();
    let control_plane = Stage::control_plane(&net, &json!({"edge": {"health_listen": ""}})).unwrap();
    let bootstrap = control_plane.edge_bootstrap("edge-1", net.at(port::ADMIN)).unwrap();
    let one = service("world-1", &addresses[..1], &json!({}));
    let builder = Envoy::with(net.dir(), bootstrap, net.at(port::ADMIN)).name("edge");
    let builder = match version {
        Some(version) => builder.version(version),
        None => builder,
    };
    // Envoy 1.37.0 crashes when the first listener that has the filter comes after its start.
    let listeners = json!([{"name": "edge", "bind": net.at(port::PLAYERS).to_string(),
        "limits": crowd(&json!({}))}]);
    let first = json!({"listeners": listeners, "services": [one],
        "routes": [route("world-1", &json!([1]), "world-1")]});
    control_plane.put_policy(&first.to_string());
    let edge = builder.start().unwrap();
    let mut stage = Stage { edge, control_plane, net };
    let players = stage.players();
    until_lands(players, game(1, 1), Some("game-1"), Instant::now()).await;

    let check = json!({"check": {"ping": {"message_id": 1}}, "timeout": format!("{}s", CHECK.as_secs())});
    let two = service("world-2", &addresses[1..], &json!({"health_check": check}));
    let (status, body) = stage.control_plane.put_policy_with("", &policy(&stage, &[one, two], &[1, 2]));
    assert!((200..300).contains(&status), "{body}");
    wait_until("the cluster warms", LIMIT, || stage.edge.stat("cluster_manager.warming_clusters") == 1);
    let warms = Instant::now();
    stage.control_plane.kill9();
    stage.control_plane.restart().unwrap();
    let (mut refused, mut pending) = (0, 0);
    // Who is served by neither old nor new routes is refused by the filter, which knows no such world.
    while lands(players, game(2, 1)).await.is_err() {
        assert!(warms.elapsed() < CHECK + LIMIT, "the new world is not served");
        assert_eq!(no_cluster(&stage.edge), 0, "after {:?}", warms.elapsed());
        lands(players, game(1, 1)).await.unwrap();
        refused += 1;
        let (_, proxies) = stage.control_plane.get("/v1/proxies");
        let proxies: Value = serde_json::from_str(&proxies).unwrap();
        pending += usize::from(proxies["proxies"][0]["sync"] == "pending");
        let synced = proxies["proxies"][0]["sync"] == "synced";
        assert!(!synced || warms.elapsed() > CHECK / 2, "synced after {:?}", warms.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{version:?}: served after {:?}; {refused} refused, {pending} times pending", warms.elapsed());
    assert_eq!(no_cluster(&stage.edge), 0);
    assert!(refused > 0 && pending > 0, "the stream was not cut while the cluster warmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_restarts_while_a_cluster_warms_sends_nobody_there() {
    tokio::join!(a_restart_while_a_cluster_warms(None), a_restart_while_a_cluster_warms(Some("1.37")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_while_a_cluster_warms_is_the_same_on_the_versions_between() {
    tokio::join!(
        a_restart_while_a_cluster_warms(Some("1.38")),
        a_restart_while_a_cluster_warms(Some("1.39"))
    );
}

/// The check may take ten minutes, and the policy names its service no more: neither the control plane nor Envoy waits for it.
async fn a_removed_service_that_warms(version: Option<&str>) {
    let net = TestNet::new();
    let servers = servers(&net, 2, 0).await;
    servers[1].set_conduct(Conduct::Silent);
    let control_plane = Stage::control_plane(&net, &json!({"edge": {"health_listen": ""}})).unwrap();
    let bootstrap = control_plane.edge_bootstrap("edge-1", net.at(port::ADMIN)).unwrap();
    let one = service("world-1", &[servers[0].address()], &json!({}));
    let mut builder = Envoy::with(net.dir(), bootstrap, net.at(port::ADMIN)).name("edge");
    if let Some(version) = version {
        builder = builder.version(version);
    }
    let listeners = json!([{"name": "edge", "bind": net.at(port::PLAYERS).to_string(),
        "limits": crowd(&json!({}))}]);
    let of = |services: &[&Value], routes: &[Value]| {
        json!({"listeners": listeners, "services": services, "routes": routes}).to_string()
    };
    let to_one = |world: u16| route(&format!("world-{world}"), &json!([world]), "world-1");
    control_plane.put_policy(&of(&[&one], &[to_one(1)]));
    let edge = builder.start().unwrap();
    let mut stage = Stage { edge, control_plane, net };
    let players = stage.players();
    until_lands(players, game(1, 1), Some("game-1"), Instant::now()).await;

    let check = json!({"check": {"ping": {"message_id": 1}}, "timeout": "600s", "interval": "600s"});
    let slow = service("slow", &[servers[1].address()], &json!({"health_check": check}));
    let both = [to_one(1), route("world-9", &json!([9]), "slow")];
    let (status, body) = stage.control_plane.put_policy_with("", &of(&[&one, &slow], &both));
    assert!((200..300).contains(&status), "{body}");
    wait_until("the cluster warms", LIMIT, || stage.edge.stat("cluster_manager.warming_clusters") == 1);
    stage.control_plane.kill9();
    stage.control_plane.restart().unwrap();
    wait_until("it is said what the proxy waits for", 2 * LIMIT, || {
        stage.control_plane.get("/v1/proxies").1.contains("cluster_warming")
    });
    let (status, body) = stage.control_plane.put_policy_with("", &of(&[&one], &[to_one(1), to_one(2)]));
    assert!((200..300).contains(&status), "{body}");
    until_lands(players, game(2, 1), Some("game-1"), Instant::now()).await;
    lands(players, game(1, 1)).await.unwrap();
    assert_eq!(no_cluster(&stage.edge), 0);
    wait_until("the edge is well", 2 * LIMIT, || {
        let (_, proxies) = stage.control_plane.get("/v1/proxies");
        proxies.contains("\"synced\"") && !proxies.contains("cluster_warming")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_of_a_removed_service_freezes_no_edge() {
    a_removed_service_that_warms(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_of_a_removed_service_freezes_no_oldest_edge() {
    a_removed_service_that_warms(Some("1.37")).await;
}

/// A cluster for a new world every 100 ms, at the end of a link of 200 ms there and back.
#[tokio::test(flavor = "multi_thread")]
async fn routes_follow_changes_that_come_faster_than_they_are_acknowledged() {
    let (round_trip, interval, time) =
        (Duration::from_millis(200), Duration::from_millis(100), Duration::from_secs(8));
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    let control_plane = Stage::control_plane(&net, &json!({"edge": {"health_listen": ""}})).unwrap();
    let _link = Link::start(net.at(port::LINK), control_plane.xds(), round_trip / 2).await.unwrap();
    let bootstrap = control_plane.edge_bootstrap("edge-1", net.at(port::ADMIN)).unwrap();
    let far =
        bootstrap.replace(&format!("port_value: {}", port::XDS), &format!("port_value: {}", port::LINK));
    let edge = Envoy::with(net.dir(), far, net.at(port::ADMIN)).name("edge").start().unwrap();
    let stage = Stage { edge, control_plane, net };
    let of = |world: &u16| service(&format!("world-{world}"), &[servers[0].address()], &json!({}));
    let put = |worlds: &[u16]| {
        let services: Vec<_> = worlds.iter().map(of).collect();
        let (status, body) = stage.control_plane.put_policy_with("", &policy(&stage, &services, worlds));
        assert!((200..300).contains(&status), "{body}");
    };
    put(&[1]);
    until_lands(stage.players(), game(1, 1), Some("game-1"), Instant::now()).await;
    let filters = || {
        let reloads = stage.edge.stats("extension_config_discovery");
        let reloads = reloads.iter().filter(|(name, _)| name.ends_with("realmgate/edge.config_reload"));
        reloads.map(|(_, count)| count).sum::<u64>()
    };
    let (before, watch) = (filters(), Stopwatch::start());
    let start = watch.began();
    let mut worlds = vec![1];
    while start.elapsed() < time {
        // The oldest go: clusters that nothing names any more must not pile up.
        worlds.push(worlds.last().unwrap() + 1);
        put(&worlds[worlds.len().saturating_sub(20)..]);
        tokio::time::sleep_until((start + interval * (u32::try_from(worlds.len()).unwrap() - 1)).into())
            .await;
    }
    let (used, changes) = (filters() - before, worlds.len() - 1);
    let clusters = stage.edge.stat("cluster_manager.active_clusters");
    println!("{used} filter configurations of {changes}; {clusters} clusters");
    // A round trip for clusters and the question for their endpoints, one for those and both acknowledgements, one
    // for the filter. A busy machine may take as long again, and more while others have its processors.
    let generations = watch.undisturbed().min(time).as_millis() / (3 * round_trip).as_millis();
    assert!(u128::from(used) >= generations / 2, "{used} filter configurations of {changes}");
    assert!(clusters < 60, "{clusters} clusters");
    let last = *worlds.last().unwrap();
    until_lands(stage.players(), game(last, 1), Some("game-1"), Instant::now()).await;
    assert_eq!(no_cluster(&stage.edge), 0);
}
