//! Identities in clusters and listeners: which secrets are named, whom each side believes, and what there is without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{
    TransportSocket, TypedExtensionConfig, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, Secret, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;
use realmgate_control_plane::compile::compile;
use realmgate_control_plane::mesh::catalog::{Catalog, Instance, InstanceHealth};
use realmgate_control_plane::mesh::failover::wanted;
use realmgate_control_plane::mesh::identity::Leaf;
use realmgate_control_plane::mesh::{Identities, Intentions, Mesh};
use realmgate_control_plane::model::{Action, Duration, Intention, Policy, Sidecars};
use realmgate_control_plane::source::consul;
use realmgate_control_plane::source::gateway_rules::GatewayRules;
use realmgate_control_plane::xds::{Ports, ResourceType, Role, Scope, Snapshot};

use super::{accepted_by_envoy, example, mesh};

/// The mesh of docs/mesh.md, of which these services have a certificate.
fn documented(services: &[&str]) -> Mesh {
    of_policy(&example("docs/mesh.md"), services)
}

pub(super) fn of_policy(policy: &str, services: &[&str]) -> Mesh {
    let mut mesh = mesh(policy, GatewayRules::default());
    let mut identities = Identities {
        trust_domain: "test.internal".to_owned(),
        datacenter: "aws".to_owned(),
        roots: ["ROOT ONE".to_owned(), "ROOT TWO\n".to_owned()].into(),
        leaves: BTreeMap::new(),
        unproven: false,
    };
    for service in services {
        let leaf = Leaf {
            uri: identities.uri("aws", service).unwrap(),
            chain: format!("CHAIN OF {service}"),
            key: format!("KEY OF {service}"),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        };
        identities.leaves.insert((*service).to_owned(), Arc::new(leaf));
    }
    mesh.intentions = Arc::new(Intentions::joined(&mesh.policy, None));
    mesh.identities = Arc::new(identities);
    mesh
}

pub(super) fn sidecar(service: &str) -> Scope {
    let ports = Ports { inbound: "10.0.0.5:20000".parse().unwrap(), app: "127.0.0.1:7777".parse().unwrap() };
    Scope { role: Role::Sidecar, service: service.to_owned(), sidecar: Some(ports), ..Scope::default() }
}

fn secrets(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let secrets = snapshot.of(ResourceType::Secret).iter();
    let shown = secrets.map(|secret| {
        assert!(secret.is_on_demand(), "a wildcard covers it");
        let message = Secret::decode(secret.body()).unwrap();
        assert_eq!(message.name, **secret.name());
        (message.name.clone(), format!("{message:?}"))
    });
    shown.collect()
}

fn cluster(snapshot: &Snapshot, name: &str) -> Cluster {
    Cluster::decode(snapshot.of(ResourceType::Cluster).get(name).unwrap().body()).unwrap()
}

fn context(socket: Option<TransportSocket>) -> UpstreamTlsContext {
    let Some(ConfigType::TypedConfig(context)) = socket.expect("in the clear").config_type else { panic!() };
    UpstreamTlsContext::decode(context.value.as_slice()).unwrap()
}

/// The names of its secrets, and the SPIFFE ids that it believes.
fn believes(common: &CommonTlsContext) -> (Vec<&str>, Vec<String>) {
    let Some(ValidationContextType::CombinedValidationContext(validation)) = &common.validation_context_type
    else {
        panic!("{common:?}");
    };
    let roots = validation.validation_context_sds_secret_config.as_ref().unwrap();
    let leaf = common.tls_certificate_sds_secret_configs.first();
    let sans = &validation.default_validation_context.as_ref().unwrap().match_typed_subject_alt_names;
    let sans = sans.iter().map(|san| match san.matcher.as_ref().unwrap().match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(uri) => uri.clone(),
        MatchPattern::Prefix(uri) => format!("{uri}*"),
        other => panic!("{other:?}"),
    });
    (leaf.into_iter().chain([roots]).map(|secret| &*secret.name).collect(), sans.collect())
}

#[test]
fn an_edge_shows_its_own_certificate_and_believes_the_very_service() {
    let mut mesh = documented(&["realmgate-edge", "game"]);
    let snapshot = compile(&mesh, &Scope::default());
    let context = context(cluster(&snapshot, "game").transport_socket);
    let common = context.common_tls_context.unwrap();
    let game = "spiffe://test.internal/ns/default/dc/aws/svc/game".to_owned();
    assert_eq!(believes(&common), (vec!["leaf/realmgate-edge", "roots"], vec![game]));
    assert_eq!(context.sni, "game.default.aws.internal.test.internal");
    let secrets = secrets(&snapshot);
    assert_eq!(secrets.keys().collect::<Vec<_>>(), ["leaf/realmgate-edge", "roots"]);
    assert!(secrets["roots"].contains(r"ROOT ONE\nROOT TWO\n"), "{}", secrets["roots"]);
    assert!(!format!("{secrets:?}").contains("KEY OF game"), "another's key");
    accepted_by_envoy(&snapshot);
    // TLS has no room for a longer name, and Envoy takes no such cluster.
    Arc::make_mut(&mut mesh.identities).trust_domain = "d".repeat(255);
    accepted_by_envoy(&compile(&mesh, &Scope::default()));
}

/// A service of two datacenters and a standby, with an instance in those of them that are named.
fn with_places(mut mesh: Mesh, filled: &[&str]) -> Mesh {
    let mut catalog = Catalog { local: "aws".to_owned(), ..Catalog::default() };
    let instance = Instance {
        id: "1".to_owned(),
        node: "node".to_owned(),
        address: [10, 9, 0, 1].into(),
        port: 7777,
        weight: 1,
        health: InstanceHealth::Passing,
    };
    for lookup in wanted(&mesh.policy, &catalog) {
        let place = format!("{}/{}", lookup.datacenter, lookup.service);
        let instances = filled.contains(&place.as_str()).then(|| instance.clone());
        catalog.instances.insert(lookup, instances.into_iter().collect());
    }
    mesh.catalog = Arc::new(catalog);
    mesh
}

#[test]
fn no_endpoint_is_spoken_to_in_the_clear_whichever_comes_before_its_cluster() {
    let policy = "listeners: [{name: edge, bind: \"0.0.0.0:7000\"}]
services:
  - {name: places, tls: mesh, consul: {service: game}, failover: {targets: [{datacenter: azure}, {service: standby}]}}
  - {name: fixed, tls: mesh, endpoints: [\"10.0.0.1:1\"]}
  - {name: dns, tls: mesh, dns: {host: game.test, port: 1}}
routes: [{name: r, server_type: 200, to: [{service: places}, {service: fixed}, {service: dns}]}]";
    let mesh = of_policy(policy, &["realmgate-edge"]);
    let empty = compile(&with_places(mesh.clone(), &[]), &Scope::default());
    for service in ["places", "fixed", "dns"] {
        let context = context(cluster(&empty, service).transport_socket);
        let name = if service == "places" { "game" } else { service };
        let here = vec![format!("spiffe://test.internal/ns/default/dc/aws/svc/{name}")];
        assert_eq!(believes(&context.common_tls_context.unwrap()).1, here);
    }
    let (players, checks): (Vec<_>, Vec<_>) =
        cluster(&empty, "places").transport_socket_matches.into_iter().partition(|of| of.name != "anybody");
    let matches: BTreeMap<_, _> = players
        .into_iter()
        .map(|of| (of.name, believes(&context(of.transport_socket).common_tls_context.unwrap()).1.concat()))
        .collect();
    let believed = |target: &str| {
        let (datacenter, service) = target.split_once('/').unwrap();
        (target.to_owned(), format!("spiffe://test.internal/ns/default/dc/{datacenter}/svc/{service}"))
    };
    // A check believes any of them.
    let check = context(checks[0].transport_socket.clone()).common_tls_context.unwrap();
    assert_eq!(believes(&check).1, matches.values().cloned().collect::<Vec<_>>());
    assert_eq!(matches, ["aws/game", "aws/standby", "azure/game"].map(believed).into());
    accepted_by_envoy(&empty);
    // Whoever comes first or goes last changes endpoints and no cluster.
    let filled = compile(&with_places(mesh, &["aws/standby", "azure/game"]), &Scope::default());
    assert_eq!(empty.of(ResourceType::Cluster), filled.of(ResourceType::Cluster));
    assert_ne!(empty.of(ResourceType::Endpoints), filled.of(ResourceType::Endpoints));
}

#[test]
fn checks_that_only_connect_show_no_certificate_and_others_go_as_players_do() {
    let policy = |check: &str| {
        format!(
            "listeners: [{{name: edge, bind: \"0.0.0.0:7000\"}}]
services: [{{name: game, tls: mesh, endpoints: [\"10.0.0.1:1\"], health_check: {{check: {check}}}}}]
routes: [{{name: r, server_type: 200, to: [{{service: game}}]}}]"
        )
    };
    let of = |check: &str| {
        let snapshot = compile(&of_policy(&policy(check), &["realmgate-edge"]), &Scope::default());
        accepted_by_envoy(&snapshot);
        cluster(&snapshot, "game")
    };
    let silent = of("tcp");
    let [socket] = &silent.transport_socket_matches[..] else { panic!("{silent:?}") };
    assert!(
        socket.r#match.is_some() && silent.health_checks[0].transport_socket_match_criteria == socket.r#match
    );
    let check = context(socket.transport_socket.clone()).common_tls_context.unwrap();
    let uri = "spiffe://test.internal/ns/default/dc/aws/svc/game".to_owned();
    assert_eq!(believes(&check), (vec!["roots"], vec![uri.clone()]));
    let players = context(silent.transport_socket).common_tls_context.unwrap();
    assert_eq!(believes(&players), (vec!["leaf/realmgate-edge", "roots"], vec![uri]));
    for spoken in ["{ping: {message_id: 77}}", "{bytes: {send: \"00\", expect: [\"00\"]}}"] {
        let spoken = of(spoken);
        assert!(spoken.transport_socket_matches.is_empty());
        assert_eq!(spoken.health_checks[0].transport_socket_match_criteria, None);
    }
}

#[test]
fn a_service_without_certificates_gets_nobody_rather_than_somebody_in_the_clear() {
    let without_authority = Mesh { identities: Arc::default(), ..documented(&[]) };
    // Nobody wants a certificate of it.
    let stranger = Scope { service: "stranger".to_owned(), ..Scope::default() };
    for (mesh, scope) in [(without_authority, Scope::default()), (documented(&["game"]), stranger)] {
        let snapshot = compile(&mesh, &scope);
        let common = context(cluster(&snapshot, "game").transport_socket).common_tls_context.unwrap();
        assert!(common.tls_certificate_sds_secret_configs.is_empty(), "it would wait for a secret for ever");
        let Some(ValidationContextType::ValidationContext(validation)) = common.validation_context_type
        else {
            panic!()
        };
        assert_eq!(
            validation.verify_certificate_hash,
            ["0".repeat(64)],
            "whose endpoints come first is no peer"
        );
        accepted_by_envoy(&snapshot);
        let endpoints = snapshot.of(ResourceType::Endpoints).get("game").unwrap();
        let endpoints = ClusterLoadAssignment::decode(endpoints.body()).unwrap();
        assert!(endpoints.endpoints.iter().all(|locality| locality.lb_endpoints.is_empty()), "{endpoints:?}");
        assert!(secrets(&snapshot).is_empty());
    }
}

#[test]
fn an_edge_that_claims_a_service_is_that_service_and_no_other() {
    let mesh = documented(&["realmgate-edge", "game"]);
    let scope = Scope { service: "game".to_owned(), ..Scope::default() };
    assert_eq!(secrets(&compile(&mesh, &scope)).into_keys().collect::<Vec<_>>(), ["leaf/game", "roots"]);
    let scope = Scope { service: "unknown".to_owned(), ..Scope::default() };
    assert!(secrets(&compile(&mesh, &scope)).is_empty());
}

#[test]
fn a_sidecar_has_one_listener_for_peers_of_its_trust_domain() {
    let mesh = documented(&["realmgate-edge", "game"]);
    let snapshot = compile(&mesh, &sidecar("game"));
    let names = |kind| snapshot.of(kind).iter().map(|r| r.name().to_string()).collect::<Vec<_>>();
    assert_eq!(names(ResourceType::Cluster), ["app"]);
    assert_eq!(names(ResourceType::Listener), ["inbound"]);
    let slots = ["realmgate/inbound", "realmgate/inbound-guard", "realmgate/inbound/connections"];
    assert_eq!(names(ResourceType::Extension), slots);
    assert_eq!(names(ResourceType::Secret), ["leaf/game", "roots"]);
    let listener = snapshot.of(ResourceType::Listener).get("inbound").unwrap();
    let listener = Listener::decode(listener.body()).unwrap();
    let socket = listener.filter_chains[0].transport_socket.clone().unwrap();
    let Some(ConfigType::TypedConfig(context)) = socket.config_type else { panic!() };
    let context = DownstreamTlsContext::decode(context.value.as_slice()).unwrap();
    assert_eq!(context.require_client_certificate.map(|required| required.value), Some(true));
    let common = context.common_tls_context.unwrap();
    assert_eq!(believes(&common), (vec!["leaf/game", "roots"], vec!["spiffe://test.internal/*".to_owned()]));
    accepted_by_envoy(&snapshot);
    let mut denied = documented(&["realmgate-edge", "game"]);
    denied.intentions = Arc::default();
    let denied = compile(&denied, &sidecar("game"));
    accepted_by_envoy(&denied);
    for kind in ResourceType::ALL {
        let same = denied.of(kind) == snapshot.of(kind);
        assert_eq!(
            same,
            kind != ResourceType::Extension,
            "{kind:?}: open connections are spared by ECDS alone"
        );
    }
}

/// A regular expression of ids of this length is too much for Envoy.
#[test]
fn a_sidecar_takes_intentions_of_any_names() {
    let (long, odd) = ("n".repeat(200), "\u{fc} %".repeat(30));
    for names in [&["web"][..], &[&long, &odd, "a/b"]] {
        for (action, default) in [(Action::Allow, Action::Deny), (Action::Deny, Action::Allow)] {
            let one = |name: &&str| Intention {
                source: (*name).to_owned(),
                destination: "game".to_owned(),
                action,
            };
            let consul = consul::Intentions { list: names.iter().map(one).collect(), default };
            let mut mesh = documented(&["realmgate-edge", "game"]);
            mesh.intentions = Arc::new(Intentions::joined(&Policy::default(), Some(&consul)));
            accepted_by_envoy(&compile(&mesh, &sidecar("game")));
        }
    }
}

#[test]
fn bounds_of_a_sidecar_are_the_policys_and_spare_its_listener_where_they_can() {
    let bounded = |sidecars: Sidecars| {
        let mut mesh = documented(&["realmgate-edge", "game"]);
        Arc::make_mut(&mut mesh.policy).sidecars = sidecars;
        compile(&mesh, &sidecar("game"))
    };
    let fewer = Sidecars { connections: 7, ..Sidecars::default() };
    let shorter = Sidecars { idle_timeout: Duration::from_secs(60), ..Sidecars::default() };
    let quieter = Sidecars { log_nameless: false, ..Sidecars::default() };
    let [before, fewer, shorter, quieter] = [Sidecars::default(), fewer, shorter, quieter].map(bounded);
    accepted_by_envoy(&quieter);
    for kind in ResourceType::ALL {
        assert_eq!(before.of(kind) == fewer.of(kind), kind != ResourceType::Extension, "{kind:?}");
        for replaced in [&shorter, &quieter] {
            assert_eq!(before.of(kind) == replaced.of(kind), kind != ResourceType::Listener, "{kind:?}");
        }
    }
    let bound = |snapshot: &Snapshot| {
        let slot = snapshot.of(ResourceType::Extension).get("realmgate/inbound/connections").unwrap();
        let filter = TypedExtensionConfig::decode(slot.body()).unwrap().typed_config.unwrap();
        ConnectionLimit::decode(filter.value.as_slice()).unwrap().max_connections.unwrap().value
    };
    assert_eq!([bound(&before), bound(&fewer)], [u64::MAX, 7]);
}

#[test]
fn intentions_that_close_put_a_guard_into_its_place() {
    let mut mesh = documented(&["realmgate-edge", "game"]);
    Arc::make_mut(&mut mesh.policy).intentions_close = true;
    let guarded = compile(&mesh, &sidecar("game"));
    accepted_by_envoy(&guarded);
    let listener = guarded.of(ResourceType::Listener).get("inbound").unwrap();
    let chains = Listener::decode(listener.body()).unwrap().filter_chains;
    let filters: Vec<_> = chains[0].filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(
        filters,
        [
            "realmgate/inbound/connections",
            "realmgate/inbound",
            "realmgate/inbound-guard",
            "envoy.filters.network.tcp_proxy"
        ],
        "the guard stands behind who decides and before who connects"
    );
    let guard = guarded.of(ResourceType::Extension).get("realmgate/inbound-guard").unwrap();
    let text = String::from_utf8_lossy(guard.body());
    let rules = r#"{"trust_domain":"test.internal","services":{"only":["realmgate-edge"]}}"#;
    assert!(text.contains(rules), "{text}");
    // What changes with intentions comes by ECDS alone.
    mesh.intentions = Arc::default();
    let denied = compile(&mesh, &sidecar("game"));
    for kind in ResourceType::ALL {
        assert_eq!(denied.of(kind) == guarded.of(kind), kind != ResourceType::Extension, "{kind:?}");
    }
}

#[test]
fn who_waits_for_a_certificate_that_is_wanted_keeps_what_it_has() {
    let pending = |mesh: &Mesh, scope: &Scope| compile(mesh, scope).is_pending();
    let (edge, game) = (Scope::default(), sidecar("game"));
    let mesh = documented(&["game"]);
    assert!(pending(&mesh, &edge) && !pending(&mesh, &game));
    let mesh = documented(&["realmgate-edge"]);
    assert!(!pending(&mesh, &edge) && pending(&mesh, &game));
    // A certificate without a root is none.
    let mut mesh = documented(&["realmgate-edge", "game"]);
    Arc::make_mut(&mut mesh.identities).roots = Arc::default();
    assert!(pending(&mesh, &edge) && pending(&mesh, &game));
}

#[test]
fn a_sidecar_of_which_no_certificate_is_wanted_listens_nowhere() {
    let snapshot = compile(&documented(&["realmgate-edge"]), &sidecar("stranger"));
    assert!(!snapshot.is_pending());
    for kind in ResourceType::ALL {
        assert_eq!(snapshot.of(kind).is_empty(), kind != ResourceType::Runtime, "{kind:?}");
    }
}
