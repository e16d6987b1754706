//! `intentions_close`: an intention that now forbids a peer ends the connections that it has.

use std::time::Duration;

use realmgate_tests::stage::port;
use realmgate_tests::{GameClient, Stage, Stopwatch, wait_until};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::peers::is_answered;
use super::{Mesh, id, intention, policy};
use crate::cast::{LIMIT, game, lands};

#[tokio::test(flavor = "multi_thread")]
async fn an_intention_that_closes_ends_the_sessions_that_it_forbids_and_no_others() {
    let mesh = Mesh::start(&json!({})).await;
    let intend = |intentions: Value, default: &str| {
        let mut all: Value = serde_json::from_str(&policy(&mesh.net, &intentions, default)).unwrap();
        all["intentions_close"] = json!(true);
        mesh.control_plane.put_policy(&all.to_string());
    };
    intend(json!([]), "allow");
    let _edge = Stage::edge(&mesh.net, &mesh.control_plane).unwrap();
    let authority = mesh.authority();
    let [web, cron] = ["web", "cron"].map(|name| authority.peer(&id(name)));
    let closed = || mesh.sidecar.stat("wasmcustom.realmgate_connections_closed_by_intention_total");
    let players = mesh.net.at(port::PLAYERS);
    let mut player = GameClient::connect(players).await.unwrap();
    assert_eq!(player.who_are_you(game(1, 1)).await.unwrap(), "game-1");
    let mut of_cron = cron.connect(mesh.inbound()).await.unwrap();
    assert!(is_answered(&mut of_cron).await);

    // Denied by name where all others are allowed, then by being named no more where all others are denied.
    let others = [intention("cron", "api", "allow"), intention("realmgate-edge", "api", "allow")];
    for (round, (list, default)) in
        [(json!([intention("web", "api", "deny")]), "allow"), (json!(others), "deny")].into_iter().enumerate()
    {
        intend(json!([]), "allow");
        // Envoy acknowledges rules before its worker goes by them.
        let let_in = async {
            loop {
                let Ok(mut of_web) = web.connect(mesh.inbound()).await else { continue };
                if is_answered(&mut of_web).await {
                    return of_web;
                }
            }
        };
        let mut of_web = timeout(LIMIT, let_in).await.expect("it is never let in");
        let watch = Stopwatch::start();
        intend(list, default);
        let end = timeout(LIMIT, of_web.read(&mut [0; 1])).await.expect("the session goes on");
        let took = watch.undisturbed();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        assert!(took < Duration::from_secs(1), "the session went on for {took:?}");
        println!("an intention closed a session after {took:?}");
        wait_until("it is counted", LIMIT, || closed() > 2 * round as u64);
        assert!(!web.is_let_in(mesh.inbound()).await, "it came back");
        // A denied peer that stays silent is shown out, too.
        let mut silent = web.connect(mesh.inbound()).await.unwrap();
        let end = timeout(LIMIT, silent.read(&mut [0; 1])).await.expect("a silent peer stays");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        wait_until("all are gone", LIMIT, || mesh.server.live() == 2);
        assert!(is_answered(&mut of_cron).await, "the session of another service ended");
        assert_eq!(player.who_are_you(game(1, 1)).await.unwrap(), "game-1");
    }
    assert_eq!(lands(players, game(1, 1)).await.unwrap(), "game-1");
}
