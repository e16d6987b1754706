//! What an Envoy does with the filter's module over its configurations, and when the module dies.

use std::fs;
use std::time::Duration;

use realmgate_tests::filter_file::{FilterFile, LISTENER, Part};
use realmgate_tests::{parts, wait_until};

use crate::cast::LIMIT;

/// Old configurations leave nothing that runs: `make prove` does thousands, on every Envoy.
#[test]
fn an_edge_comes_to_rest_after_many_configurations() {
    const WHILE: Duration = Duration::from_millis(500);
    let mut edge = FilterFile::start(None, &parts::FILTER.find().unwrap(), Part::Gateway).unwrap();
    let before = edge.activity(WHILE).wakeups;
    for _ in 0..200 {
        edge.change();
        edge.knock().unwrap();
    }
    // Each configuration that went on would add two for each worker, and there are three.
    wait_until("the edge is as quiet as at first", LIMIT, || edge.activity(WHILE).wakeups < before + 60);
}

/// A module that dies of each connection.
const DEADLY: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) (i32.const 0))
    (func (export "proxy_on_context_create") (param i32 i32))
    (func (export "proxy_on_new_connection") (param i32) (result i32) unreachable))"#;

/// The names that the alert of `prometheus/realmgate.alerts.yml` looks for.
#[test]
fn a_vm_that_dies_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("deadly.wasm");
    fs::write(&module, wat::parse_str(DEADLY).unwrap()).unwrap();
    for version in [None, Some("1.37"), Some("1.38"), Some("1.39")] {
        let edge = FilterFile::start(version, &module, Part::Gateway).unwrap();
        let count = |outcome: &str| {
            let metrics = edge.edge().get("/stats/prometheus");
            let name = format!("envoy_wasm_{LISTENER}_vm_reload_{outcome}");
            let values = metrics
                .lines()
                .filter_map(|line| line.strip_prefix(&*name)?.split_once(' ')?.1.parse::<u64>().ok());
            values.sum::<u64>()
        };
        assert_eq!(["success", "backoff", "failure"].map(count), [0; 3]);
        wait_until("its death is counted", LIMIT, || {
            let _ = edge.knock();
            count("success") + count("backoff") > 0
        });
    }
}
