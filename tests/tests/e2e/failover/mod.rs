//! Where players go when instances, targets and whole datacenters fail, and how they come back. Here without Consul: what
//! edges find out by themselves.

mod consul;
mod datacenters;
mod networks;
mod sidecars;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, GameProcess, Stage, Stopwatch, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::cast::{LIMIT, game, lands, route};

/// Game servers of one world in two datacenters, an edge, and a policy that prefers `aws`.
struct Scene {
    aws: Vec<GameProcess>,
    azure: GameProcess,
    stage: Stage,
}

/// The bound of an instance's failover.
const INSTANCE: Duration = Duration::from_secs(1);

/// Two refused checks.
const REFUSED: Duration = Duration::from_millis(1500);

/// Two checks that time out more.
const SILENT: Duration = Duration::from_millis(2500);

impl Scene {
    fn start(net: TestNet, more: &Value) -> Self {
        let process = |name: &str, at| GameProcess::start(name, net.at(port::GAME + at), net.dir()).unwrap();
        let aws = vec![process("aws-1", 0), process("aws-2", 1)];
        let azure = process("azure-1", 2);
        let stage = Stage::start(net, &json!({})).unwrap();
        let scene = Self { aws, azure, stage };
        scene.apply(more);
        scene
    }

    /// Applies the policy, with more in the service's `failover`.
    fn apply(&self, more: &Value) {
        let at = |server: &GameProcess| server.address().to_string();
        let mut failover = json!({
            "targets": [{"datacenter": "azure", "endpoints": [at(&self.azure)]}],
            "fail_back": {"after": "2s"},
        });
        failover.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let ping = json!({"ping": {"message_id": 77, "body": "00ff", "reply_body": "00ff"}});
        let service = json!({
            "name": "game", "datacenter": "aws", "endpoints": self.aws.iter().map(at).collect::<Vec<_>>(),
            "failover": failover, "health_check": {"check": ping},
        });
        let policy = json!({"listeners": self.stage.listener(&json!({})), "services": [service],
            "routes": [route("all", &json!("any"), "game")]});
        self.stage.control_plane.put_policy(&policy.to_string());
        let servers = self.aws.len() as u64 + 1;
        wait_until("all servers are well", LIMIT, || self.healthy() == servers);
    }

    fn healthy(&self) -> u64 {
        self.stage.edge.stat("cluster.game.membership_healthy")
    }

    /// Where new players land from now on: waits until so many in a row land in a place of this name.
    async fn until_all_land(&self, place: &str) {
        until_all_land(self.stage.players(), place).await;
    }

    async fn session(&self) -> (GameClient, String) {
        let mut client = GameClient::connect(self.stage.players()).await.unwrap();
        let on = client.who_are_you(game(1, 1)).await.unwrap();
        (client, on)
    }
}

/// Waits until ten players in a row land on servers whose names begin so.
pub(crate) async fn until_all_land(edge: SocketAddr, place: &str) {
    let start = Instant::now();
    let mut row = 0;
    while row < 10 {
        let on = lands(edge, game(1, 1)).await.unwrap_or_default();
        row = if on.starts_with(place) { row + 1 } else { 0 };
        assert!(start.elapsed() < LIMIT, "players land on {on:?} instead of {place}");
    }
}

/// Players who come one after the other until they are told to stop; gives where they landed.
async fn come(edge: SocketAddr, stop: watch::Receiver<bool>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !*stop.borrow() {
        seen.insert(lands(edge, game(1, 1)).await.unwrap());
        // Their pace; as fast as they can they would only take the processor.
        sleep(Duration::from_millis(2)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_is_replaced_within_a_second_and_the_last_by_another_datacenter() {
    let mut scene = Scene::start(TestNet::alone(), &json!({}));
    scene.until_all_land("aws").await;
    // Nobody is sent on while one is left.
    scene.aws[0].kill9();
    let watch = Stopwatch::start();
    let first = lands(scene.stage.players(), game(1, 1)).await.unwrap();
    let served = watch.undisturbed();
    println!("an instance was killed: the next player was served after {served:?}");
    assert!(first == "aws-2" && served < INSTANCE, "{first} after {served:?}");
    wait_until("it is found dead", LIMIT, || scene.healthy() == 2);
    let found = watch.undisturbed();
    assert!(found < REFUSED, "found dead after {found:?}");
    scene.until_all_land("aws-2").await;

    // The last one: a player who comes at once, and one whose session ends.
    let (mut session, on) = scene.session().await;
    assert_eq!(on, "aws-2");
    scene.aws[1].kill9();
    let watch = Stopwatch::start();
    assert!(session.exchange(&Frame::to_world(1, 1, "anybody?")).await.is_err());
    while lands(scene.stage.players(), game(1, 1)).await.ok().as_deref() != Some("azure-1") {
        assert!(watch.elapsed() < LIMIT);
    }
    let served = watch.undisturbed();
    println!("the last instance was killed: served by the other datacenter after {served:?}");
    assert!(served < REFUSED, "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_loses_its_players_and_gets_them_back_after_a_while() {
    let mut scene = Scene::start(TestNet::new(), &json!({}));
    let mut sessions = Vec::new();
    while sessions.len() < 4 {
        sessions.push(scene.session().await.0);
    }
    for server in &mut scene.aws {
        server.hang();
    }
    let watch = Stopwatch::start();
    for session in sessions {
        session.read_until_closed().await.unwrap();
    }
    let closed = watch.undisturbed();
    scene.until_all_land("azure").await;
    let served = watch.undisturbed();
    println!(
        "all instances hang: sessions closed after {closed:?}, players served elsewhere after {served:?}"
    );
    assert!(closed < SILENT + INSTANCE && served < SILENT + INSTANCE, "{closed:?}, {served:?}");

    let (mut stays, _) = scene.session().await;
    let start = Instant::now();
    for server in &mut scene.aws {
        server.go_on();
    }
    while lands(scene.stage.players(), game(1, 1)).await.unwrap() == "azure-1" {
        assert!(start.elapsed() < LIMIT, "nobody goes back");
    }
    let back = start.elapsed();
    println!("players go back after {back:?} of 2 s");
    assert!(back > Duration::from_millis(1700), "{back:?}");
    scene.until_all_land("aws").await;
    // Whoever plays on the other side stays there.
    assert_eq!(stays.who_are_you(game(1, 1)).await.unwrap(), "azure-1");

    // Without closing, sessions wait for a server that hangs.
    scene.apply(&json!({"close_connections": false}));
    scene.until_all_land("aws").await;
    let (session, _) = scene.session().await;
    for server in &mut scene.aws {
        server.hang();
    }
    wait_until("both are found to hang", LIMIT, || scene.healthy() == 1);
    for server in &mut scene.aws {
        server.go_on();
    }
    let mut session = session;
    assert!(session.who_are_you(game(1, 1)).await.unwrap().starts_with("aws"));
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_the_players_goes_on_where_that_is_asked_for() {
    let mut scene = Scene::start(TestNet::new(), &json!({"spill_below": 100}));
    scene.until_all_land("aws").await;
    scene.aws[1].kill9();
    wait_until("it is found dead", LIMIT, || scene.healthy() == 2);
    // Half of aws is well: half of the players go on. Out of 60, fewer than 10 or more than 50 come once in a million.
    let mut shares = [0, 0];
    let start = Instant::now();
    while shares[1] == 0 {
        assert!(start.elapsed() < LIMIT, "nobody goes on");
        shares[1] += usize::from(lands(scene.stage.players(), game(1, 1)).await.unwrap() == "azure-1");
    }
    shares = [0, 0];
    for _ in 0..60 {
        let on = lands(scene.stage.players(), game(1, 1)).await.unwrap();
        shares[usize::from(on == "azure-1")] += 1;
    }
    assert!(shares.iter().all(|&share| share > 9), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_targets_in_their_turn_for_an_edge_of_each_datacenter() {
    let scene = Scene::start(TestNet::new(), &json!({"order": "lowest_latency"}));
    let first = |datacenter: &str| {
        let path = format!("/v1/explain?server_type=200&world=1&instance=1&datacenter={datacenter}");
        let (status, body) = scene.stage.control_plane.get(&path);
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["destinations"][0]["targets"][0].clone()
    };
    assert_eq!(first("aws")["endpoints"].as_array().unwrap().len(), 2);
    let azure = first("azure");
    assert_eq!((&azure["datacenter"], &azure["priority"]), (&json!("azure"), &json!(0)));
    assert!(azure["why"].as_str().unwrap().contains("the edge's own datacenter"), "{azure}");
    let question =
        ["explain", "--server-type", "200", "--world", "1", "--instance", "1", "--datacenter", "azure"];
    let output = scene.stage.control_plane.realmgate(&question).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("priority 1 game in aws"), "{text}");
}
