//! The policy store in a process that is killed: what was answered for is there afterwards.

// Clippy's own exception for tests does not reach the functions that tests share.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use realmgate_control_plane::source::policy_store::{NewPolicy, PolicyStore, Precondition, StoreError};

/// Set in the child, to the directory that it writes to.
const DATA_DIR: &str = "POLICY_STORE_TEST_DATA_DIR";

/// Not a test of its own: the child puts versions without end and says each that was answered.
#[tokio::test]
async fn child_puts_without_end() {
    let Some(data_dir) = env::var_os(DATA_DIR) else { return };
    let store = PolicyStore::open(Path::new(&data_dir)).await.unwrap();
    for number in 1_u64.. {
        let text = number.to_string().repeat(1000);
        let policy = NewPolicy { text, author: "child".to_owned(), message: String::new() };
        let stored = store.put(policy, Precondition::Any).await.unwrap();
        println!("\nanswered {}", stored.info.version);
    }
}

fn spawn_child(data_dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_puts_without_end", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 1..=3 {
        let mut child = spawn_child(directory.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = std::iter::from_fn(|| lines.next()?.ok())
            .filter_map(|line| line.strip_prefix("answered ")?.parse().ok());
        let goal = last + 10 * round;
        last = answered.find(|version: &u64| *version >= goal).expect("the child puts");

        let error = PolicyStore::open(directory.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        // It may have answered more before the kill.
        last = answered.last().unwrap_or(last);

        let store = PolicyStore::open(directory.path()).await.unwrap();
        let latest = store.latest().expect("versions");
        assert!(latest.info.version >= last, "{} of {last}", latest.info.version);
        assert!(latest.info.version <= last + 1, "at most one put was going on");
        for info in store.history().await.unwrap() {
            assert!(store.get(info.version).await.unwrap().is_some());
        }
        last = latest.info.version;
    }
}
