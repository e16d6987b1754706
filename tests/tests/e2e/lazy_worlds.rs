//! Clusters on demand: an edge has the worlds that its players use, and no player notices.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use realmgate_tests::envoy::Builder;
use realmgate_tests::load::watch::resident_kib;
use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Envoy, Frame, GameClient, GameServer, Redis, Stage, Stopwatch, TestNet, wait_until};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cast::{GAME, LIMIT, game, lands, route, servers, until_lands};
use crate::live_sessions::play;

/// Worlds of a cluster each.
const WORLDS: u16 = 30_000;
/// Refused by the filter, without a question to anybody.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Most of what a first player may wait, where the control plane has to be asked.
const FIRST_PLAYER: Duration = Duration::from_millis(500);

const RULES: &str = "game-gateway:routing:rules";
const NOTIFY: &str = "game-gateway:routing:rules:notify";

/// Worlds of a game-gateway rule each, on the listener of the rules, which asks for their clusters.
struct Worlds {
    servers: Vec<GameServer>,
    redis: Redis,
    stage: Stage,
}

impl Worlds {
    async fn start(net: TestNet, worlds: u16) -> Self {
        let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
        let servers = servers(&net, 4, 0).await;
        redis.set(RULES, &rules(&servers, worlds, &[]));
        let gateway =
            json!({"enabled": true, "clusters": "on_demand", "framing": "client", "refresh_interval": "1h"});
        let settings = json!({"redis": {"url": redis.url()}, "game_gateway": gateway});
        let stage = Stage::start(net, &settings).unwrap();
        let worlds = Self { servers, redis, stage };
        wait_until("the edge listens", LIMIT, || std::net::TcpStream::connect(worlds.edge()).is_ok());
        worlds
    }

    fn edge(&self) -> SocketAddr {
        self.stage.game_gateway()
    }

    fn server(&self, world: u16) -> &GameServer {
        &self.servers[usize::from(world) % self.servers.len()]
    }

    /// Makes these the rules, and gives the time of telling.
    fn publish(&self, worlds: u16, without: &[u16]) -> Instant {
        self.redis.set(RULES, &rules(&self.servers, worlds, without));
        let start = Instant::now();
        self.redis.publish(NOTIFY, "reload");
        start
    }

    /// Connects to a world, and gives the time until its server has answered.
    async fn visit(&self, world: u16) -> Duration {
        let watch = Stopwatch::start();
        assert_eq!(lands(self.edge(), game(world, 1)).await.unwrap(), self.server(world).name(), "{world}");
        watch.undisturbed()
    }

    /// The worlds whose cluster the edge has.
    fn held(&self) -> Vec<u16> {
        let mut worlds: Vec<_> = clusters(&self.stage, "game-gateway/").collect();
        worlds.sort_unstable();
        worlds
    }

    /// A player of this world is refused by the filter, at once.
    async fn refused(&self, world: u16) {
        let refused = self.stage.filter_stat("connections_refused_no_route_total");
        let mut client = GameClient::connect(self.edge()).await.unwrap();
        let watch = Stopwatch::start();
        client.send(&Frame::to_world(world, 1, "hello?")).await.unwrap();
        let closed = client.read_until_closed().await.unwrap();
        let after = watch.undisturbed();
        assert!(after < AT_ONCE && closed.bytes == 0, "world {world}: {after:?} {closed:?}");
        self.stage.wait_filter_stat("connections_refused_no_route_total", |now| now > refused);
    }
}

/// Rules for worlds from 1 on, but for some, each served by one of the servers in turn.
fn rules(servers: &[GameServer], worlds: u16, without: &[u16]) -> String {
    let rule = |world: u16| {
        let server = servers[usize::from(world) % servers.len()].address().to_string();
        let rule = json!({"server_type": GAME, "service_name": "world", "world_id": world,
            "strategy": "round_robin", "endpoints": [server]});
        (world.to_string(), rule)
    };
    let rules = (1..=worlds).filter(|world| !without.contains(world)).map(rule);
    Value::Object(rules.collect::<Map<_, _>>()).to_string()
}

/// The worlds of the clusters that the edge has whose names start like this.
fn clusters(stage: &Stage, prefix: &'static str) -> impl Iterator<Item = u16> {
    let list = stage.edge.clusters()["cluster_statuses"].as_array().cloned().unwrap_or_default();
    let names = list.into_iter().filter_map(|c| c["name"].as_str().map(str::to_owned));
    names
        .filter(move |name| name.starts_with(prefix))
        .map(|name| name.rsplit('/').next().unwrap().parse().unwrap())
}

/// Connects to a world that comes and goes until told to stop: to its server, or not at all. Gives how often, and
/// the longest time until either.
async fn probe(edge: SocketAddr, world: u16, server: String, stop: watch::Receiver<bool>) -> (u32, Duration) {
    let (mut probes, mut slowest) = (0, Duration::ZERO);
    while !*stop.borrow() {
        let start = Instant::now();
        if let Ok(name) = lands(edge, game(world, 1)).await {
            assert_eq!(name, server);
        }
        slowest = slowest.max(start.elapsed());
        probes += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (probes, slowest)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn first_players_of_many_worlds_are_served_without_a_wait() {
    let worlds = Worlds::start(TestNet::alone(), WORLDS).await;
    let edge = worlds.edge();
    until_lands(edge, game(WORLDS, 1), Some(worlds.server(WORLDS).name()), Instant::now()).await;
    assert_eq!(worlds.held(), [WORLDS], "an edge has the worlds of its players and no other");
    worlds.refused(WORLDS + 1).await;

    let (mut first, mut second) = (Vec::new(), Vec::new());
    let visited: Vec<u16> = (1..=20).map(|n| n * 1009).collect();
    for &world in &visited {
        first.push(worlds.visit(world).await);
        second.push(worlds.visit(world).await);
    }
    let more = first.iter().zip(&second).map(|(first, second)| first.saturating_sub(*second)).collect();
    let slowest = first.iter().max().copied().unwrap();
    let (more, second) = (median(more), median(second));
    println!(
        "the first player of a world waits {more:?} more than the second's {second:?}, at most {slowest:?}"
    );
    assert!(more < FIRST_PLAYER, "{first:?}");
    assert_eq!(worlds.held(), [visited, vec![WORLDS]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn worlds_that_go_and_come_again_work_and_spare_who_plays() {
    const GONE: u16 = 7;
    let mut worlds = Worlds::start(TestNet::alone(), 40).await;
    let edge = worlds.edge();
    let (stop, stopped) = watch::channel(false);
    // Whatever happens meanwhile, nobody gets to another world.
    let probing = tokio::spawn(probe(edge, GONE, worlds.server(GONE).name().to_owned(), stopped.clone()));
    let playing = [GONE, 8].map(|world| tokio::spawn(play(edge, world, stopped.clone())));
    wait_until("both play", LIMIT, || [GONE, 8].iter().all(|&world| worlds.server(world).live() >= 1));
    assert_eq!(worlds.held(), [GONE, 8]);

    for round in 0..5 {
        let start = worlds.publish(40, &[GONE]);
        until_lands(edge, game(GONE, 1), None, start).await;
        wait_until("the cluster is gone", LIMIT, || !worlds.held().contains(&GONE));
        worlds.refused(GONE).await;
        let start = worlds.publish(40, &[]);
        let name = worlds.server(GONE).name();
        let took = until_lands(edge, game(GONE, 1), Some(name), start).await;
        println!("round {round}: a world is back after {took:?}");
        assert!(worlds.held().contains(&GONE), "its cluster came without being asked for again");
        worlds.visit(9 + round).await;
    }

    // Without a control plane a new world has to wait, but not for ever, and all others go on.
    worlds.stage.control_plane.kill9();
    worlds.visit(8).await;
    let watch = Stopwatch::start();
    assert!(lands(edge, game(30, 1)).await.is_err());
    assert!(watch.elapsed() > Duration::from_secs(4), "{:?}", watch.elapsed());
    assert!(watch.undisturbed() < Duration::from_secs(7), "{:?}", watch.undisturbed());
    // An edge that reconnects says which clusters it has and wants, and asks for more as before.
    worlds.stage.control_plane.restart().unwrap();
    let proxies = |worlds: &Worlds| worlds.stage.control_plane.get("/v1/proxies").1;
    wait_until("the edge is back", LIMIT, || proxies(&worlds).contains(r#""sync":"synced""#));
    for world in [30, 31, 8] {
        worlds.visit(world).await;
    }
    assert_eq!(worlds.held(), [7, 8, 9, 10, 11, 12, 13, 30, 31]);
    let start = worlds.publish(40, &[GONE, 30]);
    until_lands(edge, game(30, 1), None, start).await;
    worlds.refused(GONE).await;

    stop.send_replace(true);
    let (probes, slowest) = probing.await.unwrap();
    println!("{probes} players came meanwhile, the longest wait was {slowest:?}");
    for player in playing {
        assert!(player.await.unwrap() > 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_edges_pay_nothing_for_thirty_thousand_worlds() {
    let mut stage = Stage::start(TestNet::alone(), &json!({})).unwrap();
    // One of the worlds is at the test's own address; an address is a name that resolves to itself.
    let IpAddr::V4(ip) = stage.net.ip() else { panic!("test addresses are IPv4") };
    let [_, world, third, fourth] = ip.octets();
    let server = GameServer::start("own", stage.net.at(port::GAME)).await.unwrap();
    let players = stage.players();
    let policy = |worlds: u16, timeout: &str| {
        let host = format!("127.{{world}}.{third}.{fourth}");
        let worlds = json!([format!("1-{worlds}")]);
        json!({
            "listeners": [{"name": "edge", "bind": players.to_string(), "clusters": "on_demand",
                "limits": crowd(&json!({"header_timeout": timeout}))}],
            "services": [{"name": "own", "dns": {"host": host, "port": port::GAME}}],
            "routes": [route("own", &worlds, "own")],
        })
        .to_string()
    };
    stage.control_plane.put_policy(&policy(10, "5s"));
    let few = resident_kib(stage.edge.process().pid()).unwrap();
    let mut took = [("5s", WORLDS), ("4s", WORLDS)].map(|(timeout, worlds)| {
        let start = Instant::now();
        stage.control_plane.put_policy(&policy(worlds, timeout));
        start.elapsed()
    });
    took.sort();
    let many = resident_kib(stage.edge.process().pid()).unwrap();
    println!(
        "{WORLDS} worlds by template: in force after {took:?}, an idle edge had {few} KiB and has {many} KiB"
    );
    assert!(many < few + 4096, "{few} KiB became {many}");
    assert_eq!(clusters(&stage, "own/").count(), 0);

    let watch = Stopwatch::start();
    assert_eq!(lands(players, game(world.into(), 1)).await.unwrap(), server.name());
    let waited = watch.undisturbed();
    println!("the first player of a world whose name has to be resolved is served after {waited:?}");
    assert!(waited < FIRST_PLAYER, "{waited:?}");
    assert_eq!(clusters(&stage, "own/").collect::<Vec<_>>(), [u16::from(world)]);
}

/// Puts another edge in the place of the first.
fn replace_edge(stage: &mut Stage, bootstrap: impl Fn(&str) -> String, builder: impl Fn(Builder) -> Builder) {
    stage.edge.process().terminate();
    let admin = stage.net.at(port::ADMIN);
    let text = bootstrap(&stage.control_plane.edge_bootstrap("edge-2", admin).unwrap());
    stage.edge = builder(Envoy::with(stage.net.dir(), text, admin).name("edge-2")).start().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_listeners_are_eager_for_state_of_the_world() {
    let mut worlds = Worlds::start(TestNet::new(), 40).await;
    let sotw = |text: &str| text.replace("api_type: DELTA_GRPC", "api_type: GRPC");
    replace_edge(&mut worlds.stage, sotw, |builder| builder);
    until_lands(worlds.edge(), game(40, 1), Some(worlds.server(40).name()), Instant::now()).await;
    assert_eq!(worlds.held(), (1..=40).collect::<Vec<_>>());
    let start = worlds.publish(40, &[7]);
    until_lands(worlds.edge(), game(7, 1), None, start).await;
    worlds.refused(7).await;
    worlds.visit(8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crowds_are_served_by_every_worker_of_the_newest_and_the_oldest_envoy() {
    for version in [None, Some("1.37")] {
        let mut worlds = Worlds::start(TestNet::new(), 200).await;
        replace_edge(&mut worlds.stage, str::to_owned, |builder| {
            let builder = builder.concurrency(2);
            version.map_or_else(|| builder.clone(), |version| builder.clone().version(version))
        });
        let edge = worlds.edge();
        until_lands(edge, game(200, 1), Some(worlds.server(200).name()), Instant::now()).await;
        let start = Instant::now();
        let mut players = JoinSet::new();
        for player in 0..600 {
            players.spawn(async move {
                let world = 1 + player % 200;
                (world, lands(edge, game(world, 1)).await.unwrap())
            });
        }
        for (world, name) in players.join_all().await {
            assert_eq!(name, worlds.server(world).name(), "world {world}");
        }
        println!("600 players at 200 new worlds at once: all served after {:?}", start.elapsed());
        assert_eq!(worlds.held().len(), 200);
    }
}
