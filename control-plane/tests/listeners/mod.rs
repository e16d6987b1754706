//! The shape of listeners, recorded byte for byte: what differs from it drains every session of every edge once, when a
//! control plane with it takes over. So it changes only on purpose, and the CHANGELOG says so.

mod wire_text;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use realmgate_control_plane::compile::compile;
use realmgate_control_plane::mesh::{EdgeSettings, Mesh};
use realmgate_control_plane::model::parse;
use realmgate_control_plane::source::gateway_rules::GatewayRules;
use realmgate_control_plane::xds::{Resource, ResourceType, Scope, content_hash};
use realmgate_filter::privacy::HashKey;

use super::mesh_tls::{of_policy, sidecar};
use super::{ROOT, mesh, rules};

/// Set in the environment, it makes the test write what it should compare.
const UPDATE: &str = "UPDATE_LISTENERS";

/// One listener of each kind that a policy can have.
const LISTENERS: [&str; 6] = [
    r#"{name: plain, bind: "127.0.0.1:7000"}"#,
    r#"{name: balanced, bind: "127.0.0.1:7001", proxy_protocol: true}"#,
    r#"{name: few, bind: "[::1]:7002", allowed_clients: ["10.0.0.0/8", "2001:db8::/32"]}"#,
    r#"{name: encrypted, bind: "127.0.0.1:7003", tls: {cert_file: /c/tls.crt, key_file: /c/tls.key, client_ca_file: /c/ca.crt}}"#,
    r#"{name: lazy, bind: "127.0.0.1:7004", clusters: on_demand}"#,
    r#"{name: limited, bind: "127.0.0.1:7005", limits: {connections: 5, idle_timeout: 1m, header_timeout: 1s}}"#,
];

/// One with all that may be set of a listener itself.
const TUNED: &str = r#"{name: tuned, bind: "0.0.0.0:7000", proxy_protocol: true, allowed_clients: ["10.0.0.0/8"],
    connect_attempts: 5, connect_backoff: {base: 100ms, max: 1s}, clusters: on_demand, limits: {idle_timeout: 1h},
    tls: {cert_file: /c/tls.crt, key_file: /c/tls.key, min_version: "1.3"}}"#;

fn edges(listeners: &[&str]) -> Mesh {
    let services = r#"services: [{name: blue, endpoints: ["10.1.0.1:1"]}]"#;
    let routes = "routes: [{name: all, server_type: 200, to: [{service: blue}]}]";
    mesh(&format!("listeners: [{}]\n{services}\n{routes}", listeners.join(", ")), rules())
}

fn with_settings(mut mesh: Mesh, change: impl FnOnce(&mut EdgeSettings)) -> Mesh {
    change(Arc::make_mut(&mut mesh.edge));
    mesh
}

fn sidecars(more: &str) -> Mesh {
    of_policy(&format!("services: [{{name: game, endpoints: [\"10.1.0.1:1\"]}}]\n{more}"), &["game"])
}

fn listeners(mesh: &Mesh, scope: &Scope) -> Vec<Arc<Resource>> {
    compile(mesh, scope).of(ResourceType::Listener).iter().cloned().collect()
}

/// What is recorded, by file.
fn corpus() -> Vec<(&'static str, Vec<Arc<Resource>>)> {
    let old = Scope { hashes_addresses: true, datacenter: "aws".to_owned(), ..Scope::default() };
    let sotw = Scope { state_of_the_world: true, ..Scope::default() };
    let unlogged = with_settings(edges(&LISTENERS), |edge| edge.access_log = None);
    let to_file = with_settings(mesh("{}", rules()), |edge| {
        edge.access_log = Some("/var/log/edge.log".to_owned());
        edge.gateway.as_mut().unwrap().proxy_protocol = true;
    });
    let idle = mesh("listeners: [{name: plain, bind: '127.0.0.1:7000'}]", GatewayRules::default());
    vec![
        ("edge", listeners(&edges(&LISTENERS), &Scope::default())),
        ("edge-before-1.38", listeners(&edges(&LISTENERS), &old)),
        ("edge-state-of-the-world", listeners(&edges(&LISTENERS), &sotw)),
        ("edge-tuned", listeners(&edges(&[TUNED]), &Scope::default())),
        ("edge-unlogged", listeners(&unlogged, &Scope::default())),
        ("edge-without-routes", listeners(&idle, &Scope::default())),
        ("game-gateway", listeners(&to_file, &Scope::default())),
        ("sidecar", listeners(&sidecars(""), &sidecar("game"))),
        (
            "sidecar-unlogged",
            listeners(&with_settings(sidecars(""), |edge| edge.access_log = None), &sidecar("game")),
        ),
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/listeners")
}

#[test]
fn listeners_have_the_shape_that_is_recorded() {
    let mut changed = Vec::new();
    for (name, listeners) in corpus() {
        assert!(!listeners.is_empty(), "{name} compiles to no listener");
        let path = folder().join(format!("{name}.txt"));
        let mut text = String::new();
        for listener in &listeners {
            text.push_str(&format!("listener {} {}\n", listener.name(), listener.version()));
            wire_text::write(listener.body(), 1, &mut text);
        }
        if fs::read_to_string(&path).unwrap_or_default() == text {
            continue;
        }
        match std::env::var_os(UPDATE) {
            Some(_) => fs::write(&path, text).unwrap(),
            None => changed.push(name),
        }
    }
    assert!(
        changed.is_empty(),
        "listeners have another shape than the one recorded in control-plane/tests/listeners: {changed:?}. Every live session \
         of such listeners is drained once when this version takes over. What may change belongs into a slot or behind a switch \
         (compile/shape.rs). If it has to be: run this again with {UPDATE}=1, and announce it in CHANGELOG.md."
    );
}

/// The CHANGELOG names the shape, so that no other can be recorded without a word to those whose players it concerns.
#[test]
fn the_changelog_announces_the_recorded_shape() {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let texts: Vec<_> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let shape = content_hash(texts.iter().map(Vec::as_slice));
    let announced = format!("listener shape `{shape}`");
    let changelog = fs::read_to_string(format!("{ROOT}/CHANGELOG.md")).unwrap();
    assert!(
        changelog.contains(&announced),
        "CHANGELOG.md does not announce the recorded {announced}: say under Unreleased, with these words, which listeners \
         drain once with this version, and why"
    );
}

#[test]
fn what_is_switched_while_players_play_is_in_no_listener() {
    let same = |a: &Mesh, b: &Mesh, scope: &Scope| assert_eq!(bodies(a, scope), bodies(b, scope));
    same(&sidecars(""), &sidecars("intentions_close: true"), &sidecar("game"));
    let module = |sha256: &str| {
        let mut mesh = edges(&LISTENERS);
        mesh.module.sha256 = sha256.to_owned();
        mesh
    };
    same(&module("1"), &module("2"), &Scope::default());
    let limited = r#"{name: plain, bind: "127.0.0.1:7000", limits: {connections: 7, connections_per_ip: 3, max_message_bytes: 9, header_timeout: 9s}}"#;
    same(&edges(&LISTENERS[..1]), &edges(&[limited]), &Scope::default());
    let private = |how: &str, key: u128| {
        let mut mesh = with_settings(edges(&LISTENERS), |edge| edge.address_key = Some(HashKey::new(key)));
        Arc::make_mut(&mut mesh.policy).privacy = parse(&format!("privacy: {{{how}}}")).unwrap().privacy;
        mesh
    };
    let hashed = private("client_addresses: hashed", 1);
    same(&private("client_addresses: truncated", 1), &hashed, &Scope::default());
    same(&hashed, &private("client_addresses: hashed", 2), &Scope::default());
    assert_ne!(bodies(&hashed, &Scope::default()), bodies(&edges(&LISTENERS), &Scope::default()));
    let elsewhere = private("datacenters: {elsewhere: hashed}", 1);
    same(&elsewhere, &edges(&LISTENERS), &Scope::default());
}

fn bodies(mesh: &Mesh, scope: &Scope) -> Vec<(String, Vec<u8>)> {
    let all = listeners(mesh, scope).into_iter();
    all.map(|listener| (listener.name().to_string(), listener.body().to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Two replicas hear of things in different orders; what a proxy gets from either is the same.
    #[test]
    fn the_order_in_a_document_is_in_no_listener(listeners in Just(LISTENERS.to_vec()).prop_shuffle()) {
        for scope in [Scope::default(), Scope { hashes_addresses: true, ..Scope::default() }] {
            prop_assert_eq!(bodies(&edges(&listeners), &scope), bodies(&edges(&LISTENERS), &scope));
        }
        prop_assert_eq!(bodies(&sidecars(""), &sidecar("game")), bodies(&sidecars(""), &sidecar("game")));
    }
}
