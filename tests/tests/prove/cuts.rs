//! A link to the control plane that is cut every few seconds, while worlds come and go whose clusters warm for long: no player
//! is sent to a cluster that is not there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use realmgate_tests::cast::{game, lands, route, servers, until_lands};
use realmgate_tests::game_server::Conduct;
use realmgate_tests::stage::port;
use realmgate_tests::{Envoy, Link, Stage, TestNet};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

const ROUND_TRIP: Duration = Duration::from_millis(200);
const TIME: Duration = Duration::from_secs(30);

/// A world comes, and the oldest goes.
const EACH: Duration = Duration::from_millis(700);

/// Worlds that there are beside the first, which stays.
const WORLDS: u16 = 12;

/// Those that went last are asked for all the same.
const GONE: u16 = 4;

/// Times from one cut to the next, in turn: before, while and after a new cluster warms.
const CUTS: [u64; 5] = [2600, 1300, 3900, 700, 5200];

/// What the first check of a server that says nothing takes, in turn.
const CHECKS: [&str; 3] = ["1s", "300ms", "1500ms"];

fn policy(net: &TestNet, worlds: &[u16], servers: &[SocketAddr]) -> String {
    let listener = json!({"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": {
        "connections": 0, "connections_per_ip": 0, "new_connections_per_ip_per_second": 0}});
    let name = |world: u16| format!("world-{world}");
    let service = |world: u16| {
        // Those that come and go have the server that says nothing, too.
        let servers = if world == 1 { &servers[..1] } else { servers };
        let check = json!({"ping": {"message_id": 1}});
        let timeout = CHECKS[usize::from(world) % CHECKS.len()];
        json!({"name": name(world), "endpoints": servers, "health_check": {"check": check, "timeout": timeout}})
    };
    let all = || [1].iter().chain(worlds).copied();
    let services: Vec<Value> = all().map(service).collect();
    let routes: Vec<Value> = all().map(|world| route(&name(world), &json!([world]), &name(world))).collect();
    json!({"listeners": [listener], "services": services, "routes": routes}).to_string()
}

/// Attempts of all players.
#[derive(Default)]
struct Attempts {
    constant: AtomicU64,
    others: AtomicU64,
    others_served: AtomicU64,
    stop: AtomicBool,
}

/// Knocks until told to stop: at the world that stays, which always serves, or at each of the others in turn.
async fn knocks(edge: SocketAddr, worlds: Option<watch::Receiver<Vec<u16>>>, attempts: Arc<Attempts>) {
    while !attempts.stop.load(Ordering::Relaxed) {
        match &worlds {
            None => {
                let landed = lands(edge, game(1, 1)).await;
                assert_eq!(landed.expect("a player of the world that stays is served"), "game-1");
                attempts.constant.fetch_add(1, Ordering::Relaxed);
            }
            Some(worlds) => {
                let worlds = worlds.borrow().clone();
                for world in worlds {
                    // The edge may not have heard of it yet, and nobody may have found yet that a server says nothing.
                    let landed =
                        tokio::time::timeout(Duration::from_millis(100), lands(edge, game(world, 1)));
                    let served = matches!(landed.await, Ok(Ok(_)));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    attempts.others.fetch_add(1, Ordering::Relaxed);
                    attempts.others_served.fetch_add(u64::from(served), Ordering::Relaxed);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Players of an edge whose cluster was not there.
fn no_cluster(edge: &Envoy) -> u64 {
    let stats = edge.stats("tcp.");
    stats.iter().filter(|(name, _)| name.ends_with("downstream_cx_no_route")).map(|(_, count)| count).sum()
}

async fn worlds_come_and_go(version: Option<&str>) {
    let net = TestNet::new();
    let servers = servers(&net, 2, 0).await;
    servers[1].set_conduct(Conduct::Silent);
    let servers: Vec<_> = servers.iter().map(realmgate_tests::GameServer::address).collect();
    let control_plane = Stage::control_plane(&net, &json!({"edge": {"health_listen": ""}})).unwrap();
    let link = Link::start(net.at(port::LINK), control_plane.xds(), ROUND_TRIP / 2).await.unwrap();
    let put = |worlds: &[u16]| {
        let (status, body) = control_plane.put_policy_with("?force=true", &policy(&net, worlds, &servers));
        assert!((200..300).contains(&status), "{body}");
    };
    // Envoy 1.37.0 crashes when the first listener that has the filter comes after its start.
    put(&[]);
    let bootstrap = control_plane.edge_bootstrap("edge-1", net.at(port::ADMIN)).unwrap();
    let far =
        bootstrap.replace(&format!("port_value: {}", port::XDS), &format!("port_value: {}", port::LINK));
    let edge = Envoy::with(net.dir(), far, net.at(port::ADMIN)).name("edge");
    let edge = version.iter().fold(edge, |edge, version| edge.version(version)).start().unwrap();
    let players = net.at(port::PLAYERS);
    until_lands(players, game(1, 1), Some("game-1"), Instant::now()).await;

    let attempts = Arc::new(Attempts::default());
    let exist = watch::Sender::new(Vec::new());
    let mut knocking = JoinSet::new();
    for _ in 0..3 {
        knocking.spawn(knocks(players, None, Arc::clone(&attempts)));
        knocking.spawn(knocks(players, Some(exist.subscribe()), Arc::clone(&attempts)));
    }
    let start = Instant::now();
    let (mut cuts, mut next_cut, mut warming) = (0, start + Duration::from_millis(CUTS[0]), 0);
    let mut last = 1_u16;
    while start.elapsed() < TIME {
        last += 1;
        let worlds: Vec<_> = (last.saturating_sub(WORLDS - 1).max(2)..=last).collect();
        put(&worlds);
        exist.send_replace((last.saturating_sub(WORLDS + GONE - 1).max(2)..=last).collect());
        let coming = start + EACH * u32::from(last - 1);
        if next_cut < coming {
            tokio::time::sleep_until(next_cut.into()).await;
            warming += u32::from(edge.stat("cluster_manager.warming_clusters") > 0);
            link.cut();
            cuts += 1;
            next_cut += Duration::from_millis(CUTS[cuts % CUTS.len()]);
        }
        tokio::time::sleep_until(coming.into()).await;
    }
    until_lands(players, game(last, 1), Some("game-1"), Instant::now()).await;
    attempts.stop.store(true, Ordering::Relaxed);
    while let Some(player) = knocking.join_next().await {
        player.unwrap();
    }
    let refused = no_cluster(&edge);
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    let (constant, others, served) =
        (count(&attempts.constant), count(&attempts.others), count(&attempts.others_served));
    println!(
        "{version:?}: {refused} of {} players met no cluster; {constant} of the world that stays, {served} of {others} \
         of others served; {} changes, {cuts} cuts, {warming} of them while a cluster warmed",
        constant + others,
        last - 1
    );
    assert_eq!(refused, 0);
    assert!(constant > 1000 && served > 100 && cuts > 5 && warming > 2, "too little was tried");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn a_link_that_is_cut_again_and_again_sends_nobody_to_a_missing_cluster() {
    worlds_come_and_go(None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn a_link_that_is_cut_again_and_again_is_the_same_on_the_oldest_version() {
    worlds_come_and_go(Some("1.37")).await;
}
