//! Two control planes on one Consul, as processes.

use std::fs;
use std::time::Duration;

use realmgate_tests::consul::Config;
use realmgate_tests::http::{Answer, Http};
use realmgate_tests::stage::port;
use realmgate_tests::{Consul, ControlPlane, Stopwatch, TestNet, parts, wait_until};
use serde_json::{Value, json};

use super::super::stage::SOON;
use super::policy;

const MASTER: &str = "5a2e3f5c-0000-4000-8000-000000000003";

fn json_of((_, body): &Answer) -> Value {
    serde_json::from_str(body).unwrap()
}

fn state(control_plane: &ControlPlane) -> (u16, Value) {
    let answer = control_plane.readyz();
    (answer.0, json_of(&answer)["policy"].clone())
}

fn version(control_plane: &ControlPlane) -> Value {
    json_of(&control_plane.get("/v1/policy"))["version"].clone()
}

#[test]
fn replicas_see_each_others_changes_and_outlive_consul() {
    let net = TestNet::new();
    let token = Some(MASTER.to_owned());
    let mut consul = Consul::start(net.dir(), Config { token, ..Config::new("aws") }).unwrap();
    let rules = fs::read_to_string(parts::workspace().join("consul/acl/realmgate.hcl")).unwrap();
    let token = consul.token("realmgate", &rules);
    let token_file = net.dir().join("token");
    fs::write(&token_file, &token).unwrap();
    let settings = json!({
        "policy": {"store": "consul"},
        "consul": {"address": consul.url(), "token_file": token_file},
    });
    let dirs = ["one", "other", "late"].map(|name| net.dir().join(name));
    let run = |n: u16, settings: &Value| {
        let (xds, api) = (net.at(port::XDS + 2 * n), net.at(port::XDS + 2 * n + 1));
        ControlPlane::start(&dirs[usize::from(n)], xds, api, settings).unwrap()
    };
    let [mut one, other] = [0, 1].map(|n| run(n, &settings));
    assert_eq!((version(&one), version(&other)), (json!(0), json!(0)));

    let watch = Stopwatch::start();
    one.put_policy(&policy("first"));
    wait_until("the other has it", SOON, || version(&other) == json!(1));
    let took = watch.undisturbed();
    println!("a change reached the other control plane after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");

    // Both build on what they have seen.
    let etag = json_of(&one.get("/v1/policy"))["etag"].as_str().unwrap().to_owned();
    let put = |control_plane: &ControlPlane, name: &str| {
        let http = Http::new(control_plane.api()).with_header("if-match", &etag);
        let name = policy(name);
        std::thread::spawn(move || http.send("PUT", "/v1/policy", "application/yaml", &name).unwrap())
    };
    let mut answers = [put(&one, "left"), put(&other, "right")].map(|put| put.join().unwrap());
    answers.sort();
    assert_eq!(answers.each_ref().map(|answer| answer.0), [200, 412], "{answers:?}");
    let refused = json_of(&answers[1]);
    assert_eq!(refused["error"], "conflict");
    assert!(refused["message"].as_str().unwrap().contains("version 2 by api has etag"), "{refused}");

    consul.kv_put("realmgate/overlay/aws", "services: {more: {endpoints: ['10.0.0.9:1']}}");
    wait_until("the overlay is seen", SOON, || state(&one).1["overlay"] == "realmgate/overlay/aws");
    let shown = |query: &str| {
        let shown = json_of(&one.get(&format!("/v1/policy{query}")));
        shown["policy"]["services"].as_array().unwrap().len()
    };
    assert_eq!((shown(""), shown("?effective=true")), (1, 2));
    assert_eq!(one.get("/v1/policy?effective=perhaps").0, 400);
    wait_until("it is well", SOON, || state(&one).1["state"] == "ok");
    let latest = version(&one);
    let kept = dirs[0].join("data/policy-consul.json");
    wait_until("it is kept", SOON, || {
        let kept = fs::read(&kept).ok().and_then(|kept| serde_json::from_slice::<Value>(&kept).ok());
        kept.is_some_and(|kept| kept["policy"]["info"]["version"] == latest && !kept["overlay"].is_null())
    });

    consul.kill9();
    let lost = |control_plane: &ControlPlane| {
        let (status, state) = state(control_plane);
        status == 200 && state["state"] == "degraded" && state["version"] == latest && state["services"] == 2
    };
    wait_until("that Consul is lost is told", SOON, || lost(&one));
    let refused = one.put_policy_with("", &policy("lost"));
    assert_eq!((refused.0, &json_of(&refused)["error"]), (503, &json!("unavailable")));
    // A start without Consul serves what was good; there is nothing to say about it that would be new.
    one.restart().unwrap();
    wait_until("it serves what it had", SOON, || {
        state(&one).1["version"] == latest && state(&one).1["services"] == 2
    });

    // A policy file waits for the store that it goes to.
    let file = net.dir().join("policy.yaml");
    fs::write(&file, policy("filed")).unwrap();
    let mut filed = settings.clone();
    filed["policy"]["file"] = json!(file);
    let late = run(2, &filed);
    assert_eq!(late.readyz().0, 503, "it serves what is not stored");
    wait_until("it is logged why", SOON, || {
        let log = fs::read_to_string(dirs[2].join("realmgate.log")).unwrap();
        log.contains("policy file is not applied yet")
    });

    consul.restart().unwrap();
    wait_until("the file is in force", SOON, || {
        [&one, &other, &late].iter().all(|it| version(it) == json!(3))
    });
    for control_plane in [&one, &other, &late] {
        wait_until("it follows again", SOON, || state(control_plane).1["state"] == "ok");
    }
    other.put_policy(&policy("again"));
    wait_until("changes arrive again", SOON, || version(&one) == json!(4));
    for dir in &dirs {
        let log = || fs::read_to_string(dir.join("realmgate.log")).unwrap();
        wait_until("the policy in force is logged", SOON, || log().contains("policy in force"));
        let log = log();
        assert!(!log.contains(&token) && !log.contains(MASTER), "a token is in {}", dir.display());
    }
}
