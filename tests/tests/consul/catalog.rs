//! Instances, datacenters and configuration entries.

use std::collections::BTreeSet;
use std::time::Duration;

use realmgate_control_plane::mesh::catalog::{InstanceHealth, Lookup};
use realmgate_tests::consul::{Health, Service};
use realmgate_tests::{TestNet, wait_until};
use serde_json::json;

use super::stage::{Following, SOON, lookup, lookups, shared};
use InstanceHealth::{Critical, Passing, Warning};

#[tokio::test(flavor = "multi_thread")]
async fn registrations_health_weights_and_filters_are_followed() {
    let shared = shared();
    let (aws, net) = (&shared.both.aws, TestNet::new());
    let all = lookup("aws", "followed");
    let filtered = Lookup { filter: "Service.Meta.zone == \"a\"".to_owned(), ..all.clone() };
    let sidecars = Lookup { sidecars: true, ..all.clone() };
    let dir = tempfile::tempdir().unwrap();
    let following =
        Following::start(aws, dir.path(), lookups([all.clone(), filtered.clone(), sidecars.clone()]));
    following.ok().await;
    following.instances(&all, &[]).await;

    aws.register(&Service::new("followed", "f1", net.at(9001)).weights(10, 3).meta(&[("zone", "a")]));
    aws.register(&Service::new("followed", "f2", net.at(9002)).meta(&[("zone", "b")]));
    following.instances(&all, &[("f1", 9001, 10, Passing), ("f2", 9002, 1, Passing)]).await;
    following.instances(&filtered, &[("f1", 9001, 10, Passing)]).await;
    aws.set_health("f1", Health::Warning);
    following.instances(&all, &[("f1", 9001, 3, Warning), ("f2", 9002, 1, Passing)]).await;
    aws.set_health("f2", Health::Critical);
    following.instances(&all, &[("f1", 9001, 3, Warning), ("f2", 9002, 1, Critical)]).await;

    // Its sidecar has a name of its own, and is as well as it is.
    aws.register(&Service::sidecar("followed", "f2", net.at(9102), net.at(9002)));
    following.instances(&sidecars, &[("f2-sidecar-proxy", 9102, 1, Critical)]).await;
    aws.set_health("f2", Health::Passing);
    following.instances(&sidecars, &[("f2-sidecar-proxy", 9102, 1, Passing)]).await;

    aws.set_health("f1", Health::Passing);
    following.instances(&all, &[("f1", 9001, 10, Passing), ("f2", 9002, 1, Passing)]).await;

    // A change that no check tells: weights, metadata, address.
    aws.register(&Service::new("followed", "f1", net.at(9003)).weights(20, 5).meta(&[("zone", "b")]));
    following.instances(&all, &[("f1", 9003, 20, Passing), ("f2", 9002, 1, Passing)]).await;
    following.instances(&filtered, &[]).await;
    aws.deregister("f1");
    following.instances(&all, &[("f2", 9002, 1, Passing)]).await;

    // What is wanted changes while it runs.
    following.wanted.send_replace(lookups([lookup("aws", "consul")]));
    let catalog =
        following.catalog("only what is wanted is there", |catalog| catalog.instances.len() == 1).await;
    assert_eq!(catalog.instances[&lookup("aws", "consul")].len(), 1, "Consul's own service");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_datacenter_is_reached_by_its_wan_addresses() {
    let shared = shared();
    let (both, net) = (&shared.both, TestNet::new());
    let there = lookup("azure", "afar");
    let dir = tempfile::tempdir().unwrap();
    let following = Following::start(&both.aws, dir.path(), lookups([there.clone()]));
    both.azure.register(&Service::new("afar", "a1", net.at(9001)).wan(net.at(19_001)));
    both.azure.register(&Service::new("afar", "a2", net.at(9002)));
    following.instances(&there, &[("a1", 19_001, 1, Passing), ("a2", 9002, 1, Passing)]).await;
    both.azure.set_health("a1", Health::Critical);
    following.instances(&there, &[("a1", 19_001, 1, Critical), ("a2", 9002, 1, Passing)]).await;
    let catalog = following
        .catalog("both datacenters are known and near", |catalog| {
            let known: BTreeSet<_> = catalog.datacenters.keys().map(String::as_str).collect();
            known == ["aws", "azure"].into() && catalog.datacenters["azure"].rtt.is_some()
        })
        .await;
    assert_eq!(catalog.local, "aws");
    assert!(catalog.unheard.is_empty(), "{catalog:?}");
    assert!(catalog.datacenters["azure"].rtt < Some(Duration::from_millis(100)), "{catalog:?}");
    // From the other side they are at home.
    let following = Following::start(&both.azure, &dir.path().join("azure"), lookups([there.clone()]));
    following.instances(&there, &[("a1", 9001, 1, Critical), ("a2", 9002, 1, Passing)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datacenter_that_does_not_exist_is_unheard_until_nobody_asks_about_it() {
    let shared = shared();
    let dir = tempfile::tempdir().unwrap();
    let (typo, real) = (lookup("azrue", "afar"), lookup("azure", "consul"));
    let following = Following::start(&shared.both.aws, dir.path(), lookups([typo, real]));
    let catalog = following
        .catalog("both answers are there", |c| c.unheard.contains("azrue") && c.datacenters.len() == 2)
        .await;
    assert!(!catalog.datacenters.contains_key("azrue"), "{catalog:?}");
    let instances = || following.metric("realmgate_consul_instances{datacenter=\"azure\"}");
    wait_until("the other is read", SOON, || instances() > 0.5);
    following.wanted.send_replace(lookups([]));
    following.catalog("it is forgotten", |catalog| catalog.unheard.is_empty()).await;
    wait_until("the other is no longer shown", SOON, || instances() < 0.5);
    following.ok().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_entries_are_followed() {
    let shared = shared();
    let aws = &shared.both.aws;
    let dir = tempfile::tempdir().unwrap();
    let following = Following::start(aws, dir.path(), lookups([]));
    following.ok().await;
    // Consul splits nothing else.
    aws.write_config(&json!({"Kind": "service-defaults", "Name": "split", "Protocol": "http"}));
    aws.write_config(&json!({"Kind": "service-resolver", "Name": "split", "ConnectTimeout": "3s",
        "Subsets": {"v1": {"Filter": "Service.Meta.version == v1"}},
        "Failover": {"*": {"Datacenters": ["azure"]}}}));
    aws.write_config(&json!({"Kind": "service-splitter", "Name": "split",
        "Splits": [{"Weight": 10.5, "ServiceSubset": "v1"}, {"Weight": 89.5}]}));
    let catalog = following
        .catalog("both kinds are there", |catalog| {
            catalog
                .entries
                .get("split")
                .is_some_and(|entry| entry.resolver.is_some() && !entry.splitter.is_empty())
        })
        .await;
    let entry = &catalog.entries["split"];
    let resolver = entry.resolver.as_ref().unwrap();
    assert_eq!(resolver.failover["*"][0].datacenter, "azure");
    assert_eq!(entry.splitter.iter().map(|(weight, _)| *weight).collect::<Vec<_>>(), [1050, 8950]);
    aws.delete_config("service-splitter", "split");
    following.catalog("it is gone", |catalog| catalog.entries["split"].splitter.is_empty()).await;
    aws.delete_config("service-resolver", "split");
    aws.delete_config("service-defaults", "split");
    following.catalog("all are gone", |catalog| !catalog.entries.contains_key("split")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_consul_refuses_harms_no_other() {
    let shared = shared();
    let bad = Lookup { filter: "no expression (".to_owned(), ..lookup("aws", "consul") };
    let good = lookup("aws", "consul");
    let dir = tempfile::tempdir().unwrap();
    let following = Following::start(&shared.both.aws, dir.path(), lookups([bad.clone(), good.clone()]));
    let refused =
        |health: &realmgate_control_plane::source::Health| format!("{health:?}").contains("no%20expression");
    following.health("it says which", refused).await;
    let catalog =
        following.catalog("the other is there", |catalog| catalog.instances.contains_key(&good)).await;
    assert!(!catalog.instances.contains_key(&bad), "not known is not none");
}
