//! Exit codes and messages of the commands that need no running control plane.
#![allow(clippy::expect_used)] // a test fails by panicking

mod binary;

use std::fs;

use binary::{Outcome, realmgate, realmgate_in};
use tempfile::TempDir;

#[track_caller]
fn assert_ends(outcome: &Outcome, code: i32, expected: &str) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(all.contains(expected), "missing: {expected}\n{outcome:?}");
}

#[test]
fn wrong_usage_ends_with_2() {
    assert_ends(&realmgate(&[]), 2, "Usage: realmgate");
    assert_ends(&realmgate(&["sevre"]), 2, "'serve'");
    assert_ends(&realmgate(&["serve", "--xds-lisen", "x"]), 2, "--xds-listen");
    assert_ends(&realmgate(&["proxies", "--api", "https://x"]), 2, "TLS is not available in this version");
}

#[test]
fn invalid_settings_end_with_64() {
    let directory = TempDir::new().unwrap();
    let run = |arguments: &[&str]| realmgate_in(&directory, &[], &[&["serve"], arguments].concat());
    assert_ends(&run(&["--xds-listen", "0.0.0.0:18000"]), 64, "`xds.insecure: true`");
    assert_ends(&run(&["--config", "gone.yaml"]), 64, "cannot read the settings file gone.yaml");
    assert_ends(&run(&["--policy-file", "gone.yaml"]), 64, "policy.file: cannot read gone.yaml");

    let variables = [("REALMGATE_XDS_LSTEN", "127.0.0.1:1"), ("REALMGATE_LOG_FORMAT", "xml")];
    let outcome = realmgate_in(&directory, &variables, &["serve"]);
    assert_ends(&outcome, 64, "environment variable REALMGATE_XDS_LSTEN: no such setting");
    assert_ends(&outcome, 64, "environment variable REALMGATE_LOG_FORMAT: log.format: ");

    fs::write(directory.path().join("realmgate.yaml"), "xds:\n  lisen: 127.0.0.1:1\n").unwrap();
    assert_ends(&run(&[]), 64, "realmgate.yaml:2:3: xds.lisen: no such setting");
    fs::write(directory.path().join("other.yaml"), "log: {level: loud}\n").unwrap();
    assert_ends(&run(&["--config", "other.yaml"]), 64, "other.yaml:1:14: log.level: `loud` is no level");
}

#[test]
fn a_password_is_never_printed() {
    let directory = TempDir::new().unwrap();
    let variables = [("REALMGATE_REDIS_URL", "redis://:s3cret@:x"), ("REALMGATE_XDS_LISTEN", "x")];
    let outcome = realmgate_in(&directory, &variables, &["serve"]);
    assert_ends(&outcome, 64, "REALMGATE_REDIS_URL: redis.url: not a Redis URL");
    assert!(!outcome.stderr.contains("s3cret"), "{outcome:?}");
}

#[test]
fn a_policy_is_checked_without_a_control_plane() {
    let directory = TempDir::new().unwrap();
    let run = |file: &str| realmgate_in(&directory, &[], &["policy", "validate", file]);
    fs::write(directory.path().join("good.yaml"), "listeners: []\n").unwrap();
    assert_ends(&run("good.yaml"), 0, "good.yaml: valid: 0 listeners, 0 services, 0 routes\n");
    fs::write(directory.path().join("bad.yaml"), "listeners: []\nroutez: []\n").unwrap();
    assert_ends(&run("bad.yaml"), 64, "\nbad.yaml:2:");
    assert_ends(&run("gone.yaml"), 1, "cannot read gone.yaml");

    let serve = realmgate_in(&directory, &[], &["serve", "--policy-file", "bad.yaml"]);
    assert_ends(&serve, 64, "\nbad.yaml:2:");
}

#[test]
fn completions_and_manual_cover_every_command() {
    for (arguments, expected) in [
        (&["completions", "bash"][..], "envoy-bootstrap"),
        (&["completions", "fish"], "game-gateway-listen"),
        (&["man"], ".TH realmgate-policy-apply 1"),
    ] {
        assert_ends(&realmgate(arguments), 0, expected);
    }
}

#[test]
fn a_token_is_made_for_a_proxy_and_never_printed() {
    let directory = TempDir::new().unwrap();
    let new =
        |more: &[&str]| realmgate_in(&directory, &[], &[&["token", "new", "--out", "token"], more].concat());
    let made = new(&["--role", "sidecar", "--service", "my shop", "--cell", "*"]);
    assert_ends(&made, 0, " role=sidecar service=my%20shop cell=*\n");
    let token = fs::read_to_string(directory.path().join("token")).unwrap();
    assert!(token.len() == 43 && !token.contains(char::is_whitespace), "{token}");
    assert!(made.stdout.starts_with("sha256:") && !made.stdout.contains(&token), "{made:?}");
    // One that is there is somebody's.
    assert_ends(&new(&["--role", "edge"]), 1, "cannot write token: ");
    assert_eq!(fs::read_to_string(directory.path().join("token")).unwrap(), token);
    assert_ends(&new(&["--role", "sidecar"]), 2, "`service=` is missing");
    assert_ends(&new(&["--role", "gateway"]), 2, "role= is one of: edge, sidecar, operator, *");

    // The listener takes the line, and refuses one that does not say whose token it is.
    let serve = |line: &str| {
        fs::write(directory.path().join("tokens"), line).unwrap();
        // An address that nobody has: it does not start in the end.
        let arguments = ["--xds-listen", "192.0.2.1:1", "--xds-insecure", "--xds-token-file", "tokens"];
        realmgate_in(&directory, &[], &[&["serve"], &arguments[..]].concat())
    };
    assert_ends(&serve(&token), 64, "xds.token_file: line 1: nothing says whose token it is");
    assert_ends(&serve(&made.stdout), 1, "cannot listen on 192.0.2.1:1 (xds.listen)");
    let fleet = format!("{token} role=* service=*");
    assert_ends(&serve(&fleet), 1, "xds.token_file has a token that is good for every service");
}
