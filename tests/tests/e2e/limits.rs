//! Limits on connections, on an edge of four workers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use realmgate_tests::address::Address;
use realmgate_tests::load::watch::resident_kib;
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Envoy, Frame, GameClient, GameServer, Stage, TestNet, parts, wait_until};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cast::{LIMIT, game, route, servers, services};
use crate::live_sessions::replace_module;

const WORKERS: u32 = 4;

/// An edge whose players go to one server.
struct Cast {
    stage: Stage,
    server: GameServer,
}

impl Cast {
    async fn start(limits: &Value, proxy_protocol: bool) -> Self {
        let net = TestNet::new();
        let module = net.dir().join("filter.wasm");
        std::fs::copy(parts::FILTER.find().unwrap(), &module).unwrap();
        let server = servers(&net, 1, 0).await.remove(0);
        let control_plane = Stage::control_plane(&net, &json!({"filter": {"path": module}})).unwrap();
        let admin = net.at(port::ADMIN);
        let bootstrap = control_plane.edge_bootstrap("edge-1", admin).unwrap();
        let edge = Envoy::with(net.dir(), bootstrap, admin).name("edge").concurrency(WORKERS);
        let cast = Self { stage: Stage { edge: edge.start().unwrap(), control_plane, net }, server };
        cast.limit(limits, proxy_protocol);
        cast
    }

    /// Applies limits, and waits for the edge to have them.
    fn limit(&self, limits: &Value, proxy_protocol: bool) {
        let listener = json!([{"name": "edge", "bind": self.stage.players().to_string(),
            "proxy_protocol": proxy_protocol, "limits": crowd(limits)}]);
        let policy = json!({"listeners": listener, "services": services(std::slice::from_ref(&self.server)),
            "routes": [route("all", &json!("any"), self.server.name())]});
        self.stage.control_plane.put_policy(&policy.to_string());
    }

    fn refused(&self, reason: &str) -> u64 {
        self.stage.filter_stat(&format!("connections_refused_{reason}_total"))
    }
}

/// Those of `count` players, all at once, who get through to their server.
async fn players_from(source: IpAddr, to: SocketAddr, count: usize) -> Vec<GameClient> {
    let coming: JoinSet<_> =
        (0..count).map(|_| async move { plays(GameClient::connect_from(source, to).await).await }).collect();
    coming.join_all().await.into_iter().flatten().collect()
}

/// The same behind a load balancer that says where they come from.
async fn players_behind(source: &'static str, to: SocketAddr, count: usize) -> Vec<GameClient> {
    let coming: JoinSet<_> =
        (0..count).map(|_| async move { plays(from_behind(source, to).await).await }).collect();
    coming.join_all().await.into_iter().flatten().collect()
}

async fn plays(client: std::io::Result<GameClient>) -> Option<GameClient> {
    let mut client = client.ok()?;
    client.who_are_you(game(1, 1)).await.ok().map(|_| client)
}

async fn from_behind(source: &str, to: SocketAddr) -> std::io::Result<GameClient> {
    let mut client = GameClient::connect(to).await?;
    let (family, here) = if source.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    client.send_bytes(format!("PROXY {family} {source} {here} 4711 7000\r\n").as_bytes()).await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_per_address_hold_exactly_over_all_workers() {
    let cast = Cast::start(&json!({"connections_per_ip": 10}), false).await;
    let edge = cast.stage.players();
    let [here, there] = [Address::claim(), Address::claim()];
    let mut playing = players_from(here.ip(), edge, 50).await;
    assert_eq!(playing.len(), 10);
    wait_until("all refusals are told", LIMIT, || cast.refused("connections_per_ip") == 40);
    assert_eq!(cast.server.total(), 10, "a refused connection reached a game server");
    assert_eq!(players_from(there.ip(), edge, 50).await.len(), 10, "another address has its own");
    wait_until("those are gone", LIMIT, || cast.server.live() == 10);

    // Places that become free are taken, as many and no more.
    for round in 0..5 {
        // The gauge lags: it could still say 7 from the round before.
        wait_until("all ten are told", LIMIT, || cast.stage.filter_stat("sessions_active") == 10);
        playing.truncate(7);
        wait_until("three are gone", LIMIT, || cast.stage.filter_stat("sessions_active") == 7);
        let more = players_from(here.ip(), edge, 20).await;
        assert_eq!(more.len(), 3, "round {round}");
        playing.extend(more);
    }

    // New limits count what is there, and end nobody.
    let draining = || cast.stage.edge.stat("listener_manager.total_filter_chains_draining");
    let before = draining();
    cast.limit(&json!({"connections_per_ip": 12, "connections": 17}), false);
    let more = players_from(here.ip(), edge, 20).await;
    assert_eq!(more.len(), 2);
    cast.limit(&json!({"connections_per_ip": 5}), false);
    assert_eq!(players_from(here.ip(), edge, 20).await.len(), 0);
    for client in playing.iter_mut().chain(&mut { more }) {
        let frame = Frame::to_world(1, 2, "still here");
        assert_eq!(client.exchange(&frame).await.unwrap(), frame);
    }
    assert_eq!(draining(), before);
    assert_eq!(cast.stage.filter_stat("connections_uncounted_total"), 0);

    // Neither does another module forget, or end, anybody.
    replace_module(&cast.stage, &cast.stage.net.dir().join("filter.wasm"));
    assert_eq!(players_from(here.ip(), edge, 20).await.len(), 0);

    // Whoever has left has left nothing behind.
    drop(playing);
    wait_until("all are gone", LIMIT, || cast.stage.filter_stat("sessions_active") == 0);
    assert_eq!(players_from(here.ip(), edge, 20).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_total_hold_exactly_over_all_workers() {
    let cast = Cast::start(&json!({"connections": 20}), false).await;
    let edge = cast.stage.players();
    let from = Address::claim();
    let limited = "connection_limit.edge.limited_connections";
    let mut playing = players_from(from.ip(), edge, 60).await;
    assert_eq!((playing.len(), cast.stage.edge.stat(limited)), (20, 40));
    assert_eq!(cast.server.total(), 20, "a refused connection reached a game server");
    wait_until("the filter tells whom it was asked about", LIMIT, || {
        cast.stage.filter_stat("connections_routed_total") == 20
    });
    playing.truncate(15);
    wait_until("five are gone", LIMIT, || {
        cast.stage.edge.stat("connection_limit.edge.active_connections") == 15
    });
    playing.extend(players_from(from.ip(), edge, 20).await);
    assert_eq!(playing.len(), 20);

    // Another limit spares those that are there, and counts from 0.
    cast.limit(&json!({"connections": 5}), false);
    assert_eq!(players_from(from.ip(), edge, 20).await.len(), 5);
    cast.limit(&json!({}), false);
    assert_eq!(players_from(from.ip(), edge, 50).await.len(), 50, "0 is no limit");
    for client in &mut playing {
        let frame = Frame::to_world(1, 2, "still here");
        assert_eq!(client.exchange(&frame).await.unwrap(), frame);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_per_second_hold_over_all_workers() {
    const RATE: usize = 20;
    let cast = Cast::start(&json!({"new_connections_per_ip_per_second": RATE}), false).await;
    let edge = cast.stage.players();
    let [here, there] = [Address::claim(), Address::claim()];
    let start = Instant::now();
    let first = players_from(here.ip(), edge, 60).await.len();
    let mut let_in = first;
    // So many at once, and as many again in each second, however many try.
    let most =
        |start: Instant| RATE + usize::try_from(start.elapsed().as_millis()).unwrap() * RATE / 1000 + 1;
    assert!(first >= RATE && first <= most(start), "{first} at once");
    while start.elapsed() < Duration::from_millis(1500) {
        let_in += players_from(here.ip(), edge, 5).await.len();
        assert!(let_in <= most(start), "{let_in} of {}", most(start));
    }
    // Whoever stays away for a second has all of it again.
    sleep(Duration::from_millis(1100)).await;
    let again = players_from(here.ip(), edge, 60).await.len();
    assert!(again >= RATE, "{again} after a second");
    wait_until("refusals are told", LIMIT, || cast.refused("new_connections_per_ip") > 40);
    assert_eq!(players_from(there.ip(), edge, RATE).await.len(), RATE, "another address has its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_the_addresses_are_those_it_tells() {
    let cast = Cast::start(&json!({"connections_per_ip": 2}), true).await;
    let edge = cast.stage.players();
    let mut playing = Vec::new();
    for (source, expected) in [
        ("203.0.113.1", 2),
        ("203.0.113.2", 2),
        ("203.0.113.1", 0),
        ("2001:db8:1:1::1", 2),
        // The same /64.
        ("2001:db8:1:1:ffff::2", 0),
        ("2001:db8:1:2::1", 2),
        ("::ffff:203.0.113.2", 0),
        ("::ffff:203.0.113.3", 2),
    ] {
        let let_in = players_behind(source, edge, 8).await;
        assert_eq!(let_in.len(), expected, "{source}");
        playing.extend(let_in);
    }
}

/// A flood must not grow the edge: what it keeps of an address goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_many_addresses_leaves_memory_as_it_was() {
    const EACH: u32 = 3000;
    let limits =
        json!({"connections": 1000, "connections_per_ip": 10, "new_connections_per_ip_per_second": 10});
    let mut cast = Cast::start(&limits, true).await;
    let edge = cast.stage.players();
    let mut memory = BTreeMap::new();
    for wave in 0..4_u32 {
        let mut attackers = JoinSet::new();
        for attacker in 0..16 {
            attackers.spawn(async move {
                for number in (0..EACH).filter(|number| number % 16 == attacker) {
                    let source = Ipv4Addr::from_bits(0x0a00_0000 + wave * EACH + number);
                    let mut client = from_behind(&source.to_string(), edge).await.unwrap();
                    // A header that nothing routes, so that each has been through the filter when it ends.
                    client.send_bytes(&[0, 0, 1, 0, 1, 10, 1, 0]).await.unwrap();
                    client.read_until_closed().await.unwrap();
                }
            });
        }
        attackers.join_all().await;
        memory.insert(wave, resident_kib(cast.stage.edge.process().pid()).unwrap());
    }
    println!("resident after each {EACH} addresses: {memory:?} KiB");
    // The first waves fill Envoy's own pools and the table's keys.
    assert!(memory[&3] < memory[&1] + 2048, "{memory:?}");
    assert_eq!(cast.stage.filter_stat("connections_uncounted_total"), 0);
    wait_until("all are told", LIMIT, || cast.refused("no_route") == u64::from(4 * EACH));
    assert_eq!(players_behind("10.0.0.1", edge, 20).await.len(), 10, "and it serves on");
}

/// The header of the PROXY protocol, in its two versions, by which a load balancer says that this is the player.
fn announced(player: Ipv4Addr) -> [Vec<u8>; 2] {
    let v1 = format!("PROXY TCP4 {player} 192.0.2.1 4711 7000\r\n").into_bytes();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    v2.extend(player.octets());
    v2.extend([192, 0, 2, 1]);
    v2.extend(4711_u16.to_be_bytes());
    v2.extend(7000_u16.to_be_bytes());
    [v1, v2]
}

/// Whether a player gets through who comes from `source` and begins with this.
async fn gets_through(source: IpAddr, to: SocketAddr, header: &[u8]) -> bool {
    let Ok(mut client) = GameClient::connect_from(source, to).await else { return false };
    client.send_bytes(header).await.is_ok() && client.who_are_you(game(1, 1)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_load_balancers_that_are_trusted_speak_for_players() {
    let cast = Cast::start(&json!({}), false).await;
    let edge = cast.stage.players();
    let [balancer, player] = [Address::claim(), Address::claim()];
    let allowed = Ipv4Addr::new(203, 0, 113, 7);
    let listener = json!([{"name": "edge", "bind": edge.to_string(), "proxy_protocol": true,
        "trusted_proxies": [format!("{}/32", balancer.ip())], "allowed_clients": ["203.0.113.0/24"],
        "limits": crowd(&json!({"connections_per_ip": 1}))}]);
    let policy = json!({"listeners": listener, "services": services(std::slice::from_ref(&cast.server)),
        "routes": [route("all", &json!("any"), cast.server.name())]});
    let (_, told) = cast.stage.control_plane.put_policy_with("?dry_run=true", &policy.to_string());
    assert!(told.contains("trusted_proxies (replaces the listener: its live connections drain)"), "{told}");
    assert!(!told.contains("warning"), "{told}");
    cast.stage.control_plane.put_policy(&policy.to_string());

    for header in announced(allowed) {
        // The listener that was there before goes on for a moment.
        let start = Instant::now();
        while !gets_through(balancer.ip(), edge, &header).await {
            assert!(start.elapsed() < LIMIT, "a load balancer is not believed");
        }
        assert!(!gets_through(player.ip(), edge, &header).await, "a player was believed");
        assert!(!gets_through(player.ip(), edge, b"").await);
    }
    assert!(!gets_through(balancer.ip(), edge, b"").await);
    for header in announced(Ipv4Addr::new(198, 51, 100, 1)) {
        assert!(!gets_through(balancer.ip(), edge, &header).await, "a player who may not connect");
    }
    // The limits count players, not load balancers.
    let [v1, v2] = announced(Ipv4Addr::new(203, 0, 113, 9));
    let mut first = GameClient::connect_from(balancer.ip(), edge).await.unwrap();
    first.send_bytes(&v1).await.unwrap();
    first.who_are_you(game(1, 1)).await.unwrap();
    assert!(!gets_through(balancer.ip(), edge, &v2).await);
    assert!(gets_through(balancer.ip(), edge, &announced(Ipv4Addr::new(203, 0, 113, 8))[1]).await);
    assert!(cast.stage.edge.stat("listener.edge.no_filter_chain_match") > 0);

    let mut believes_all = policy.clone();
    believes_all["listeners"][0]["trusted_proxies"] = json!([]);
    let (_, told) = cast.stage.control_plane.put_policy_with("?dry_run=true", &believes_all.to_string());
    assert!(told.contains("`proxy_protocol` without `trusted_proxies`"), "{told}");
}
