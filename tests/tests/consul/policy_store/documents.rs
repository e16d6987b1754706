//! Documents that operators write past every control plane: good ones, broken ones, overlays, and rights that lack.

use std::fs;
use std::process::Command;

use realmgate_control_plane::source::consul::ConsulConfig;
use realmgate_control_plane::source::policy::LoadedPolicy;
use realmgate_control_plane::source::policy_store::Precondition;
use realmgate_tests::consul::Config;
use realmgate_tests::{Consul, TestNet, parts, wait_until};

use super::super::stage::{SOON, config, shared};
use super::{Replica, new, policy, services};

/// `consul kv put KEY @FILE`, as an operator types it.
fn consul_kv_put(consul: &Consul, net: &TestNet, key: &str, text: &str) {
    let file = net.dir().join("document");
    fs::write(&file, text).unwrap();
    let output = Command::new(parts::CONSUL.find().unwrap())
        .args(["kv", "put", key, &format!("@{}", file.display())])
        .env("CONSUL_HTTP_ADDR", consul.url())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_put_by_hand_becomes_a_version_and_a_broken_one_is_refused_by_name() {
    const PREFIX: &str = "hand/";
    const KEY: &str = "hand/policy";
    let (net, shared) = (TestNet::new(), shared());
    let consul = &shared.both.aws;
    let [one, other] = ["one", "other"].map(|name| net.dir().join(name));
    let one = Replica::start(consul, PREFIX, "", &one).await;
    one.well().await;
    assert_eq!(one.source.current().stored, None, "nothing is stored yet");

    consul_kv_put(consul, &net, KEY, &policy("by-hand"));
    let loaded = one.version(1).await;
    let stored = loaded.stored.clone().unwrap();
    assert_eq!((services(&loaded), stored.info.author.as_str()), ("by-hand".to_owned(), "consul kv"));
    let other = Replica::start(consul, PREFIX, "", &other).await;
    assert_eq!(other.version(1).await.stored, Some(stored));

    for (text, reason, word) in [
        ("services: [{name: x, endpoint: y}]", "invalid", "unknown field `endpoint`"),
        ("", "empty", "hand/policy: empty: the document has no keys"),
        ("null", "empty", "written by hand is not valid: line 1: empty: the document has no keys"),
        (
            "{\"realmgate_policy\": 1, \"version\": 2}",
            "malformed",
            "hand/policy: it is a record that cannot be read",
        ),
        ("{\"realmgate_policy\": 2}", "newer", "hand/policy: its format is 2"),
    ] {
        consul_kv_put(consul, &net, KEY, text);
        for replica in [&one, &other] {
            replica.refuses(word).await;
            let loaded = replica.source.current();
            assert_eq!((loaded.known, services(&loaded)), (true, "by-hand".to_owned()), "{word}");
            assert!(replica.refused("policy", reason) > 0, "{reason}");
        }
    }
    // Nobody can build on what is not there; whoever does not care replaces it.
    let etag = one.source.current().stored.as_ref().unwrap().info.etag.clone();
    one.source.apply(new(policy("x")), Precondition::Etag(etag)).await.unwrap_err();
    one.source.apply(new(policy("repaired")), Precondition::Any).await.unwrap();
    for replica in [&one, &other] {
        assert_eq!(services(&*replica.version(2).await), "repaired");
        replica.well().await;
    }

    // A text that loses a part, as a careless delete makes it; who has it serves on, who starts anew serves the last good one.
    let etag = one.source.current().stored.as_ref().unwrap().info.etag.clone();
    let part = format!("{PREFIX}text/{etag}/00");
    let text = consul.kv_get(&part).unwrap();
    consul.kv_delete(&part);
    let fresh = Replica::start(consul, PREFIX, "", &net.dir().join("fresh")).await;
    fresh.refuses("is missing").await;
    assert!(!fresh.source.current().known, "half a document is none");
    consul.kv_put(&part, &text);
    assert_eq!(services(&*fresh.version(2).await), "repaired");

    consul.kv_delete(KEY);
    for replica in [&one, &other, &fresh] {
        replica.refuses("hand/policy is gone").await;
        assert_eq!(services(&replica.source.current()), "repaired");
    }
    // A replica that starts now, without anything of its own, serves what the others do.
    let late = Replica::start(consul, PREFIX, "", &net.dir().join("late")).await;
    assert_eq!(services(&*late.version(2).await), "repaired");
    late.refuses("hand/policy is gone").await;
    // Below another prefix no policy was ever put.
    let mistyped = Replica::start(consul, "hnad/", "", &net.dir().join("late")).await;
    mistyped.until("it is heard that there is none", LoadedPolicy::never_put).await;
    consul_kv_put(consul, &net, KEY, "{}");
    for replica in [&one, &other, &fresh, &late] {
        assert_eq!(services(&*replica.version(3).await), "");
        assert!(!replica.source.current().never_put(), "somebody said so");
    }
}

/// A policy of so many services.
fn many(count: usize, more: &str) -> String {
    let services = (0..count).map(|i| format!("{{name: s{i}, endpoints: ['10.0.0.1:1']}}"));
    format!("services: [{}]\n{more}", services.collect::<Vec<_>>().join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_by_hand_and_takes_much_away_is_held_until_it_is_confirmed() {
    const PREFIX: &str = "mass/";
    const KEY: &str = "mass/policy";
    let (net, shared) = (TestNet::new(), shared());
    let consul = &shared.both.aws;
    let one = Replica::start(consul, PREFIX, "aws", &net.dir().join("one")).await;
    one.source.apply(new(many(20, "")), Precondition::None).await.unwrap();
    consul_kv_put(consul, &net, KEY, &many(4, ""));
    let problem = one.refuses("it takes away 16 of 20 services").await;
    assert_eq!((one.source.current().policy.services.len(), one.refused("policy", "mass_removal")), (20, 1));
    // Who starts anew knows what served from the history, and holds the same back.
    let late = Replica::start(consul, PREFIX, "aws", &net.dir().join("late")).await;
    late.refuses("it takes away 16 of 20 services").await;
    assert_eq!(late.source.current().policy.services.len(), 20);
    let (_, confirmation) = problem.split_once("in the document with `").unwrap();
    let (confirmation, _) = confirmation.split_once('`').unwrap();
    consul_kv_put(consul, &net, KEY, &many(4, confirmation));
    for replica in [&one, &late] {
        assert_eq!(replica.version(2).await.policy.services.len(), 4);
        replica.well().await;
    }
    // What another replica has just put counts, whether it was heard of or not.
    one.source.apply(new(many(30, "")), Precondition::Any).await.unwrap();
    let refused = late.source.apply(new(many(3, "")), Precondition::Any).await.unwrap_err().to_string();
    assert!(refused.contains("it takes away 27 of 30 services"), "{refused}");

    let nulls = (0..20).map(|i| format!("s{i}: null")).collect::<Vec<_>>().join(", ");
    consul.kv_put("mass/overlay/aws", &format!("services: {{{nulls}}}"));
    for replica in [&one, &late] {
        replica.refuses("mass/overlay/aws is held back: it takes away 20 of 30 services").await;
        assert_eq!(replica.refused("overlay", "mass_removal"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_applies_in_its_datacenter_alone() {
    const PREFIX: &str = "over/";
    let (net, shared) = (TestNet::new(), shared());
    let consul = &shared.both.aws;
    let aws = Replica::start(consul, PREFIX, "", &net.dir().join("aws")).await;
    let azure = Replica::start(consul, PREFIX, "azure", &net.dir().join("azure")).await;
    aws.source
        .apply(
            new(policy("game") + "routes: [{name: r, server_type: 1, to: [{service: game}]}]"),
            Precondition::Any,
        )
        .await
        .unwrap();
    let overlay =
        "services:\n  game: {endpoints: [\"10.9.0.1:1\"]}\n  local: {endpoints: [\"10.9.0.2:1\"]}\n";
    consul_kv_put(consul, &net, "over/overlay/azure", overlay);
    let changed = azure.until("the overlay is in force", |loaded| loaded.overlay.is_some()).await;
    assert_eq!(services(&changed), "game local");
    assert_eq!(changed.policy.services[0].endpoints[0].to_string(), "10.9.0.1:1");
    assert_eq!(changed.written.services.len(), 1, "the stored document is what it was");
    let here = aws.version(1).await;
    assert_eq!((services(&here), &here.overlay), ("game".to_owned(), &None));

    consul_kv_put(consul, &net, "over/overlay/azure", "services: {game: null}");
    let problem = azure.refuses("over/overlay/azure makes version 1 of the policy invalid").await;
    assert!(problem.contains("routes.r.to[0].service: there is no service `game`"), "{problem}");
    consul_kv_put(consul, &net, "over/overlay/azure", "services: [game]");
    azure.refuses("over/overlay/azure is not valid: line 1, services").await;
    assert_eq!(
        (services(&azure.source.current()), azure.refused("overlay", "invalid")),
        ("game local".to_owned(), 2)
    );
    assert_eq!(aws.source.current().problem, None, "not our overlay");
    // One that starts now has no last good overlay: it serves nothing rather than half the truth.
    let fresh = Replica::start(consul, PREFIX, "azure", &net.dir().join("fresh")).await;
    fresh.refuses("over/overlay/azure is not valid").await;
    assert!(!fresh.source.current().known);
    consul.kv_delete("over/overlay/azure");
    for replica in [&azure, &fresh] {
        let loaded = replica.until("it is gone", |loaded| loaded.known && loaded.overlay.is_none()).await;
        assert_eq!(services(&loaded), "game");
        replica.well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_are_enough_and_less_is_said_without_the_token() {
    const PREFIX: &str = "realmgate/";
    let net = TestNet::new();
    let master = "5a2e3f5c-0000-4000-8000-000000000002";
    let consul =
        Consul::start(net.dir(), Config { token: Some(master.to_owned()), ..Config::new("aws") }).unwrap();
    let rules = fs::read_to_string(parts::workspace().join("consul/acl/realmgate.hcl")).unwrap();
    let token = consul.token("realmgate", &rules);
    let reader = consul.token(
        "reader",
        "key_prefix \"realmgate/\" { policy = \"read\" }\nagent_prefix \"\" { policy = \"read\" }",
    );
    let replica = async |name: &str, token: &str| {
        let file = net.dir().join(format!("token-{name}"));
        fs::write(&file, token).unwrap();
        let config = ConsulConfig { token_file: Some(file), ..config(&consul, &net.dir().join(name)) };
        Replica::with(&config, PREFIX).await
    };
    let writer = replica("writer", &token).await;
    writer.source.apply(new(policy("first")), Precondition::None).await.unwrap();
    consul.kv_put("realmgate/overlay/aws", "services: {more: {endpoints: ['10.0.0.9:1']}}");
    writer.until("with its overlay", |loaded| services(loaded) == "first more").await;

    // Reading is enough to follow; it is not to write, nor to make a version of a document.
    let follower = replica("reader", &reader).await;
    follower.until("it follows", |loaded| services(loaded) == "first more").await;
    let error =
        follower.source.apply(new(policy("second")), Precondition::Any).await.unwrap_err().to_string();
    assert!(error.contains("Consul denies /v1/txn") && !error.contains(&reader), "{error}");
    drop(writer);
    consul.kv_put("realmgate/policy", &policy("second"));
    let problem = follower.refuses("cannot be taken over: the policy store: Consul denies").await;
    assert!(!problem.contains(&reader), "{problem}");
    assert_eq!(services(&follower.source.current()), "first more");
    // Somebody who may comes back.
    let writer = replica("writer", &token).await;
    for replica in [&writer, &follower] {
        replica.until("it is taken over", |loaded| services(loaded) == "second more").await;
        replica.well().await;
    }
    // No rights at all: a first start knows nothing.
    let nobody = consul.token("nobody", "agent_prefix \"\" { policy = \"read\" }");
    let never = replica("nobody", &nobody).await;
    let problem = never.refuses("Consul denies /v1/kv/realmgate/policy").await;
    assert!(!never.source.current().known && !problem.contains(&nobody), "{problem}");
    wait_until("it is counted", SOON, || {
        let text = prometheus::TextEncoder::new().encode_to_string(&never.registry.gather()).unwrap();
        let name = "realmgate_policy_store_request_errors_total{reason=\"denied\"} ";
        text.lines().any(|line| line.strip_prefix(name).is_some_and(|count| count != "0"))
    });
}
