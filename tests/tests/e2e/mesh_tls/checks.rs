//! Checks of an edge that only connect, at a sidecar: none stays there, and they find one that hangs.

use std::time::Instant;

use realmgate_tests::stage::{crowd, port};
use realmgate_tests::{Envoy, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::naming::lines;
use super::{Mesh, intention, policy};
use crate::cast::{LIMIT, game, lands, until_lands};
use crate::live_sessions::play;

/// Many more than may be at a sidecar at once.
const CHECKS: u64 = 30;

fn active(mesh: &Mesh) -> u64 {
    mesh.sidecar.stat("listener.inbound.downstream_cx_active")
}

/// Neither connections nor, where that is wanted, lines in the log. The edge is of this version, too.
pub(super) async fn leave_nothing_behind(mesh: &mut Mesh, version: Option<&str>) {
    let put = |mesh: &Mesh, check: Option<&Value>, sidecars: &Value| {
        let allowed = json!([intention("realmgate-edge", "api", "allow")]);
        let mut all: Value = serde_json::from_str(&policy(&mesh.net, &allowed, "deny")).unwrap();
        all["listeners"][0]["limits"] = crowd(&json!({}));
        if let Some(check) = check {
            all["services"][0]["health_check"] = check.clone();
        }
        all["sidecars"] = sidecars.clone();
        mesh.control_plane.put_policy(&all.to_string());
    };
    let admin = mesh.net.at(port::ADMIN);
    let bootstrap = mesh.control_plane.edge_bootstrap("edge-1", admin).unwrap();
    let edge = Envoy::with(mesh.net.dir(), bootstrap, admin).name("edge").tells_at_once();
    let edge = version.iter().fold(edge, |edge, version| edge.version(version)).start().unwrap();
    put(mesh, None, &json!({}));
    let players = mesh.net.at(port::PLAYERS);
    until_lands(players, game(1, 1), Some("game-1"), Instant::now()).await;
    let (stop, stopped) = watch::channel(false);
    let session = tokio::spawn(play(players, 1, stopped));
    wait_until("the session is live", LIMIT, || mesh.server.live() == 1);

    // As after an upgrade: a session whose cluster gets another definition.
    let check = json!({"check": "tcp", "interval": "50ms", "timeout": "2s", "unhealthy_threshold": 2});
    put(mesh, Some(&check), &json!({}));
    let cluster = |stat: &str| edge.stat(&format!("cluster.api.{stat}"));
    wait_until("the checks go on", LIMIT, || cluster("health_check.success") > CHECKS);
    println!("{version:?}: {} connections after {} checks", active(mesh), cluster("health_check.success"));
    // The session, and a check that comes or goes.
    wait_until("checks leave the sidecar", LIMIT, || active(mesh) <= 3);
    wait_until("the sidecar is well", LIMIT, || cluster("membership_healthy") == 1);
    assert_eq!(mesh.server.live(), 1, "{version:?}: the game server heard of checks");
    assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1", "{version:?}");

    if version.is_none() {
        // The kernel accepts for it still.
        mesh.sidecar.process().signal(Signal::STOP);
        wait_until("a sidecar that hangs is found", LIMIT, || cluster("membership_healthy") == 0);
        mesh.sidecar.process().signal(Signal::CONT);
        wait_until("it is well again", LIMIT, || cluster("membership_healthy") == 1);
        until_lands(players, game(2, 1), Some("game-1"), Instant::now()).await;
    }
    stop.send_replace(true);
    assert!(session.await.unwrap() > 0, "{version:?}: the session ended");

    // The listener of before may have a last line to write.
    put(mesh, Some(&check), &json!({"log_nameless": false}));
    wait_until("checks are logged no more", LIMIT, || {
        let (logged, checked) = (lines(mesh).len(), cluster("health_check.success"));
        wait_until("the checks go on", LIMIT, || cluster("health_check.success") > checked + 10);
        lines(mesh).len() == logged
    });
    let logged = lines(mesh).len();
    assert_eq!(lands(players, game(2, 1)).await.unwrap(), "game-1", "{version:?}");
    wait_until("a player's connection is logged", LIMIT, || lines(mesh).len() > logged);
    drop(edge);
    wait_until("all are gone", LIMIT, || active(mesh) == 0);
}
