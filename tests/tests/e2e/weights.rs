//! Whatever weights instances have and whatever share a target is given on its way back: real Envoys take the endpoints, with
//! every load balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use prost::Message;
use realmgate_control_plane::compile::compile;
use realmgate_control_plane::mesh::catalog::{Catalog, Datacenter, Instance, InstanceHealth};
use realmgate_control_plane::mesh::failover::{Tracker, wanted};
use realmgate_control_plane::model::parse;
use realmgate_control_plane::xds::{Resource, ResourceSet, ResourceType, Scope, Snapshot};
use realmgate_tests::stage::port;
use realmgate_tests::{TestNet, wait_until};
use serde_json::{Value, json};

use crate::cast::LIMIT;
use crate::slots::{Served, mesh};

const STRATEGIES: [&str; 4] = ["maglev", "ring_hash", "least_request", "round_robin"];

/// What comes back, and where players go meanwhile.
const HOME: &str = "aws";
const OTHER: &str = "azure";

type Weights = Vec<(u32, InstanceHealth)>;

/// Services by name: who is in [`HOME`], and who is in [`OTHER`].
fn extremes() -> BTreeMap<&'static str, (Weights, Weights)> {
    use InstanceHealth::{Critical, Passing, Warning};
    let mut one_of_fifty = vec![(1, Critical); 50];
    one_of_fifty[7] = (1, Passing);
    [
        ("down-is-great", (vec![(1, Warning), (1, Warning), (100, Critical)], vec![(1, Passing)])),
        ("one-of-fifty", (one_of_fifty, vec![(1, Passing)])),
        ("greatest", (vec![(u32::MAX, Passing); 5], vec![(u32::MAX, Passing); 3])),
        ("thousands", (vec![(u32::MAX, Passing); 2000], vec![(u32::MAX, Passing)])),
        (
            "thousands-down",
            ([vec![(u32::MAX, Critical); 2000], vec![(1, Passing)]].concat(), vec![(1, Passing)]),
        ),
        // Nowhere else to go: what they weigh is as Consul says.
        ("alone", (vec![(u32::MAX, Passing); 3], Vec::new())),
    ]
    .into()
}

fn policy(net: &TestNet) -> String {
    let services = extremes().into_keys().map(|name| {
        json!({"name": name, "consul": {"service": name}, "datacenter": HOME, "failover": {
            "targets": [{"datacenter": OTHER}], "fail_back": {"after": "1s", "over": "10s"}}})
    });
    let routes: Vec<Value> = (1..)
        .zip(extremes().into_keys().flat_map(|service| STRATEGIES.map(|strategy| (service, strategy))))
        .map(|(world, (service, strategy))| {
            json!({"name": format!("{service}-{strategy}"), "server_type": 200, "worlds": [world],
                "strategy": strategy, "to": [{"service": service}]})
        })
        .collect();
    let at = net.at(port::PLAYERS).to_string();
    json!({"listeners": [{"name": "edge", "bind": at}], "services": services.collect::<Vec<_>>(), "routes": routes})
        .to_string()
}

/// All instances; those at home as they are, or all down.
fn catalog(policy: &str, home_is_down: bool) -> Catalog {
    let services = extremes();
    let mut catalog = Catalog {
        local: HOME.to_owned(),
        datacenters: [HOME, OTHER].map(|name| (name.to_owned(), Datacenter::default())).into(),
        ..Catalog::default()
    };
    let all = wanted(&parse(policy).unwrap(), &catalog);
    let instances = all.into_iter().map(|lookup| {
        let (number, (_, (home, other))) =
            services.iter().enumerate().find(|(_, (name, _))| **name == lookup.service).unwrap();
        let is_home = lookup.datacenter == HOME;
        let instance = |(i, &(weight, health)): (usize, &(u32, InstanceHealth))| {
            let [high, low] = u16::try_from(i).unwrap().to_be_bytes();
            let net = u8::try_from(2 * number).unwrap() + u8::from(is_home);
            Instance {
                id: i.to_string(),
                node: String::new(),
                address: [10, net, high, low].into(),
                port: 1,
                weight,
                health: if is_home && home_is_down { InstanceHealth::Critical } else { health },
            }
        };
        let instances = if is_home { home } else { other }.iter().enumerate().map(instance).collect();
        (lookup, instances)
    });
    catalog.instances = instances.collect();
    catalog
}

/// An edge whose targets have come back to 90 % of their players.
fn nearly_back(net: &TestNet, version: Option<&str>) -> Snapshot {
    let policy = policy(net);
    let mut mesh = mesh(&policy);
    let (start, mut tracker) = (tokio::time::Instant::now(), Tracker::default());
    tracker.advance(start, &mesh.policy, &catalog(&policy, true));
    mesh.catalog = Arc::new(catalog(&policy, false));
    tracker.advance(start, &mesh.policy, &mesh.catalog);
    let almost = start + Duration::from_millis(1000 + 8500);
    (mesh.placement, _) = tracker.advance(almost, &mesh.policy, &mesh.catalog);
    assert!(mesh.catalog.instances.keys().any(|lookup| mesh.placement.share(&lookup.service, lookup) == 90));
    let hashes_addresses = version == Some("1.37");
    unchecked(&compile(&mesh, &Scope { hashes_addresses, ..Scope::default() }))
}

/// Without health checks: thousands of endpoints that do not answer take more open files than a machine may give.
fn unchecked(snapshot: &Snapshot) -> Snapshot {
    let of = |kind| Arc::clone(snapshot.of(kind));
    let unchecked = |resource: &Arc<Resource>| {
        let checked = Cluster::decode(resource.body()).unwrap();
        Arc::new(Resource::new(
            Arc::clone(resource.name()),
            &Cluster { health_checks: Vec::new(), ..checked },
        ))
    };
    let clusters: Vec<_> = snapshot.of(ResourceType::Cluster).iter().map(unchecked).collect();
    Snapshot::new(
        ResourceSet::new(clusters),
        of(ResourceType::Endpoints),
        of(ResourceType::Listener),
        of(ResourceType::Extension),
    )
    .with_secrets(of(ResourceType::Secret))
    .with_runtime(of(ResourceType::Runtime))
}

async fn takes_all(version: Option<&str>) {
    let net = TestNet::new();
    let start = Instant::now();
    let snapshot = nearly_back(&net, version);
    let clusters: BTreeSet<_> =
        snapshot.of(ResourceType::Cluster).iter().map(|of| of.name().to_string()).collect();
    let served = Served::start(&net, version, "edge", snapshot).await;
    for (service, (home, other)) in extremes() {
        for strategy in STRATEGIES {
            let name = match strategy {
                "round_robin" => service.to_owned(),
                other => format!("{service}/{other}"),
            };
            assert!(clusters.contains(&name), "{name} is none of {clusters:?}");
            let count = |of: &str| served.proxy.stat(&format!("cluster.{name}.{of}"));
            let members = (home.len() + other.len()) as u64;
            wait_until(&format!("{version:?}: {name} has {members} members"), 3 * LIMIT, || {
                assert_eq!(count("update_rejected"), 0, "{version:?}: the endpoints of {name} are refused");
                count("membership_total") == members
            });
        }
    }
    let proxies = served.registry.proxies();
    assert_eq!(proxies.len(), 1);
    assert!(proxies[0].types.iter().all(|of| of.rejected == 0), "{:?}", proxies[0].types);
    assert_eq!(served.proxy.stat("cluster_manager.cds.update_rejected"), 0);
    println!("{version:?}: {} clusters after {:?}", clusters.len(), start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_load_balancer_takes_whatever_weights_there_are() {
    takes_all(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_load_balancer_of_the_oldest_version_takes_whatever_weights_there_are() {
    takes_all(Some("1.37")).await;
}
