//! Every bootstrap that the command line prints is one that a real Envoy takes.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test fails by panicking

mod binary;
mod golden;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use binary::realmgate;
use serde_json::Value;
use tempfile::TempDir;

const EDGE: [&str; 5] = ["envoy-bootstrap", "--role", "edge", "--id", "edge-1"];

/// Where a service manager would have it; the default's folder is made at once.
const SOCKET: [&str; 2] = ["--admin-socket", "/run/realmgate/edge-1.sock"];

const SIDECAR: [&str; 12] = [
    "--admin-socket",
    "/run/realmgate/game-1.sock",
    "--role",
    "sidecar",
    "--id",
    "game-1",
    "--service",
    "game",
    "--inbound",
    "0.0.0.0:20000",
    "--app",
    "127.0.0.1:7777",
];

/// The bootstrap printed for an edge with these further arguments.
#[track_caller]
fn edge(arguments: &[&str]) -> String {
    let has_port = arguments.iter().any(|argument| argument.starts_with("--admin"));
    let socket = if has_port { &[][..] } else { &SOCKET };
    let outcome = realmgate(&[&EDGE, arguments, socket].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stdout
}

fn parsed(bootstrap: &str) -> Value {
    serde_saphyr::from_str(bootstrap).expect("the bootstrap is YAML")
}

/// Where setup puts Envoy, unless `ENVOY_BIN` names another.
fn envoy() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/envoy");
    let path = env::var_os("ENVOY_BIN").map_or(tools, PathBuf::from);
    assert!(path.is_file(), "{} is missing: run `make setup`, or set ENVOY_BIN", path.display());
    path
}

#[track_caller]
fn validate(bootstrap: &str) {
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("edge.yaml");
    fs::write(&file, bootstrap).expect("the bootstrap is written");
    let output = Command::new(envoy()).args(["--mode", "validate", "-l", "warn", "-c"]).arg(&file).output();
    let output = output.expect("Envoy runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}\n{bootstrap}");
    assert!(!log.contains("[warning]"), "{log}\n{bootstrap}");
}

#[test]
fn envoy_takes_every_variant() {
    for arguments in [
        &[][..],
        &["--xds", "sotw"],
        &["--control-plane", "realmgate.example.com:443"],
        &["--control-plane", "[2001:db8::1]:18000", "--admin-address", "::", "--admin-port", "9000"],
        &["--service", "game", "--datacenter", "aws-1", "--cell", "a", "--listener", "a", "--listener", "b"],
        &["--service", "{id}", "--cell", "#:&*!|>'%@`"],
    ] {
        validate(&edge(arguments));
    }
}

#[test]
fn envoy_takes_every_way_to_know_each_other() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let made =
        rcgen::generate_simple_self_signed(["realmgate.example.com".to_owned()]).expect("a certificate");
    fs::write(path("cert.pem"), made.cert.pem()).expect("it is written");
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).expect("it is written");
    fs::write(path("token"), "a-token-that-is-not-printed").expect("it is written");
    let (cert, key, token, sds) = (path("cert.pem"), path("key.pem"), path("token"), path("a/\"sds\""));
    let ca = ["--tls-ca", cert.as_str()];
    let pair = ["--tls-cert", cert.as_str(), "--tls-key", key.as_str()];
    let token = ["--token-file", token.as_str()];
    for known in [
        &ca[..],
        &token,
        &[&ca[..], &pair].concat(),
        &[&ca[..], &["--tls-server-name", "realmgate"]].concat(),
        &[&ca[..], &pair, &token].concat(),
    ] {
        for place in [&[][..], &["--sds-dir", &sds]] {
            let bootstrap = edge(&[known, &["--control-plane", "realmgate.example.com:443"], place].concat());
            assert!(!bootstrap.contains("a-token-that") && !bootstrap.contains("PRIVATE"), "{bootstrap}");
            validate(&bootstrap);
        }
    }
}

#[test]
fn a_token_file_holds_a_token_and_nothing_else() {
    let dir = TempDir::new().expect("a temporary directory");
    let token = dir.path().join("token");
    fs::write(&token, "a-token-with-a-line-end\n").expect("it is written");
    let path = token.display().to_string();
    let arguments = [&EDGE[..], &SOCKET, &["--token-file", &path]].concat();
    let outcome = realmgate(&arguments);
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(outcome.stderr.contains("not even a line's end"), "{outcome:?}");
    assert!(!outcome.stderr.contains("a-token-with"), "{outcome:?}");
    // It may be on another machine only.
    fs::remove_file(&token).expect("it is removed");
    assert_eq!(realmgate(&arguments).code, Some(0));
}

#[test]
fn a_token_that_crosses_a_network_in_the_clear_is_warned_of() {
    let token = ["--token-file", "/etc/realmgate/token"];
    let ca = ["--tls-ca", "/etc/realmgate/ca.pem"];
    for (more, warned) in [
        (&["--control-plane", "10.0.0.1:18000"][..], true),
        (&["--control-plane", "realmgate.internal:18000"], true),
        (&["--control-plane", "localhost:18000"], false),
        (&["--control-plane", "[::1]:18000"], false),
        (&[&ca[..], &["--control-plane", "10.0.0.1:18000"]].concat(), false),
    ] {
        let outcome = realmgate(&[&EDGE[..], &token, more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stderr.contains("in the clear"), warned, "{more:?}: {}", outcome.stderr);
        assert!(!outcome.stdout.contains("in the clear"), "the bootstrap is a file");
    }
}

#[test]
fn the_example_in_the_repository_is_what_is_printed() {
    golden::assert_holds("envoy/edge.yaml", &edge(&[]));
}

#[test]
fn a_sidecar_says_whose_it_is_and_its_ports() {
    let outcome = realmgate(&[&["envoy-bootstrap"], &SIDECAR[..]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    validate(&outcome.stdout);
    golden::assert_holds("envoy/sidecar.yaml", &outcome.stdout);
    let expected = serde_json::json!({
        "role": "sidecar", "service": "game", "datacenter": "", "cell": "",
        "inbound": "0.0.0.0:20000", "app": "127.0.0.1:7777",
    });
    assert_eq!(parsed(&outcome.stdout)["node"]["metadata"]["realmgate"], expected);
}

#[test]
fn the_node_says_who_the_edge_is() {
    let bootstrap = parsed(&edge(&["--datacenter", "aws-1", "--listener", "a", "--listener", "b"]));
    let expected = serde_json::json!({
        "id": "edge-1",
        "cluster": "realmgate-edge",
        "metadata": {"realmgate": {
            "role": "edge", "service": "", "datacenter": "aws-1", "cell": "", "listeners": ["a", "b"],
        }},
    });
    assert_eq!(bootstrap["node"], expected);
}

#[test]
fn addresses_and_protocol_are_the_ones_asked_for() {
    let bootstrap =
        parsed(&edge(&["--control-plane", "localhost:5", "--xds", "sotw", "--admin-address", "::"]));
    assert_eq!(bootstrap["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
    assert_eq!(bootstrap["admin"]["address"]["socket_address"]["address"], "::");
    let clusters = &bootstrap["static_resources"]["clusters"];
    let address = |cluster: &Value| {
        let lb_endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
        lb_endpoint["endpoint"]["address"]["socket_address"].clone()
    };
    assert_eq!(clusters[0]["type"], "STRICT_DNS");
    assert_eq!(address(&clusters[0]), serde_json::json!({"address": "localhost", "port_value": 5}));
    assert_eq!(clusters[1]["name"], "realmgate-admin");
    assert_eq!(address(&clusters[1]), serde_json::json!({"address": "::1", "port_value": 9901}));
    let by_address = parsed(&edge(&[]));
    assert_eq!(by_address["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
    let clusters = &by_address["static_resources"]["clusters"];
    assert_eq!(clusters[0]["type"], "STATIC");
    let own =
        &clusters[1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"];
    assert_eq!(own["path"], SOCKET[1]);
    let listens = serde_json::json!({"path": SOCKET[1], "mode": 0o600});
    assert_eq!(by_address["admin"]["address"]["pipe"], listens);
}

#[test]
fn without_a_word_the_admin_interface_is_a_socket_in_a_folder_that_is_always_there() {
    let outcome = realmgate(&["envoy-bootstrap", "--role", "edge", "--id", "edge-1"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let pipe = serde_json::json!({"path": "/tmp/realmgate-edge-1.sock", "mode": 0o600});
    assert_eq!(parsed(&outcome.stdout)["admin"]["address"]["pipe"], pipe);
}

#[test]
fn what_cannot_be_is_wrong_usage() {
    for (arguments, expected) in [
        (&["--role", "sidecar", "--id", "a", "--service", "game"][..], "--inbound"),
        (&["--role", "sidecar", "--id", "a", "--inbound", "10.0.0.1:1", "--app", "127.0.0.1:1"], "--service"),
        (&[&SIDECAR[..], &["--listener", "a"]].concat(), "--listener is for --role edge"),
        (&["--role", "edge", "--id", "a", "--inbound", "10.0.0.1:1"], "--inbound and --app are for"),
        (&["--role", "mesh-gateway", "--id", "a"], "--role mesh-gateway is not available"),
        (&["--role", "edge", "--id", "a b"], "no space"),
        (&["--role", "edge", "--id", "a", "--control-plane", "here"], "the port is missing"),
        (&["--role", "edge", "--id", "a", "--admin-port", "0"], "0 is not in 1..=65535"),
        (&["--role", "edge", "--id", "a", "--admin-socket", "here.sock"], "no absolute path"),
        (
            &["--role", "edge", "--id", "a", "--admin-socket", "/s", "--admin-port", "1"],
            "cannot be used with",
        ),
        (&["--role", "edge"], "--id"),
        (&["--role", "edge", "--id", "a", "--tls-cert", "c", "--tls-key", "k"], "--tls-ca"),
        (&["--role", "edge", "--id", "a", "--tls-ca", "a", "--tls-cert", "c"], "--tls-key"),
    ] {
        let outcome = realmgate(&[&["envoy-bootstrap"], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(expected), "{outcome:?}");
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
    }
}
