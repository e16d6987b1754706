//! The control plane of the version before, and this one: side by side and one after the other, under live proxies.

use std::path::PathBuf;
use std::process::Command;

use realmgate_tests::parts;
use realmgate_tests::upgrade::{Replica, moves_no_listener};
use serde_json::json;

/// Builds the revision at which the recorded shape of listeners changed last. `None` = there is none here to build, and
/// why is said.
fn previous() -> Option<PathBuf> {
    let output = Command::new("tools/previous-release").current_dir(parts::workspace()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())),
        Some(3) => {
            println!("not compared with an earlier build: {said}");
            None
        }
        code => panic!("tools/previous-release: {code:?}: {said}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn an_upgrade_touches_no_listener_and_ends_no_session() {
    let Some(previous) = previous() else { return };
    let current = parts::REALMGATE.find().unwrap();
    let [before, now] = [&previous, &current].map(|build| Replica { build, settings: json!({}) });
    for version in [None, Some("1.39"), Some("1.38"), Some("1.37")] {
        for variant in ["delta", "sotw"] {
            println!("Envoy {}, {variant}", version.unwrap_or("newest"));
            moves_no_listener(version, variant, [before.clone(), now.clone()]).await;
        }
    }
    // And back, for who takes an upgrade back.
    moves_no_listener(None, "delta", [now, before]).await;
}
