//! What a sidecar bears of its peers: how many, and how long one that says nothing.

use std::time::{Duration, Instant};

use realmgate_tests::wait_until;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::naming::lines;
use super::peers::is_answered;
use super::{Mesh, id, intention, policy};
use crate::cast::LIMIT;

const MOST: usize = 3;

/// Makes these the bounds, while `web` alone is let in.
fn bound(mesh: &Mesh, sidecars: &Value) {
    let web = json!([intention("web", "api", "allow")]);
    let mut all: Value = serde_json::from_str(&policy(&mesh.net, &web, "deny")).unwrap();
    all["listeners"][0]["limits"] = json!({"idle_timeout": "0"});
    all["sidecars"] = sidecars.clone();
    mesh.control_plane.put_policy(&all.to_string());
}

/// Without the guard, which is not there.
pub(super) async fn hold(mesh: &Mesh, version: Option<&str>) {
    let authority = mesh.authority();
    let [web, cron] = ["web", "cron"].map(|name| authority.peer(&id(name)));

    bound(mesh, &json!({ "connections": MOST }));
    let mut sessions = Vec::new();
    while sessions.len() < MOST {
        // Envoy acknowledges a filter before its workers go by it.
        let mut session = web.connect(mesh.inbound()).await.unwrap();
        if is_answered(&mut session).await {
            sessions.push(session);
        }
    }
    let active = || mesh.sidecar.stat("connection_limit.inbound.active_connections");
    wait_until("all are counted", LIMIT, || active() == MOST as u64);
    assert!(!web.is_let_in(mesh.inbound()).await, "{version:?}: one too many is let in");
    let last = || lines(mesh).pop().unwrap();
    wait_until("it is logged", LIMIT, || last()["authz"] != "");
    assert_eq!((&last()["source"], &last()["server"]), (&json!(""), &Value::Null));
    sessions.pop();
    wait_until("one has left", LIMIT, || active() < MOST as u64);
    assert!(web.is_let_in(mesh.inbound()).await, "{version:?}: nobody takes the place of one who left");
    for session in &mut sessions {
        assert!(is_answered(session).await, "{version:?}: a bound ended a session");
    }
    drop(sessions);

    bound(mesh, &json!({"idle_timeout": "500ms"}));
    let until_closed = async |peer: &super::Peer| {
        let Ok(mut silent) = peer.connect(mesh.inbound()).await else { return None };
        let start = Instant::now();
        let end = timeout(LIMIT, silent.read(&mut [0; 1])).await.expect("a silent peer stays");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        Some(start.elapsed())
    };
    for (name, peer) in [("web", &web), ("cron", &cron)] {
        let closed = until_closed(peer).await.unwrap_or_else(|| panic!("{version:?}: {name} cannot connect"));
        println!("{version:?}: {name}, who said nothing, was shown out after {closed:?}");
        assert!(closed >= Duration::from_millis(300), "{version:?}: {name} had {closed:?}");
    }
}
