//! Golden endpoints: priorities, weights and health of services in several datacenters.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use prost::Message;
use realmgate_control_plane::compile::{RouteTable, compile};
use realmgate_control_plane::mesh::Mesh;
use realmgate_control_plane::mesh::catalog::{
    Catalog, Datacenter, Instance, InstanceHealth, Resolver, ServiceEntries, ServiceSubset, Subset,
};
use realmgate_control_plane::mesh::failover::wanted;
use realmgate_control_plane::model::parse;
use realmgate_control_plane::source::gateway_rules::GatewayRules;
use realmgate_control_plane::xds::{ResourceType, Scope, Snapshot};

use super::{ROOT, accepted_by_envoy, mesh};

/// The examples of docs/failover.md.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(format!("{ROOT}/docs/failover.md")).unwrap();
    let blocks = text.split("```yaml\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0.to_owned()).collect()
}

/// Two instances of everything that the policy asks for: one well, one in warning; a critical one in azure.
fn with_catalog(mut mesh: Mesh) -> Mesh {
    let datacenter = |rtt| Datacenter { rtt: Some(Duration::from_millis(rtt)) };
    let subset =
        |name: &str| (name.to_owned(), Subset { filter: format!("Meta.v == {name}"), only_passing: true });
    let resolver = |name: &str| Resolver { subsets: [subset(name)].into(), ..Resolver::default() };
    let entries = [("game", "v2"), ("game-standby", "small")].map(|(service, subset)| {
        let entries = ServiceEntries { resolver: Some(resolver(subset)), ..ServiceEntries::default() };
        (service.to_owned(), entries)
    });
    let mut catalog = Catalog {
        local: "aws".to_owned(),
        entries: Arc::new(entries.into()),
        datacenters: [("aws".to_owned(), datacenter(0)), ("azure".to_owned(), datacenter(30))].into(),
        ..Catalog::default()
    };
    for (number, lookup) in (1..).zip(wanted(&mesh.policy, &catalog)) {
        let mut healths = vec![(10, InstanceHealth::Passing), (1, InstanceHealth::Warning)];
        if lookup.datacenter == "azure" {
            healths.push((10, InstanceHealth::Critical));
        }
        let instance = |(i, (weight, health)): (u8, (u32, InstanceHealth))| Instance {
            id: i.to_string(),
            node: "node".to_owned(),
            address: [10, 9, number, i].into(),
            port: 7777,
            weight,
            health,
        };
        catalog.instances.insert(lookup, (1..).zip(healths).map(instance).collect());
    }
    mesh.catalog = Arc::new(catalog);
    mesh
}

fn describe(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for resource in snapshot.of(ResourceType::Cluster).iter() {
        let cluster = Cluster::decode(resource.body()).unwrap();
        let lb = cluster.common_lb_config.clone().unwrap();
        text += &format!(
            "{}: panic below {} %, closes connections {}, forgets the removed {}\n",
            cluster.name,
            lb.healthy_panic_threshold.unwrap().value,
            cluster.close_connections_on_host_health_failure,
            cluster.ignore_health_on_host_removal,
        );
        for check in &cluster.health_checks {
            let ms = |time: &Option<envoy_types::pb::google::protobuf::Duration>| {
                time.as_ref().map(|time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).unwrap()
            };
            let threshold =
                |of: &Option<envoy_types::pb::google::protobuf::UInt32Value>| of.as_ref().unwrap().value;
            text += &format!(
                "  check every {} ms for {} ms, down after {}, up after {}\n",
                ms(&check.interval),
                ms(&check.timeout),
                threshold(&check.unhealthy_threshold),
                threshold(&check.healthy_threshold)
            );
        }
        let Some(endpoints) = snapshot.of(ResourceType::Endpoints).get(&cluster.name) else { continue };
        let assignment = ClusterLoadAssignment::decode(endpoints.body()).unwrap();
        let factor = assignment.policy.and_then(|policy| policy.overprovisioning_factor);
        text += &format!("  overprovisioning {:?}\n", factor.map(|factor| factor.value));
        for of in &assignment.endpoints {
            let locality = of.locality.clone().unwrap_or_default();
            text += &format!(
                "  priority {}: {}/{}/{}\n",
                of.priority, locality.region, locality.zone, locality.sub_zone
            );
            for endpoint in &of.lb_endpoints {
                text += &format!("    {}\n", describe_endpoint(endpoint));
            }
        }
    }
    text
}

fn describe_endpoint(endpoint: &LbEndpoint) -> String {
    let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { panic!("{endpoint:?}") };
    let Some(Address::SocketAddress(at)) = host.address.as_ref().and_then(|a| a.address.as_ref()) else {
        panic!("{endpoint:?}")
    };
    let weight = endpoint.load_balancing_weight.as_ref().map_or(1, |weight| weight.value);
    let identity = endpoint.metadata.as_ref().map(|metadata| {
        let fields = &metadata.filter_metadata["envoy.transport_socket_match"].fields;
        assert_eq!(fields.len(), 1, "the order of several is not settled");
        format!("{:?}", fields["target"].kind)
    });
    let identity = identity.unwrap_or_default();
    let (_, identity) = identity.split_once('"').unwrap_or_default();
    let (identity, _) = identity.split_once('"').unwrap_or_default();
    format!("{}, weight {weight}, {:?}, {identity}", at.address, endpoint.health_status())
}

#[test]
fn the_documented_services_compile_to_these_priorities() {
    let mut text = String::new();
    for policy in documented() {
        let policy = if policy.contains("listeners:") {
            policy
        } else {
            format!("listeners: [{{name: edge, bind: \"0.0.0.0:7000\"}}]\n{policy}")
        };
        let mesh = with_catalog(mesh(&policy, GatewayRules::default()));
        for datacenter in ["aws", "azure"] {
            let scope = Scope { datacenter: datacenter.to_owned(), ..Scope::default() };
            let snapshot = compile(&mesh, &scope);
            text += &format!("--- an edge in {datacenter}\n{}", describe(&snapshot));
            accepted_by_envoy(&snapshot);
        }
    }
    insta::assert_snapshot!("documented_failover", text);
}

#[test]
fn a_splitter_is_a_cluster_for_each_leg_and_weights_in_the_filter() {
    let policy = "listeners: [{name: edge, bind: \"0.0.0.0:7000\"}]\n\
                  services: [{name: game, consul: {service: game}}, {name: blue, endpoints: [\"10.0.0.1:1\"]}]\n\
                  routes: [{name: r, server_type: 200, to: [{service: game, weight: 3}, {service: blue}]}]";
    let mut mesh = mesh(policy, GatewayRules::default());
    let leg = |weight, service: &str, subset: &str| {
        (weight, ServiceSubset { service: service.to_owned(), subset: subset.to_owned() })
    };
    let splitter = vec![leg(9_000, "", "v1"), leg(1_000, "game.canary", "")];
    let subsets = [("v1".to_owned(), Subset::default())].into();
    let resolver = Some(Resolver { subsets, ..Resolver::default() });
    let entries = ServiceEntries { resolver, splitter };
    mesh.catalog = Arc::new(Catalog {
        local: "aws".to_owned(),
        entries: Arc::new([("game".to_owned(), entries)].into()),
        ..Catalog::default()
    });
    let snapshot = compile(&mesh, &Scope::default());
    let routes = RouteTable::new(&mesh, "edge").to_filter();
    let to: Vec<_> = routes[0].to.iter().map(|to| (to.cluster.as_str(), to.weight)).collect();
    let expected =
        [("game/split/game/v1", 1_000_000), ("game/split/game%2Ecanary", 111_111), ("blue", 370_370)];
    assert_eq!(to, expected);
    for (cluster, _) in to {
        assert!(snapshot.of(ResourceType::Cluster).get(cluster).is_some(), "{cluster}");
    }
    assert!(parse(policy).is_ok());
}
