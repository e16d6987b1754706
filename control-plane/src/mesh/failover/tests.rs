//! Where players go, by policy and what Consul says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::super::catalog::{
    Datacenter, FailoverTarget, Redirect, Resolver, ServiceEntries, ServiceSubset, Subset,
};
use super::*;
use crate::model::{Policy, parse};

const DATACENTERS: [(&str, Option<u64>); 4] =
    [("aws", Some(0)), ("azure", Some(30)), ("eu", Some(80)), ("moon", None)];

/// A catalog in aws with an instance of everything that is wanted.
fn catalog(policy: &Policy, entries: &[(&str, ServiceEntries)]) -> Catalog {
    let datacenter = |rtt: Option<u64>| Datacenter { rtt: rtt.map(Duration::from_millis) };
    let mut catalog = Catalog {
        local: "aws".to_owned(),
        datacenters: DATACENTERS.iter().map(|&(name, rtt)| (name.to_owned(), datacenter(rtt))).collect(),
        entries: Arc::new(entries.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect()),
        ..Catalog::default()
    };
    let instance = || Instance {
        id: "1".to_owned(),
        node: "node".to_owned(),
        address: [10, 0, 0, 1].into(),
        port: 1,
        weight: 1,
        health: InstanceHealth::Passing,
    };
    catalog.instances = wanted(policy, &catalog).into_iter().map(|l| (l, [instance()].into())).collect();
    catalog
}

fn policy(service: &str) -> Policy {
    parse(&format!("services: [{{name: s, {service}}}]")).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// `datacenter/service[/subset]` of each choice at an edge in `from`.
fn choices(service: &str, from: &str, entries: &[(&str, ServiceEntries)]) -> Vec<String> {
    let policy = policy(service);
    let catalog = catalog(&policy, entries);
    let (placement, _) = Tracker::default().advance(tokio::time::Instant::now(), &policy, &catalog);
    let found = localities(&policy.services[0], None, from, &catalog, &placement);
    found.ordered.iter().map(name).collect()
}

fn name(locality: &Locality) -> String {
    let subset = if locality.subset.is_empty() { String::new() } else { format!("/{}", locality.subset) };
    format!("{}/{}{subset}", locality.datacenter, locality.service)
}

fn resolver(resolver: Resolver) -> ServiceEntries {
    ServiceEntries { resolver: Some(resolver), ..ServiceEntries::default() }
}

fn to(service: &str, subset: &str) -> ServiceSubset {
    ServiceSubset { service: service.to_owned(), subset: subset.to_owned() }
}

fn target(service: &str, subset: &str, datacenter: &str) -> FailoverTarget {
    FailoverTarget { to: to(service, subset), datacenter: datacenter.to_owned() }
}

#[test]
fn targets_come_in_the_order_that_is_asked_for() {
    let targets = "targets: [{datacenter: moon}, {datacenter: eu}, {datacenter: azure}]";
    let listed = format!("consul: {{service: game}}, failover: {{{targets}}}");
    assert_eq!(choices(&listed, "", &[]), ["aws/game", "moon/game", "eu/game", "azure/game"]);
    assert_eq!(choices(&listed, "azure", &[]), ["azure/game", "moon/game", "eu/game"]);
    let nearest = format!("consul: {{service: game}}, failover: {{order: lowest_latency, {targets}}}");
    assert_eq!(choices(&nearest, "aws", &[]), ["aws/game", "azure/game", "eu/game", "moon/game"]);
    // An edge elsewhere: its own first; what is measured here says nothing there.
    assert_eq!(choices(&nearest, "eu", &[]), ["eu/game", "moon/game", "azure/game"]);
    // Nobody asked about an edge's datacenter that the policy does not name.
    assert_eq!(choices("consul: {service: game}", "mars", &[]), ["aws/game"]);
}

#[test]
fn fixed_targets_need_no_consul() {
    let fixed = "endpoints: ['10.0.0.1:1'], datacenter: aws, failover: {order: lowest_latency, targets: \
                 [{datacenter: azure, endpoints: ['10.1.0.1:1']}]}";
    let policy = policy(fixed);
    for (from, first) in [("aws", "aws/s"), ("azure", "azure/s"), ("eu", "aws/s"), ("", "aws/s")] {
        let found = localities(&policy.services[0], None, from, &Catalog::default(), &Placement::default());
        assert_eq!(name(&found.ordered[0]), first, "from {from:?}");
        assert_eq!(found.ordered.len(), 2);
    }
    assert_eq!(wanted(&policy, &Catalog::default()), BTreeSet::new());
}

/// Their sidecars have its certificate and no other: a target of another name could prove nothing.
#[test]
fn fixed_targets_are_what_the_service_is_in_consul() {
    let service =
        "consul: {service: game}, failover: {targets: [{datacenter: azure, endpoints: ['10.1.0.1:1']}]}";
    assert_eq!(choices(service, "", &[]), ["aws/game", "azure/game"]);
}

#[test]
fn residency_outranks_everything() {
    let entries = [(
        "game",
        resolver(Resolver {
            failover: [("*".to_owned(), vec![target("", "", "eu"), target("", "", "azure")])].into(),
            ..Resolver::default()
        }),
    )];
    let service = "consul: {service: game}, datacenters: [aws, azure]";
    assert_eq!(choices(service, "", &entries), ["aws/game", "azure/game"]);
    let policy = policy(service);
    let catalog = catalog(&policy, &entries);
    let found = localities(&policy.services[0], None, "", &catalog, &Placement::default());
    assert_eq!(found.refused.len(), 1);
    assert!(
        found.refused[0].contains("eu") && found.refused[0].contains("service-resolver of game"),
        "{found:?}"
    );
    // An edge that is where instances must not be.
    assert_eq!(choices(service, "eu", &entries), ["aws/game", "azure/game"]);
    assert!(wanted(&policy, &catalog).iter().all(|lookup| lookup.datacenter != "eu"));
}

#[test]
fn a_resolver_redirects_defines_subsets_and_names_targets() {
    let subset = |filter: &str, only_passing| Subset { filter: filter.to_owned(), only_passing };
    let game = resolver(Resolver {
        default_subset: "v1".to_owned(),
        subsets: [
            ("v1".to_owned(), subset("Meta.v == 1", false)),
            ("v2".to_owned(), subset("Meta.v == 2", true)),
        ]
        .into(),
        failover: BTreeMap::from([
            ("v2".to_owned(), vec![target("", "v1", ""), target("standby", "", "")]),
            ("*".to_owned(), vec![target("", "", "azure")]),
        ]),
        ..Resolver::default()
    });
    let old = resolver(Resolver {
        redirect: Some(Redirect { to: to("game", "v2"), datacenter: "azure".to_owned() }),
        ..Resolver::default()
    });
    let entries = [("game", game), ("old", old)];
    assert_eq!(choices("consul: {service: game}", "", &entries), ["aws/game/v1", "azure/game/v1"]);
    assert_eq!(
        choices("consul: {service: game, subset: v2}", "", &entries),
        ["aws/game/v2", "aws/game/v1", "aws/standby"]
    );
    // What it redirects to has targets of its own.
    let redirected = ["azure/game/v2", "azure/game/v1", "azure/standby"];
    assert_eq!(choices("consul: {service: old}", "", &entries), redirected);
    // Targets of the policy outrank the resolver's.
    let own = "consul: {service: game}, failover: {targets: [{datacenter: eu, subset: v2}]}";
    assert_eq!(choices(own, "", &entries), ["aws/game/v1", "eu/game/v2"]);
    let policy = policy("consul: {service: game, filter: Meta.ready == yes, subset: v2}");
    let catalog = catalog(&policy, &entries);
    let filters: BTreeSet<_> = wanted(&policy, &catalog).into_iter().map(|lookup| lookup.filter).collect();
    let expected = ["", "(Meta.ready == yes) and (Meta.v == 1)", "(Meta.ready == yes) and (Meta.v == 2)"];
    assert_eq!(filters, expected.map(str::to_owned).into());
    let found = localities(&policy.services[0], None, "", &catalog, &Placement::default());
    assert!(matches!(found.ordered[0].members, Members::Instances { only_passing: true, .. }));
}

#[test]
fn a_subset_that_nobody_defines_has_nobody() {
    let policy = policy(
        "consul: {service: game, subset: v9}, failover: {targets: [{datacenter: azure}, {service: standby}]}",
    );
    let catalog = catalog(&policy, &[]);
    let found = localities(&policy.services[0], None, "", &catalog, &Placement::default());
    assert_eq!(found.ordered.iter().map(name).collect::<Vec<_>>(), ["aws/standby"]);
    // A target that says nothing of subsets is asked for the service's own.
    assert_eq!(found.refused.len(), 2);
    assert!(found.refused.iter().all(|why| why.contains("defines its subset `v9`")), "{found:?}");
}

#[test]
fn redirects_in_a_circle_end() {
    let redirect = |service: &str| {
        let redirect = Some(Redirect { to: to(service, ""), datacenter: String::new() });
        resolver(Resolver { redirect, ..Resolver::default() })
    };
    let entries = [("a", redirect("b")), ("b", redirect("a")), ("c", redirect("c"))];
    assert_eq!(choices("consul: {service: a}", "", &entries).len(), 1);
    assert_eq!(choices("consul: {service: c}", "", &entries), ["aws/c"]);
}

#[test]
fn a_splitter_shares_between_subsets_and_services() {
    let subsets = ["v1", "blue", "green"].map(|name| (name.to_owned(), Subset::default()));
    let split = |legs: &[(u32, &str, &str)]| ServiceEntries {
        splitter: legs.iter().map(|&(weight, service, subset)| (weight, to(service, subset))).collect(),
        ..resolver(Resolver { subsets: subsets.clone().into(), ..Resolver::default() })
    };
    let policy = policy("consul: {service: game}");
    let entries = [
        ("game", split(&[(9_000, "", "v1"), (1_000, "canary", "")])),
        ("canary", split(&[(5_000, "", "blue"), (5_000, "", "green")])),
    ];
    let catalog = catalog(&policy, &entries);
    let legs = legs(&policy.services[0], &catalog);
    let shares: Vec<_> = legs.iter().map(|leg| (leg.weight, name_of(&leg.to))).collect();
    let expected = [(50_000, "canary/blue"), (50_000, "canary/green"), (900_000, "game/v1")];
    assert_eq!(shares, expected.map(|(weight, name)| (weight, name.to_owned())));
    for leg in &legs {
        let found = localities(&policy.services[0], Some(leg), "", &catalog, &Placement::default());
        assert_eq!(found.ordered[0].service, leg.to.service);
        assert!(found.ordered[0].serves());
    }
    // A route's own weights stay in proportion to each other.
    let beside_another: Vec<_> = weights([(1, legs.as_slice()), (3, &[])].into_iter()).collect();
    assert_eq!(beside_another, [16_666, 16_666, 300_000, 1_000_000]);
    assert_eq!(weights([(5, &[] as &[Leg]), (7, &[])].into_iter()).collect::<Vec<_>>(), [5, 7]);
    let mut circle = entries.to_vec();
    circle.push(("canary", split(&[(10_000, "game", "")])));
    let catalog = self::catalog(&policy, &circle);
    assert!(super::legs(&policy.services[0], &catalog).len() < 10);
}

#[test]
fn a_share_is_split_once_by_each_splitter_however_long_the_chain() {
    let split =
        |legs: Vec<(u32, ServiceSubset)>| ServiceEntries { splitter: legs, ..ServiceEntries::default() };
    let shares = |entries: &[(&str, ServiceEntries)]| -> Vec<_> {
        let policy = policy("consul: {service: s0}");
        let legs = legs(&policy.services[0], &catalog(&policy, entries));
        legs.iter().map(|leg| (leg.weight, name_of(&leg.to))).collect()
    };
    // Consul splits a leg again only where it names another service.
    for own in ["", "s0"] {
        let entries = [("s0", split(vec![(9_000, to(own, "")), (1_000, to("next", ""))]))];
        assert_eq!(shares(&entries), [(100_000, "next/".to_owned()), (900_000, "s0/".to_owned())]);
    }
    let hundred = |next: &str| {
        split((0..100).map(|n| (100, to(next, if next == "end" || n % 2 == 0 { "v" } else { "" }))).collect())
    };
    let chain = ["s0", "s1", "s2", "s3"].into_iter().zip(["s1", "s2", "s3", "end"]);
    let entries: Vec<_> = chain.map(|(name, next)| (name, hundred(next))).collect();
    let expected = [(125_000, "end/v"), (500_000, "s1/v"), (250_000, "s2/v"), (125_000, "s3/v")];
    assert_eq!(shares(&entries), expected.map(|(weight, name)| (weight, name.to_owned())));
}

fn name_of(to: &ServiceSubset) -> String {
    format!("{}/{}", to.service, to.subset)
}

fn datacenter() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("aws"), Just("azure"), Just("eu"), Just("moon")].prop_map(str::to_owned)
}

fn entry() -> impl Strategy<Value = ServiceEntries> {
    let service = || prop_oneof![Just(""), Just("a"), Just("b"), Just("c")].prop_map(str::to_owned);
    let subset = || prop_oneof![Just(""), Just("v1"), Just("v2")].prop_map(str::to_owned);
    let pair = move || (service(), subset()).prop_map(|(service, subset)| ServiceSubset { service, subset });
    let targets = prop::collection::vec((pair(), datacenter()), 0..4);
    let redirect = prop::option::weighted(0.3, (pair(), datacenter()));
    (targets, redirect, subset(), prop::collection::vec((1u32..10_000, pair()), 0..3)).prop_map(
        |(targets, redirect, default_subset, splitter)| {
            let failover =
                targets.into_iter().map(|(to, datacenter)| FailoverTarget { to, datacenter }).collect();
            let subset = Subset { filter: "Meta.v == 1".to_owned(), only_passing: false };
            let resolver = Resolver {
                default_subset,
                subsets: [("v1".to_owned(), subset)].into(),
                redirect: redirect.map(|(to, datacenter)| Redirect { to, datacenter }),
                failover: [("*".to_owned(), failover)].into(),
            };
            ServiceEntries { resolver: Some(resolver), splitter }
        },
    )
}

proptest! {
    /// Whatever policy and entries say: no player goes where the service must not be, and whoever is a choice was asked for.
    #[test]
    fn no_forbidden_datacenter_is_ever_used(
        entries in prop::collection::btree_map("[abc]", entry(), 0..4),
        targets in prop::collection::vec((datacenter(), "[abc]"), 0..4),
        latency in any::<bool>(),
        own in datacenter(),
        from in datacenter(),
        allowed in prop::collection::btree_set(prop_oneof![Just("aws"), Just("azure"), Just("eu")], 1..3),
    ) {
        let allowed: Vec<_> = allowed.into_iter().collect();
        let targets: BTreeSet<_> = targets.into_iter().filter(|(dc, _)| dc.is_empty() || allowed.contains(&dc.as_str())).collect();
        let targets: Vec<_> = targets.iter().map(|(dc, name)| format!("{{datacenter: '{dc}', service: {name}}}")).collect();
        let own = if allowed.contains(&own.as_str()) { own.as_str() } else { "" };
        let order = if latency { "lowest_latency" } else { "listed" };
        let policy = policy(&format!(
            "consul: {{service: a}}, datacenter: '{own}', datacenters: [{}], failover: {{order: {order}, targets: [{}]}}",
            allowed.join(", "), targets.join(", ")
        ));
        let entries: Vec<_> = entries.iter().map(|(name, entry)| (name.as_str(), entry.clone())).collect();
        let catalog = catalog(&policy, &entries);
        let (placement, _) = Tracker::default().advance(tokio::time::Instant::now(), &policy, &catalog);
        let service = &policy.services[0];
        let legs = legs(service, &catalog);
        let legs = legs.iter().map(Some).chain([None]);
        for leg in legs {
            let found = localities(service, leg, &from, &catalog, &placement);
            for locality in &found.ordered {
                prop_assert!(allowed.contains(&locality.datacenter.as_str()), "{:?}", locality);
            }
            let places: BTreeSet<_> = found.ordered.iter().map(|l| (&l.datacenter, &l.service, &l.subset)).collect();
            prop_assert_eq!(places.len(), found.ordered.len());
        }
        prop_assert!(catalog.instances.keys().all(|lookup| allowed.contains(&lookup.datacenter.as_str())));
    }
}
