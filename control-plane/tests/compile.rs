//! What compiling gives: golden names and filter routes, each output accepted by a real Envoy.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::format_push_string,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

mod failover;
mod listeners;
mod mesh_tls;
mod resilience;

use std::fs;
use std::process::Command;
use std::sync::Arc;

use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, GrpcService, Node, TypedExtensionConfig, api_config_source::ApiType,
    grpc_service,
};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use prost::Message;
use realmgate_control_plane::compile::{Question, RouteTable, compile, explain, filter_config};
use realmgate_control_plane::mesh::{EdgeSettings, FilterModule, Mesh, ModuleLocation, Unheard};
use realmgate_control_plane::model::{Limits, Strategy, parse};
use realmgate_control_plane::source::gateway_rules::{GatewayRule, GatewayRules, RuleOrigin};
use realmgate_control_plane::xds::{ResourceType, Scope, Snapshot};
use realmgate_filter::config::Framing;
use realmgate_filter::route::Router;
use realmgate_wire::ServerId;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The policy of the documentation, so that it stays true.
fn documented_policy() -> String {
    example("docs/policy.md")
}

fn example(file: &str) -> String {
    let text = fs::read_to_string(format!("{ROOT}/{file}")).unwrap();
    let (_, rest) = text.split_once("```yaml\n").expect("it has an example");
    rest.split_once("```").unwrap().0.to_owned()
}

fn rule(key: &str, world: Option<u16>, strategy: Strategy, endpoints: &[&str]) -> GatewayRule {
    GatewayRule {
        origin: RuleOrigin::Rules,
        key: key.to_owned(),
        server_type: 200,
        world,
        service: "game.eu".to_owned(),
        strategy,
        endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
    }
}

fn rules() -> GatewayRules {
    let three = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"];
    let mut rules = vec![
        rule("1", Some(1), Strategy::RoundRobin, &three),
        rule("2", Some(2), Strategy::RoundRobin, &["game-2.example.com:7"]),
        rule("3", Some(3), Strategy::RealmBased, &three),
        rule("4", Some(4), Strategy::RealmBased, &three),
        rule("5", Some(5), Strategy::ConsistentHash, &["10.0.0.1:1"]),
        rule("6", None, Strategy::ConsistentHash, &three),
    ];
    rules.push(GatewayRule {
        origin: RuleOrigin::RealmMapping,
        key: "9".to_owned(),
        service: "realm".to_owned(),
        ..rule("9", Some(9), Strategy::RoundRobin, &["10.0.0.9:1"])
    });
    GatewayRules { rules, ..GatewayRules::default() }
}

fn mesh(policy: &str, rules: GatewayRules) -> Mesh {
    let gateway = EdgeSettings::gateway_listener("127.0.0.1:8080".parse().unwrap(), Limits::default());
    Mesh {
        policy: Arc::new(parse(policy).unwrap()),
        rules: Arc::new(rules),
        identities: Arc::default(),
        intentions: Arc::default(),
        module: FilterModule { sha256: String::new(), location: ModuleLocation::Path(wasm_path()) },
        catalog: Arc::default(),
        edge: Arc::new(EdgeSettings {
            service: "realmgate-edge".to_owned(),
            health_listen: Some("127.0.0.1:9090".parse().unwrap()),
            metrics_clients: vec!["10.0.0.0/8".parse().unwrap()],
            access_log: Some("/dev/stdout".to_owned()),
            address_key: None,
            gateway: Some(gateway),
            gateway_framing: Framing::Server,
        }),
        placement: Arc::default(),
        unheard: Unheard::default(),
    }
}

fn wasm_path() -> String {
    std::env::var("REALMGATE_FILTER_WASM")
        .unwrap_or_else(|_| format!("{ROOT}/target/wasm32-unknown-unknown/release/realmgate_filter.wasm"))
}

/// Names of all resources and the filter's JSON of each listener, as people would review them.
fn summary(mesh: &Mesh, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let sets = [
        ("clusters", &snapshot.of(ResourceType::Cluster)),
        ("endpoints", &snapshot.of(ResourceType::Endpoints)),
        ("listeners", &snapshot.of(ResourceType::Listener)),
        ("extensions", &snapshot.of(ResourceType::Extension)),
    ];
    for (kind, set) in sets {
        text += &format!("{kind}:\n");
        for resource in set.iter() {
            let mark = if set.is_on_demand(resource.name()) { " (on demand)" } else { "" };
            text += &format!("  {}{mark}\n", resource.name());
        }
    }
    for listener in mesh.listeners(&[]) {
        let config = filter_config(listener, RouteTable::new(mesh, &listener.name).to_filter(), &mesh.edge);
        text += &format!("filter of {}: ", listener.name);
        text += "{\n";
        for route in &config.routes {
            text += &format!("  {}\n", serde_json::to_string(route).unwrap());
        }
        text += "}\n";
    }
    text
}

#[test]
fn the_documented_policy_compiles_to_this() {
    let mesh = mesh(&documented_policy(), GatewayRules::default());
    let snapshot = compile(&mesh, &Scope::default());
    insta::assert_snapshot!("documented_policy", summary(&mesh, &snapshot));
    accepted_by_envoy(&snapshot);
}

#[test]
fn rules_of_the_old_gateway_compile_to_this() {
    let mesh = mesh("{}", rules());
    let snapshot = compile(&mesh, &Scope::default());
    insta::assert_snapshot!("gateway_rules", summary(&mesh, &snapshot));
    accepted_by_envoy(&snapshot);
}

/// An eager listener beside one on demand; `blue` is named by both.
const TWO_KINDS: &str = r#"
listeners:
  - {name: edge, bind: "127.0.0.1:7000"}
  - {name: worlds, bind: "127.0.0.1:7001", clusters: on_demand}
services:
  - {name: blue, endpoints: ["10.1.0.1:1", "10.1.0.2:1"]}
  - {name: green, endpoints: ["10.2.0.1:1"]}
  - {name: own-world, dns: {host: "world-{world}.example.com", port: 7777}}
routes:
  - {name: all, server_type: 200, listeners: [edge], to: [{service: blue}]}
  - {name: own, server_type: 200, worlds: ["1-20"], listeners: [worlds], to: [{service: own-world}]}
  - {name: picked, server_type: 200, worlds: [21], strategy: realm_based, listeners: [worlds], to: [{service: blue}]}
  - {name: split, server_type: 200, listeners: [worlds], to: [{service: blue}, {service: green}]}
"#;

#[test]
fn a_listener_on_demand_compiles_to_this() {
    let mesh = mesh(TWO_KINDS, GatewayRules::default());
    let snapshot = compile(&mesh, &Scope::default());
    insta::assert_snapshot!("on_demand", summary(&mesh, &snapshot));
    let asks = |name: &str| {
        let resource = snapshot.of(ResourceType::Listener).get(name).unwrap();
        let listener = Listener::decode(resource.body()).unwrap();
        let filter = listener.filter_chains[0].filters.last().unwrap().config_type.clone();
        let Some(filter::ConfigType::TypedConfig(any)) = filter else { panic!("{filter:?}") };
        TcpProxy::decode(any.value.as_slice()).unwrap().on_demand
    };
    assert_eq!(asks("edge"), None);
    let timeout = asks("worlds").unwrap().timeout.unwrap();
    assert_eq!((timeout.seconds, timeout.nanos), (5, 0));
    accepted_by_envoy(&snapshot);
}

#[test]
fn state_of_the_world_gets_every_cluster_at_once() {
    let scope = Scope { state_of_the_world: true, ..Scope::default() };
    let lazy = compile(&mesh(TWO_KINDS, rules()), &scope);
    let eager = compile(&mesh(&TWO_KINDS.replace("on_demand", "eager"), rules()), &Scope::default());
    assert_eq!(lazy, eager);
}

/// Envoy asks once for a cluster that does not exist, and keeps the next players waiting: the filter must never
/// name one.
#[test]
fn the_filter_names_only_clusters_that_exist() {
    for policy in [&documented_policy(), TWO_KINDS] {
        let mesh = mesh(policy, rules());
        let snapshot = compile(&mesh, &Scope::default());
        for listener in mesh.listeners(&[]) {
            let table = RouteTable::new(&mesh, &listener.name);
            let router = Router::new(&filter_config(listener, table.to_filter(), &mesh.edge)).unwrap();
            let mut named = 0;
            for world in 0..=ServerId::MAX_WORLD {
                for instance in [0, 1, 2, 3, 7] {
                    for draw in [0, u64::MAX / 2, u64::MAX] {
                        let to = ServerId::new(200, world, instance, false);
                        let Some(decision) = router.decide(to, Some("10.0.0.1"), || draw) else { continue };
                        assert!(
                            snapshot.of(ResourceType::Cluster).get(&decision.cluster).is_some(),
                            "{decision:?}"
                        );
                        named += 1;
                    }
                }
            }
            assert!(named > 0, "{}", listener.name);
        }
    }
}

#[test]
fn compiling_is_deterministic_to_the_byte() {
    let one = compile(&mesh(&documented_policy(), rules()), &Scope::default());
    let two = compile(&mesh(&documented_policy(), rules()), &Scope::default());
    assert_eq!(one, two);
    assert!(!one.of(ResourceType::Cluster).version().is_empty());
}

#[test]
fn an_edge_gets_the_listeners_it_asks_for() {
    let mesh = mesh(&documented_policy(), rules());
    let scope = Scope { listeners: vec!["edge".to_owned()], ..Scope::default() };
    let snapshot = compile(&mesh, &scope);
    let names: Vec<_> = snapshot.of(ResourceType::Listener).iter().map(|l| &**l.name()).collect();
    assert_eq!(names, ["edge", "realmgate-health"]);
    // Its bound on connections, its routes, and what answers at `/ready`.
    assert_eq!(snapshot.of(ResourceType::Extension).len(), 3);
}

#[test]
fn other_limits_are_another_filter_in_the_same_listener() {
    let of = |limits: &str| {
        let policy = format!("listeners: [{{name: edge, bind: \"127.0.0.1:7000\", limits: {{{limits}}}}}]");
        compile(&mesh(&policy, rules()), &Scope::default())
    };
    let before = of("");
    for limits in [
        "connections: 0",
        "connections: 7",
        "connections_per_ip: 0",
        "new_connections_per_ip_per_second: 7",
        "header_timeout: 7s",
        "max_message_bytes: 7",
    ] {
        let after = of(limits);
        assert_eq!(after.of(ResourceType::Listener), before.of(ResourceType::Listener), "{limits}");
        let filters = after.of(ResourceType::Extension).iter().zip(before.of(ResourceType::Extension).iter());
        assert_eq!(filters.filter(|(after, before)| after != before).count(), 1, "{limits}");
    }
}

#[test]
fn the_policy_outranks_a_rule_for_the_same_world_and_a_rule_outranks_a_range() {
    let policy = r#"
listeners: [{name: edge, bind: "127.0.0.1:7000"}]
services: [{name: blue, endpoints: ["10.1.0.1:1"]}]
routes:
  - {name: one, server_type: 200, worlds: [1], to: [{service: blue}]}
  - {name: many, server_type: 200, worlds: ["1-100"], to: [{service: blue}]}
"#;
    let mesh = mesh(policy, rules());
    let winner = |world| {
        let question = Question {
            server_id: ServerId::new(200, world, 0, false),
            listener: "edge".to_owned(),
            source_ip: None,
            datacenter: String::new(),
        };
        let explanation = explain(&mesh, &question);
        (explanation.route.unwrap_or_default(), explanation.destinations[0].cluster.clone())
    };
    assert_eq!(winner(1), ("one".to_owned(), "blue".to_owned()));
    assert_eq!(winner(2), ("2".to_owned(), "game-gateway/game%2Eeu/200/2".to_owned()));
    assert_eq!(winner(9), ("9".to_owned(), "game-gateway/realm/9".to_owned()));
    assert_eq!(winner(50), ("many".to_owned(), "blue".to_owned()));
    assert_eq!(winner(500), ("6".to_owned(), "game-gateway/game%2Eeu/200/any".to_owned()));
}

#[test]
fn rules_have_the_framing_of_the_setting_and_services_their_own() {
    let policy = r#"
services:
  - {name: old, endpoints: ["10.1.0.1:1"], framing: server-traced}
  - {name: new, endpoints: ["10.1.0.2:1"]}
routes:
  - {name: split, server_type: 10, to: [{service: old}, {service: new}]}
"#;
    for framing in [Framing::Client, Framing::Server, Framing::ServerTraced] {
        let mut mesh = mesh(policy, rules());
        let edge = EdgeSettings { gateway_framing: framing, ..EdgeSettings::clone(&mesh.edge) };
        mesh.edge = Arc::new(edge);
        let table = RouteTable::new(&mesh, "game-gateway");
        let of_type = |wanted| {
            let routes = table.entries().iter().map(|entry| &entry.route);
            let to = routes.filter(move |route| route.server_type == wanted).flat_map(|route| &route.to);
            to.map(|to| to.framing).collect::<Vec<_>>()
        };
        assert_eq!(of_type(200), [framing; 7]);
        assert_eq!(of_type(10), [Framing::ServerTraced, Framing::Client]);
    }
    let unknown = parse("services: [{name: a, endpoints: [\"10.0.0.1:1\"], framing: grpc}]").unwrap_err();
    assert!(format!("{unknown:?}").contains("`grpc` is none of"), "{unknown:?}");
}

#[test]
fn two_thousand_worlds_of_a_cluster_each_are_one_line() {
    let rules = (1..=2000).map(|w| rule(&w.to_string(), Some(w), Strategy::RoundRobin, &["10.0.0.1:1"]));
    let mesh = mesh("{}", GatewayRules { rules: rules.collect(), ..GatewayRules::default() });
    let table = RouteTable::new(&mesh, "game-gateway");
    assert_eq!(table.to_filter().len(), 1);
    assert_eq!(compile(&mesh, &Scope::default()).of(ResourceType::Cluster).len(), 2000);
}

/// `envoy --mode validate` on a bootstrap that holds the snapshot as static resources.
fn accepted_by_envoy(snapshot: &Snapshot) {
    let extension = |name: &str| {
        let resource =
            snapshot.of(ResourceType::Extension).get(name).expect("every filter has its extension");
        TypedExtensionConfig::decode(resource.body()).unwrap().typed_config.unwrap()
    };
    let mut listeners = Vec::new();
    for resource in snapshot.of(ResourceType::Listener).iter() {
        let mut listener = Listener::decode(resource.body()).unwrap();
        assert_eq!(listener.name, **resource.name());
        for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
            if let Some(filter::ConfigType::ConfigDiscovery(_)) = filter.config_type {
                let config = extension(&filter.name);
                filter.config_type = Some(filter::ConfigType::TypedConfig(config));
            }
        }
        listeners.push(listener);
    }
    let mut clusters: Vec<_> =
        snapshot.of(ResourceType::Cluster).iter().map(|r| Cluster::decode(r.body()).unwrap()).collect();
    for resource in snapshot.of(ResourceType::Endpoints).iter() {
        let assignment = ClusterLoadAssignment::decode(resource.body()).unwrap();
        assert_eq!(assignment.cluster_name, **resource.name());
        assert!(
            snapshot.of(ResourceType::Cluster).get(resource.name()).is_some(),
            "endpoints without a cluster"
        );
    }
    for name in ["control-plane", "realmgate-admin"] {
        clusters.push(Cluster { name: name.to_owned(), ..Cluster::default() });
    }
    let ads = ApiConfigSource {
        api_type: ApiType::DeltaGrpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService {
            target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
                cluster_name: "control-plane".to_owned(),
                ..grpc_service::EnvoyGrpc::default()
            })),
            ..GrpcService::default()
        }],
        ..ApiConfigSource::default()
    };
    let bootstrap = Bootstrap {
        node: Some(Node { id: "edge".to_owned(), cluster: "edge".to_owned(), ..Node::default() }),
        static_resources: Some(bootstrap::StaticResources { listeners, clusters, ..Default::default() }),
        dynamic_resources: Some(bootstrap::DynamicResources { ads_config: Some(ads), ..Default::default() }),
        ..Bootstrap::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.pb");
    fs::write(&file, bootstrap.encode_to_vec()).unwrap();
    let output = Command::new(envoy())
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&file)
        .output()
        .expect("envoy starts");
    assert!(output.status.success(), "Envoy refuses: {}", String::from_utf8_lossy(&output.stderr));
}

fn envoy() -> String {
    let brought = format!("{ROOT}/.tools/bin/envoy");
    std::env::var("ENVOY_BIN")
        .unwrap_or_else(|_| if fs::exists(&brought).unwrap_or(false) { brought } else { "envoy".to_owned() })
}
