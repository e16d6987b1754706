//! The wire scenarios against the filter's core and against the built module.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a host that cannot serve the module has failed the test"
)]

mod wasm_host;

use realmgate_tests::scenario::{Outcome, Scenario, run_natively};
use realmgate_tests::{Failure, load_scenarios};
use serde_json::json;
use wasm_host::Vm;

/// Runs all and reports all that failed: one at a time would be slow to mend.
fn run_all(run: impl Fn(&Scenario) -> Result<Outcome, Failure>) {
    let scenarios = load_scenarios().unwrap();
    let check = |scenario: &Scenario| run(scenario).and_then(|outcome| scenario.check(&outcome));
    let failures: Vec<_> = scenarios.iter().filter_map(|scenario| check(scenario).err()).collect();
    let report: Vec<_> = failures.iter().map(Failure::to_string).collect();
    assert!(report.is_empty(), "{} of {}:\n{}", report.len(), scenarios.len(), report.join("\n"));
}

#[test]
fn scenarios_hold_natively() {
    run_all(run_natively);
}

#[test]
fn scenarios_hold_in_the_module() {
    let module = wasm_host::load().unwrap();
    run_all(|scenario| wasm_host::run(&module, scenario));
}

#[test]
fn listeners_that_share_a_vm_keep_their_own_routes() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    let config = |cluster: &str| json!({"routes": [{"server_type": 200, "to": [{"cluster": cluster}]}]});
    let roots = [1, 2].map(|id| vm.root(id).unwrap());
    for (root, cluster) in [(1, "one"), (2, "two")] {
        assert!(vm.configure(root, &config(cluster)).unwrap());
    }
    for (root, connection, cluster) in [(1, 11, "one"), (2, 12, "two"), (1, 13, "one")] {
        vm.open(connection, root).unwrap();
        vm.send(connection, &[0, 0, 0, 0, 1, 200, 1, 0]).unwrap();
        assert_eq!(vm.outcome(connection).cluster.as_deref(), Some(cluster));
    }
    assert_eq!(roots, [(), ()]);
    assert_eq!(vm.metric("realmgate_connections_routed_total"), 3);
}

#[test]
fn the_slow_are_closed_and_the_quick_are_not() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    vm.root(1).unwrap();
    let routes = json!([{"server_type": 200, "to": [{"cluster": "game"}]}]);
    assert!(vm.configure(1, &json!({"header_timeout_ms": 800, "routes": routes})).unwrap());
    for connection in 2..=4 {
        vm.open(connection, 1).unwrap();
    }
    vm.send(3, &[0, 0, 0, 0, 1, 200, 1, 0]).unwrap();
    vm.leave(4).unwrap();
    assert_eq!(vm.metric("realmgate_connections_awaiting_header"), 1);
    vm.wait(1, 900).unwrap();
    assert_eq!(vm.outcome(2).closed.as_deref(), Some("header_timeout"));
    assert_eq!(vm.outcome(3).closed, None);
    assert_eq!(vm.outcome(4).closed, None);
    assert_eq!(vm.metric("realmgate_connections_awaiting_header"), 0);
    assert_eq!(vm.metric("realmgate_connections_refused_header_timeout_total"), 1);
    assert_eq!(vm.metric("realmgate_connections_client_gone_total"), 1);
}

/// A connection costs crossings between Envoy and the module; the number is part of what the filter promises.
#[test]
fn a_connection_costs_few_calls() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    vm.root(1).unwrap();
    let config = json!({"routes": [{"server_type": 200, "to": [{"cluster": "game"}]}]});
    assert!(vm.configure(1, &config).unwrap());
    let before = vm.calls();
    vm.open(2, 1).unwrap();
    for byte in [0, 0, 0, 0, 1, 200, 1] {
        vm.send(2, &[byte]).unwrap();
    }
    // One counter.
    assert_eq!(vm.calls() - before, 1);
    vm.send(2, &[0]).unwrap();
    // The bytes, the property, the cluster, two counters.
    assert_eq!(vm.calls() - before, 6);
    for _ in 0..100 {
        vm.send(2, b"anything").unwrap();
    }
    vm.leave(2).unwrap();
    assert_eq!(vm.calls() - before, 6, "a routed connection is left alone");
}
