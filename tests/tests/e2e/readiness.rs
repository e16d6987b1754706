//! Readiness tells the truth: what an edge answers at `/ready`, and what the control plane says of it and of itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use realmgate_tests::readiness::{
    WAY, answer, deploy, edge, heals, module_file, policy, proxy, ready, reasons, until_only, until_well,
};
use realmgate_tests::stage::port;
use realmgate_tests::{ControlPlane, Stage, TestNet, modules, parts, wait_until};
use serde_json::{Value, json};

use crate::cast::{LIMIT, game, lands, servers};

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_envoy_fetches_its_filter_when_the_way_returns() {
    heals(None, Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_envoy_fetches_its_filter_when_the_way_returns() {
    heals(Some("1.37"), Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_module_that_is_put_right_heals_edges() {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    let bad = net.at(WAY).to_string();
    let settings = json!({"filter": {"delivery": "http", "advertise": bad}});
    let mut control_plane = Stage::control_plane(&net, &settings).unwrap();
    control_plane.put_policy(&policy(&net, &servers));
    let _edge = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "filter_rejected");
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()));

    let config = net.dir().join("realmgate.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&bad, &net.at(port::API).to_string())).unwrap();
    control_plane.restart().unwrap();
    until_well(&net, &control_plane);
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_module_nobody_is_ready_and_the_last_good_one_outlives_a_bad_one() {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    deploy(&net, b"no module");
    let settings = json!({"filter": {"path": module_file(&net)}});
    let mut control_plane = Stage::control_plane(&net, &settings).unwrap();
    let (status, body) = control_plane.readyz();
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &said["reasons"]), (503, &json!(["filter_module"])), "{body}");
    assert_eq!(
        (&said["filter_module"]["state"], &said["filter_module"]["reason"]),
        (&json!("missing"), &json!("not_wasm"))
    );
    control_plane.put_policy(&policy(&net, &servers));
    let mut envoy = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "no_filter_module");
    // Envoy waits 15 s for filters that nobody tells it of before it opens any listener.
    wait_until("the edge says so", LIMIT * 3, || ready(&net) == (503, "no_filter\n".to_owned()));
    let (_, proxies) = control_plane.get("/v1/proxies");
    assert!(proxies.contains("\"pending\"") && !proxies.contains("\"synced\""), "{proxies}");

    // Where only this machine lacks the file edges are told its path, and say whether they have it.
    fs::remove_file(module_file(&net)).unwrap();
    until_only(&control_plane, "filter_missing");
    assert_eq!((ready(&net).0, control_plane.readyz().0), (503, 503));
    deploy(&net, &modules::good());
    // Edges may find it before the control plane does.
    wait_until("the control plane is ready", LIMIT, || control_plane.readyz().0 == 200);
    until_well(&net, &control_plane);

    deploy(&net, &modules::good()[..5_000]);
    let state = |control_plane: &ControlPlane| answer(control_plane, "/readyz")["filter_module"].take();
    wait_until("it is refused", LIMIT, || state(&control_plane)["reason"] == "malformed");
    for _ in 0..2 {
        wait_until("the last good one serves, and that is told", LIMIT, || {
            let (_, metrics) = control_plane.get("/metrics");
            let told = ["up 0", "refusals_total{reason=\"malformed\"} 1"];
            state(&control_plane)["state"] == "degraded"
                && control_plane.readyz().0 == 200
                && told.iter().all(|row| metrics.contains(&format!("realmgate_filter_module_{row}")))
        });
        until_well(&net, &control_plane);
        control_plane.restart().unwrap();
    }
    // An edge that starts now finds what is there, and is not ready.
    envoy.process().terminate();
    let _edge = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "filter_rejected");
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()));
    deploy(&net, &modules::good());
    until_well(&net, &control_plane);
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_a_new_filter_is_ready_while_it_has_an_earlier_one() {
    let net = TestNet::new();
    let servers = servers(&net, 1, 0).await;
    deploy(&net, &modules::good());
    let settings = json!({"filter": {"path": module_file(&net)}});
    let mut control_plane = Stage::control_plane(&net, &settings).unwrap();
    control_plane.put_policy(&policy(&net, &servers));
    let mut envoy = edge(&net, &control_plane, None, &[]);
    until_well(&net, &control_plane);
    let good = proxy(&control_plane)["module_sha256"].take();

    deploy(&net, &modules::refusing());
    let rejects =
        |control_plane: &ControlPlane| reasons(control_plane) == ["filter_rejected", "stale_module"];
    wait_until("it refuses, and is stale", LIMIT, || rejects(&control_plane));
    assert_eq!((ready(&net).0, &proxy(&control_plane)["module_sha256"]), (200, &good));
    assert_eq!(lands(net.at(port::PLAYERS), game(1, 1)).await.unwrap(), "game-1");
    // Envoy acknowledges what it has just refused, if it is the very same.
    control_plane.restart().unwrap();
    wait_until("it is back and refuses", LIMIT, || reasons(&control_plane) == ["filter_rejected"]);
    assert_eq!((ready(&net).0, proxy(&control_plane)["sync"].take()), (200, json!("rejecting")));

    envoy.process().terminate();
    let mut envoy = edge(&net, &control_plane, None, &[]);
    until_only(&control_plane, "filter_rejected");
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()));
    control_plane.kill9();
    assert_eq!(ready(&net), (503, "no_filter\n".to_owned()), "without a control plane it is what it was");
    control_plane.restart().unwrap();
    deploy(&net, &modules::next());
    until_well(&net, &control_plane);
    control_plane.kill9();
    assert_eq!(ready(&net).0, 200);

    envoy.process().terminate();
    control_plane.restart().unwrap();
    let _edge = edge(&net, &control_plane, None, &["--listener", "gone"]);
    until_only(&control_plane, "no_listener");
    wait_until("the edge says so", LIMIT, || ready(&net) == (503, "no_listener\n".to_owned()));

    let listener = json!([{"name": "gone", "bind": net.at(port::PLAYERS).to_string()}]);
    control_plane.put_policy(&json!({"listeners": listener}).to_string());
    until_only(&control_plane, "no_routes");
    wait_until("the edge says so", LIMIT, || ready(&net) == (503, "no_routes\n".to_owned()));
}

#[test]
fn the_module_is_found_wherever_the_program_is_started() {
    let net = TestNet::new();
    // It starts in a folder below which there is no module.
    let control_plane = Stage::control_plane(&net, &json!({"filter": {"path": ""}})).unwrap();
    let module = answer(&control_plane, "/readyz")["filter_module"].take();
    assert_eq!(module["state"], "ok", "{module}");
    assert_eq!(
        PathBuf::from(module["path"].as_str().unwrap()),
        parts::FILTER.find().unwrap().canonicalize().unwrap()
    );
}
