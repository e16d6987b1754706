//! Two datacenters, each a network of its own with an edge, a control plane and game servers: one is cut off, and comes
//! back. Every edge prefers its own datacenter.
//!
//! ```text
//!            players (here)
//!           /              \
//!    aws: edge, control     azure: edge, control
//!    plane, game server ---- plane, game server
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use realmgate_tests::netns::{Link, Namespace};
use realmgate_tests::stage::port;
use realmgate_tests::{
    ControlPlane, Envoy, Failure, Frame, GameClient, GameProcess, TestNet, parts, wait_until,
};
use serde_json::{Value, json};

use super::until_all_land;
use crate::cast::{LIMIT, game, lands, route};

/// What a whole datacenter may cost a player, and what is aimed at.
const BOUND: Duration = Duration::from_secs(5);
const TARGET: Duration = Duration::from_millis(2500);

/// How long a target has to be well before it gets players back.
const AFTER: Duration = Duration::from_secs(2);

/// One datacenter. What runs stops before its network goes.
struct Datacenter {
    name: &'static str,
    game: GameProcess,
    edge: Envoy,
    control_plane: ControlPlane,
    players: Link,
    _namespace: Namespace,
}

struct Two {
    aws: Datacenter,
    azure: Datacenter,
    between: Link,
    _net: TestNet,
}

impl Datacenter {
    /// Where it is on the link to the players.
    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.players.ends[1]), port)
    }

    /// Where a new player lands.
    async fn land(&self) -> std::io::Result<String> {
        lands(self.at(port::PLAYERS), game(1, 1)).await
    }

    async fn session(&self) -> (GameClient, String) {
        let mut client = GameClient::connect(self.at(port::PLAYERS)).await.unwrap();
        let on = client.who_are_you(game(1, 1)).await.unwrap();
        (client, on)
    }
}

impl Two {
    /// `None` where there is no right to make networks.
    fn start(net: TestNet, order: &str) -> Option<Self> {
        let namespaces = Namespace::new().and_then(|one| Ok((one, Namespace::new()?)));
        let (one, two) = match namespaces {
            Ok(namespaces) => namespaces,
            Err(why) => {
                println!("skipped: cannot make network namespaces: {why}");
                return None;
            }
        };
        Some(Self::start_in(net, [one, two], order).unwrap_or_else(|failure| panic!("{failure}")))
    }

    fn start_in(net: TestNet, [one, two]: [Namespace; 2], order: &str) -> Result<Self, Failure> {
        let between = two.link_with(&one)?;
        let [aws_end, azure_end] = between.ends.map(|ip| SocketAddr::new(IpAddr::V4(ip), port::GAME));
        let start = |name: &'static str, namespace: Namespace, game: SocketAddr| -> Result<_, Failure> {
            let dir = net.dir().join(name);
            let players = namespace.link_here()?;
            Datacenter::start(name, namespace, players, game, &dir)
        };
        let (aws, azure) = (start("aws", one, aws_end)?, start("azure", two, azure_end)?);
        let two = Self { aws, azure, between, _net: net };
        for datacenter in [&two.aws, &two.azure] {
            datacenter.control_plane.put_policy(&two.policy(datacenter, order).to_string());
        }
        Ok(two)
    }

    /// The same for both but for the address on which players come in.
    fn policy(&self, datacenter: &Datacenter, order: &str) -> Value {
        let listener = json!({"name": "edge", "bind": datacenter.at(port::PLAYERS).to_string()});
        let service = json!({
            "name": "game", "datacenter": "aws", "endpoints": [self.aws.game.address().to_string()],
            "failover": {
                "order": order, "fail_back": {"after": format!("{}ms", AFTER.as_millis())},
                "targets": [{"datacenter": "azure", "endpoints": [self.azure.game.address().to_string()]}],
            },
            "health_check": {"check": {"ping": {"message_id": 77}}},
        });
        json!({"listeners": [listener], "services": [service], "routes": [route("all", &json!("any"), "game")]})
    }

    /// Cuts all of aws off at once, from players and from azure.
    fn cut_aws(&self) {
        self.aws.players.cut();
        self.between.cut();
    }

    fn mend_aws(&self) {
        self.aws.players.mend();
        self.between.mend();
    }
}

impl Datacenter {
    fn start(
        name: &'static str,
        namespace: Namespace,
        players: Link,
        game: SocketAddr,
        dir: &Path,
    ) -> Result<Self, Failure> {
        let at = |port| SocketAddr::new(IpAddr::V4(players.ends[1]), port);
        std::fs::create_dir_all(dir).map_err(Failure::because("a folder"))?;
        let here = Some(&namespace);
        let game = GameProcess::start_in(here, &format!("{name}-1"), game, dir)?;
        let settings = json!({
            "filter": {"path": parts::FILTER.find()?},
            "edge": {"health_listen": ""},
            "xds": {"insecure": true}, "api": {"insecure": true},
        });
        let control_plane = ControlPlane::start_in(here, dir, at(port::XDS), at(port::API), &settings)?;
        let admin = at(port::ADMIN);
        let bootstrap = control_plane.edge_bootstrap_with(name, admin, &["--datacenter", name])?;
        let edge = Envoy::with(dir, bootstrap, admin).name("edge").within(here).start()?;
        Ok(Self { name, game, edge, control_plane, players, _namespace: namespace })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn players_of_a_datacenter_that_is_cut_off_are_served_by_the_other() {
    let Some(mut two) = Two::start(TestNet::alone(), "lowest_latency") else { return };
    for datacenter in [&two.aws, &two.azure] {
        until_all_land(datacenter.at(port::PLAYERS), datacenter.name).await;
    }
    let (session, on) = two.azure.session().await;
    assert_eq!(on, "azure-1");

    // A player of aws gives up on it and comes to the edge that is left.
    two.cut_aws();
    let start = Instant::now();
    assert_eq!(two.azure.land().await.unwrap(), "azure-1");
    let served = start.elapsed();
    println!("aws is cut off: the surviving edge served after {served:?}");
    assert!(served < BOUND, "{served:?}");

    // Split brain: both serve their own. The players' link to aws comes back first.
    two.aws.players.mend();
    for datacenter in [&two.aws, &two.azure] {
        until_all_land(datacenter.at(port::PLAYERS), datacenter.name).await;
    }
    // Each takes changes, and knows that it lost sight of the other.
    wait_until("aws lost sight of azure", LIMIT, || {
        two.aws.edge.stat("cluster.game.membership_healthy") == 1
    });

    // Healed: nobody moves, and what played plays on.
    two.between.mend();
    wait_until("aws sees azure again", LIMIT, || two.aws.edge.stat("cluster.game.membership_healthy") == 2);
    for datacenter in [&two.aws, &two.azure] {
        until_all_land(datacenter.at(port::PLAYERS), datacenter.name).await;
    }
    let mut session = session;
    assert_eq!(session.who_are_you(game(1, 1)).await.unwrap(), "azure-1");

    // The control plane of one dies: traffic goes on, failover too.
    two.azure.control_plane.kill9();
    assert_eq!(two.azure.land().await.unwrap(), "azure-1");
    two.azure.game.kill9();
    until_all_land(two.azure.at(port::PLAYERS), "aws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_lives_in_a_datacenter_that_is_cut_off_moves_and_comes_back_without_flapping() {
    let Some(two) = Two::start(TestNet::alone(), "listed") else { return };
    until_all_land(two.azure.at(port::PLAYERS), "aws").await;
    let (session, on) = two.azure.session().await;
    assert_eq!(on, "aws-1");

    two.cut_aws();
    let start = Instant::now();
    // The player notices nothing but silence: the edge has to end the session.
    let watched = tokio::spawn(session.read_until_closed());
    // And one who comes in the middle of it, on a connection that cannot be made.
    assert_eq!(two.azure.land().await.unwrap(), "azure-1");
    let served = start.elapsed();
    let closed = watched.await.unwrap().unwrap().after;
    println!(
        "aws is cut off: players were served by azure after {served:?}, sessions closed after {closed:?}"
    );
    assert!(served < BOUND && closed < BOUND, "{served:?}, {closed:?}");
    if served > TARGET {
        println!("that is more than the {TARGET:?} aimed at");
    }
    let (mut stays, _) = two.azure.session().await;

    // A link that comes and goes within the time of the way back moves nobody.
    two.mend_aws();
    let blink = Instant::now();
    while blink.elapsed() < AFTER / 2 {
        assert_eq!(two.azure.land().await.unwrap(), "azure-1");
    }
    two.cut_aws();
    let quiet = Instant::now();
    while quiet.elapsed() < AFTER {
        assert_eq!(two.azure.land().await.unwrap(), "azure-1");
    }
    two.mend_aws();
    let healed = Instant::now();
    while two.azure.land().await.unwrap() == "azure-1" {
        assert!(healed.elapsed() < LIMIT, "nobody goes back");
    }
    let back = healed.elapsed();
    println!("aws came back: the first player went back after {back:?}, with {AFTER:?} asked for");
    assert!(back > AFTER.mul_f64(0.85), "{back:?}");
    until_all_land(two.azure.at(port::PLAYERS), "aws").await;
    let frame = Frame::to_world(1, 1, "still here");
    assert_eq!(stays.exchange(&frame).await.unwrap(), frame);
}
