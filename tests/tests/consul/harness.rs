//! The harness itself: servers that are ready when they say so, and what is told to them arrives.

use std::fs;
use std::time::Duration;

use realmgate_tests::consul::{Config, Consul, Health, Service, TwoDatacenters};
use realmgate_tests::{TestNet, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn instances(consul: &Consul, path: &str) -> Vec<Value> {
    consul.get(path).as_array().cloned().unwrap_or_default()
}

#[test]
fn two_datacenters_tell_each_other_of_services_and_share_intentions_and_roots() {
    let net = TestNet::new();
    let both = TwoDatacenters::start(net.dir(), None).unwrap();
    let (aws, azure) = (&both.aws, &both.azure);
    let wan = net.at(19_000);
    azure.register(
        &Service::new("battle", "battle-1", net.at(9000)).wan(wan).meta(&[("zone", "a")]).weights(7, 2),
    );
    azure.register(&Service::sidecar("battle", "battle-1", net.at(9001), net.at(9000)));
    wait_until("aws sees the instance of azure", SOON, || {
        instances(aws, "/v1/health/service/battle?dc=azure&filter=Service.Meta.zone==a").len() == 1
    });
    let service = &instances(aws, "/v1/health/service/battle?dc=azure")[0]["Service"];
    assert_eq!(service["Weights"], json!({"Passing": 7, "Warning": 2}));
    assert_eq!(service["TaggedAddresses"]["wan"]["Port"], 19_000);

    azure.set_health("battle-1", Health::Critical);
    wait_until("the sidecar follows its service", SOON, || {
        let sidecars = instances(aws, "/v1/health/connect/battle?dc=azure");
        let checks: Vec<_> = sidecars.iter().flat_map(|s| s["Checks"].as_array().unwrap()).collect();
        !checks.is_empty() && checks.iter().any(|check| check["Status"] == "critical")
    });
    azure.deregister("battle-1");
    wait_until("it is gone", SOON, || instances(aws, "/v1/health/service/battle?dc=azure").is_empty());

    assert!(azure.allows("edge", "battle"), "no ACLs, no intentions");
    aws.intention("edge", "battle", "deny");
    wait_until("the intention reaches the other datacenter", SOON, || !azure.allows("edge", "battle"));
    aws.delete_intention("edge", "battle");
    wait_until("and goes", SOON, || azure.allows("edge", "battle"));

    let root = aws.active_root();
    assert_eq!(azure.trust_domain(), aws.trust_domain());
    aws.rotate_root().unwrap();
    wait_until("there is another root", SOON, || aws.active_root() != root);
    wait_until("in both datacenters", SOON, || azure.active_root() == aws.active_root());

    aws.write_config(&json!({"Kind": "service-resolver", "Name": "battle", "ConnectTimeout": "3s"}));
    assert_eq!(aws.get("/v1/config/service-resolver/battle")["Name"], "battle");
    aws.delete_config("service-resolver", "battle");
    aws.kv_put("realmgate/test", "text");
    assert_eq!(
        (aws.kv_get("realmgate/test"), azure.kv_get("realmgate/test")),
        (Some("text".to_owned()), None)
    );
    aws.kv_delete("realmgate/test");
}

#[test]
fn a_killed_server_comes_back_with_its_data_and_none_outlives_its_guard() {
    let net = TestNet::new();
    let mut consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    consul.kv_put("key", "value");
    consul.register(&Service::new("battle", "battle-1", net.at(9000)));
    consul.kill9();
    consul.restart().unwrap();
    assert_eq!(consul.kv_get("key").unwrap(), "value");
    assert_eq!(instances(&consul, "/v1/health/service/battle").len(), 1);
    let pid = consul.process().pid();
    let failed = std::thread::spawn(move || {
        let _consul = consul;
        panic!("a test fails, as this one wants");
    });
    assert!(failed.join().is_err() && !fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn with_acls_a_token_may_do_what_its_policy_says_in_both_datacenters() {
    let net = TestNet::new();
    let both = TwoDatacenters::start(net.dir(), Some("5a2e3f5c-0000-4000-8000-000000000000")).unwrap();
    let reader = both.aws.token("reader", r#"key_prefix "" { policy = "read" }"#);
    both.azure.kv_put("key", "value");
    let read = |token: &str| {
        let http = realmgate_tests::http::Http::new(both.azure.http_address());
        http.with_header("X-Consul-Token", token).get("/v1/kv/key?raw").unwrap()
    };
    wait_until("the token reaches the other datacenter", SOON, || read(&reader).0 == 200);
    assert_ne!(read("").0, 200, "nobody reads without a token");
    assert!(!both.aws.allows("edge", "battle"), "deny by default");
}
