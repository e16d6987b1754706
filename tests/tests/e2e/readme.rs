//! What the README tells people to type does what it says.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Instant;

use realmgate_tests::{Stage, TestNet, parts};
use serde_json::json;

use crate::cast::{game, lands, servers, until_lands};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

/// The shell commands below "Try next".
fn try_next() -> String {
    let readme = fs::read_to_string(README).unwrap();
    let (_, rest) = readme.split_once("## Try next").expect("README says what to try next");
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_to_try_next_moves_a_world() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 2, 0).await;
    // The demo's places, below the test's own folder.
    let dir = stage.net.dir().join("readme");
    fs::create_dir_all(dir.join("target/demo")).unwrap();
    fs::create_dir_all(dir.join("target/release")).unwrap();
    symlink(parts::REALMGATE.find().unwrap(), dir.join("target/release/realmgate")).unwrap();
    let policy = format!(
        "listeners: [{{name: edge, bind: \"{}\"}}]\n\
         services: [{{name: one, endpoints: [\"{}\"]}}, {{name: two, endpoints: [\"{}\"]}}]\n\
         routes:\n\
         - {{name: first, server_type: 200, worlds: [\"1-50\"], to: [{{service: one}}]}}\n\
         - {{name: second, server_type: 200, worlds: [\"51-100\"], to: [{{service: two}}]}}\n",
        stage.players(),
        servers[0].address(),
        servers[1].address()
    );
    fs::write(dir.join("target/demo/policy.yaml"), &policy).unwrap();
    stage.control_plane.put_policy(&policy);
    until_lands(stage.players(), game(7, 1), Some("game-1"), Instant::now()).await;

    let output = Command::new("sh")
        .args(["-exc", &try_next()])
        .current_dir(&dir)
        .env("REALMGATE_API", format!("http://{}", stage.control_plane.api()))
        // The editor of somebody who moves world 7 and its neighbours to the other service.
        .env("EDITOR", r#"sed -i s/1-50/9-50/;s/51-100/51-100","1-8/"#)
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
    assert!(out.contains("edge-1") && out.contains("synced"), "no proxies in {out}");
    assert!(out.contains("~ route first: worlds"), "no changes in {out}");
    until_lands(stage.players(), game(7, 1), Some("game-2"), Instant::now()).await;
    assert_eq!(lands(stage.players(), game(9, 1)).await.unwrap(), "game-1");
}
