//! Game servers that die or hang behind sidecars that live on: the edge's checks go through these, by mutual TLS.
//!
//! ```text
//! players -- edge --+-- sidecar -- game server 1, the first choice
//!                   +-- sidecar -- game server 2
//! ```

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{
    ControlPlane, Envoy, Frame, GameClient, GameProcess, Stage, Stopwatch, TestNet, parts, wait_until,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{INSTANCE, until_all_land};
use crate::cast::{LIMIT, game, lands, route};

/// Where the first sidecar listens; the other follows.
const INBOUND: u16 = 20_500;

/// The times of checks that docs/failover.md gives where a server that hangs must cost no more than a second.
const INTERVAL: &str = "100ms";
const TIMEOUT: &str = "250ms";

/// How many come at the moment of the failure.
const PLAYERS: u16 = 8;

/// Everything stops in the order of the fields.
struct Mesh {
    edge: Envoy,
    sidecars: Vec<Envoy>,
    servers: Vec<GameProcess>,
    _control_plane: ControlPlane,
    net: TestNet,
}

impl Mesh {
    fn start(net: TestNet) -> Self {
        let control_plane = Stage::control_plane(&net, &json!({"mesh": {"ca": "embedded"}})).unwrap();
        let inbound = |n: u16| net.at(INBOUND + n).to_string();
        let service = json!({
            "name": "game", "endpoints": [inbound(0)], "tls": "mesh",
            "failover": {"targets": [{"endpoints": [inbound(1)]}], "fail_back": {"after": "1s"}},
            "health_check": {"check": {"ping": {"message_id": 77}}, "interval": INTERVAL, "timeout": TIMEOUT},
        });
        let listener =
            json!({"name": "edge", "bind": net.at(port::PLAYERS).to_string(), "limits": crowd(&json!({}))});
        let intention = json!({"source": "realmgate-edge", "destination": "game", "action": "allow"});
        let policy = json!({
            "listeners": [listener], "services": [service], "routes": [route("all", &json!("any"), "game")],
            "intentions": [intention], "default_intention": "deny",
        });
        control_plane.put_policy(&policy.to_string());
        let start = |n: u16| {
            let name = format!("game-{}", n + 1);
            let server = GameProcess::start(&name, net.at(port::GAME + n), net.dir()).unwrap();
            let (inbound, app) = (inbound(n), server.address().to_string());
            let more = ["--service", "game", "--inbound", &inbound, "--app", &app];
            let admin = net.at(port::ADMIN + 1 + n);
            let bootstrap = control_plane.bootstrap("sidecar", &name, admin, &more).unwrap();
            let sidecar =
                Envoy::with(net.dir(), bootstrap, admin).name(&format!("sidecar-{name}")).start().unwrap();
            (sidecar, server)
        };
        let (sidecars, servers) = (0..2).map(start).unzip();
        let edge = Stage::edge(&net, &control_plane).unwrap();
        Self { edge, sidecars, servers, _control_plane: control_plane, net }
    }

    fn players(&self) -> SocketAddr {
        self.net.at(port::PLAYERS)
    }

    async fn all_well(&self) {
        wait_until("both are well", LIMIT, || self.edge.stat("cluster.game.membership_healthy") == 2);
        until_all_land(self.players(), "game-1").await;
    }

    /// The longest that a player who comes now waits until the second game server serves, and all that come after.
    async fn served_elsewhere(&self, watch: Stopwatch) -> Duration {
        let edge = self.players();
        let mut players = JoinSet::new();
        for _ in 0..PLAYERS {
            players.spawn(async move {
                while lands(edge, game(1, 1)).await.ok().as_deref() != Some("game-2") {
                    assert!(watch.elapsed() < LIMIT, "the player is not served");
                    // Players do not come back faster than that.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        players.join_all().await;
        let served = watch.undisturbed();
        until_all_land(edge, "game-2").await;
        served
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn players_are_served_elsewhere_within_a_second_when_a_server_hangs_or_dies_behind_its_sidecar() {
    let document = fs::read_to_string(parts::workspace().join("docs/failover.md")).unwrap();
    assert!(
        document.contains(&format!("`interval: {INTERVAL}` and `timeout: {TIMEOUT}`")),
        "the document differs"
    );
    let mut mesh = Mesh::start(TestNet::alone());
    mesh.all_well().await;
    let let_in = mesh.sidecars[1].stat("connect_authz.rbac.allowed");
    for failure in ["hangs", "is killed"] {
        let mut session = GameClient::connect(mesh.players()).await.unwrap();
        assert_eq!(session.who_are_you(game(1, 1)).await.unwrap(), "game-1");
        if failure == "hangs" {
            mesh.servers[0].hang();
        } else {
            mesh.servers[0].kill9();
        }
        let watch = Stopwatch::start();
        let watched = tokio::spawn(async move {
            // Whoever hears nothing is told, by the end of the session.
            let silence = session.exchange(&Frame::to_world(1, 1, "anybody?")).await;
            (silence.is_err(), watch.undisturbed())
        });
        let served = mesh.served_elsewhere(watch).await;
        let (closed, after) = watched.await.unwrap();
        println!(
            "a game server {failure} behind its sidecar: players served by the other after {served:?}, its session \
             closed after {after:?}"
        );
        assert!(closed && after < INSTANCE && served < INSTANCE, "{failure}: {served:?}, {after:?}");
        if failure == "hangs" {
            mesh.servers[0].go_on();
            mesh.all_well().await;
        }
    }
    assert!(mesh.sidecars[1].stat("connect_authz.rbac.allowed") > let_in, "nobody came by its sidecar");
}
