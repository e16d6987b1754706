//! The wire scenarios against the filter's core and against the built module.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a host that cannot serve the module has failed the test"
)]

mod limits;
mod module;
mod orders;
mod wasm_host;

use std::collections::BTreeSet;

use realmgate_filter::telemetry::Metric;
use realmgate_tests::scenario::{Outcome, Scenario, corpus, run_natively};
use realmgate_tests::{Failure, load_scenarios};
use serde_json::json;
use wasm_host::{Process, Vm, process};

/// Runs all and reports all that failed: one at a time would be slow to mend.
fn run_all(scenarios: &[Scenario], run: impl Fn(&Scenario) -> Result<Outcome, Failure>) {
    let check = |scenario: &Scenario| run(scenario).and_then(|outcome| scenario.check(&outcome));
    let failures: Vec<_> = scenarios.iter().filter_map(|scenario| check(scenario).err()).collect();
    let report: Vec<_> = failures.iter().map(Failure::to_string).collect();
    assert!(report.is_empty(), "{} of {}:\n{}", report.len(), scenarios.len(), report.join("\n"));
}

#[test]
fn scenarios_hold_natively() {
    run_all(&load_scenarios().unwrap(), run_natively);
}

#[test]
fn scenarios_hold_in_the_module() {
    let module = wasm_host::load().unwrap();
    run_all(&load_scenarios().unwrap(), |scenario| wasm_host::run(&module, scenario));
}

/// No trap, no connection left behind, and every byte where the core would have it.
#[test]
fn whatever_comes_the_module_does_what_the_core_does() {
    let module = wasm_host::load().unwrap();
    for seed in 0..4 {
        run_all(&corpus(seed, 100).unwrap(), |scenario| wasm_host::run(&module, scenario));
    }
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
    vm.wait(250).unwrap();
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
    vm.wait(100).unwrap();
    assert_eq!(vm.metric("realmgate_connections_awaiting_header"), 1);
    vm.wait(800).unwrap();
    assert_eq!(vm.outcome(2).closed.as_deref(), Some("header_timeout"));
    assert_eq!(vm.outcome(3).closed, None);
    assert_eq!(vm.outcome(4).closed.as_deref(), Some("client_gone"));
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
    // Metrics get their ids, and another connection stays: the last one that ends tells what was counted.
    vm.wait(250).unwrap();
    vm.open(9, 1).unwrap();
    // The first session of a VM takes a block of session ids.
    vm.open(3, 1).unwrap();
    vm.send(3, &[0, 0, 0, 0, 1, 200, 1, 0]).unwrap();
    let before = vm.calls();
    vm.open(2, 1).unwrap();
    for byte in [0, 0, 0, 0, 1, 200, 1] {
        vm.send(2, &[byte]).unwrap();
    }
    assert_eq!(vm.calls() - before, 0);
    vm.send(2, &[0]).unwrap();
    // The bytes, the cluster.
    assert_eq!(vm.calls() - before, 2);
    for _ in 0..100 {
        vm.send(2, b"anything").unwrap();
    }
    for _ in 0..100 {
        vm.reply(2, b"anything").unwrap();
    }
    assert_eq!(vm.calls() - before, 2, "a routed connection is left alone");
    vm.leave(2).unwrap();
    // What the access log is told.
    assert_eq!(vm.calls() - before, 3);
    assert_eq!(vm.metric("realmgate_connections_routed_total"), 0);
    vm.wait(250).unwrap();
    // The connection that waits, the two that were routed, and the one of them that is open.
    assert_eq!(vm.calls() - before, 6);
    assert_eq!(vm.metric("realmgate_connections_routed_total"), 2);
    vm.leave(3).unwrap();
    // Where nobody reads the log, nothing.
    let quiet = json!({"access_log": false, "routes": config["routes"]});
    assert!(vm.configure(1, &quiet).unwrap());
    vm.open(4, 1).unwrap();
    vm.send(4, &[0, 0, 0, 0, 1, 200, 1, 0]).unwrap();
    let before = vm.calls();
    vm.leave(4).unwrap();
    assert_eq!(vm.calls() - before, 0);
    vm.leave(9).unwrap();
    assert_eq!(vm.metric("realmgate_connections_awaiting_header"), 0, "the last one tells at once");
}

#[test]
fn every_metric_is_there_before_it_counts_and_once_for_all_configurations() {
    let mut vm = Vm::start(&wasm_host::load().unwrap()).unwrap();
    for root in 1..4 {
        vm.root(root).unwrap();
        assert!(vm.configure(root, &FRAMED.parse().unwrap()).unwrap());
        assert_eq!(vm.metrics(), Metric::ALL.map(Metric::name));
    }
    assert_eq!(vm.timers(), [], "nobody is there to wait for");
}

const FRAMED: &str =
    r#"{"routes": [{"server_type": 200, "to": [{"cluster": "game", "framing": "server"}]}]}"#;

/// A message without a body, and the same from a server.
const MESSAGE: [u8; 8] = [0, 0, 1, 0, 1, 200, 1, 0];
const REPLY: [u8; 29] =
    [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn a_message_costs_two_calls_whatever_its_length() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    vm.root(1).unwrap();
    assert!(vm.configure(1, &FRAMED.parse().unwrap()).unwrap());
    vm.open(2, 1).unwrap();
    vm.send(2, &MESSAGE).unwrap();
    let before = vm.calls();
    for length in [0, 1000, 60_000_u16] {
        let body = vec![7; usize::from(length)];
        let [low, high] = length.to_le_bytes();
        vm.send(2, &[&[low, high, 1, 0, 0, 0, 0, 0], &body[..]].concat()).unwrap();
    }
    assert_eq!(vm.calls() - before, 6, "a read and a replacement each");
    vm.send(2, &[0xff, 0xff, 1, 0, 0, 0, 0, 0]).unwrap();
    for _ in 0..65 {
        vm.send(2, &[7; 1000]).unwrap();
    }
    assert_eq!(vm.calls() - before, 8, "a body alone is left alone");
    vm.reply(2, &REPLY).unwrap();
    vm.reply(2, &REPLY.repeat(16)).unwrap();
    assert_eq!(vm.calls() - before, 12, "pipelined messages go together");
    let Outcome { to_backend, to_client, .. } = vm.outcome(2);
    assert_eq!((to_backend.len(), to_client.len()), (5 * 29 + 61_000 + 65_000, 17 * 8));
    assert_eq!(vm.metric("realmgate_messages_to_server_total"), 0, "a call for each would be too dear");
    vm.wait(1000).unwrap();
    assert_eq!(vm.metric("realmgate_messages_to_server_total"), 5);
    assert_eq!(vm.metric("realmgate_messages_to_client_total"), 17);
}

#[test]
fn nothing_follows_what_made_no_sense() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    vm.root(1).unwrap();
    assert!(vm.configure(1, &FRAMED.parse().unwrap()).unwrap());
    vm.open(2, 1).unwrap();
    vm.send(2, &MESSAGE).unwrap();
    vm.linger(2);
    vm.reply(2, &[0xff; 100]).unwrap();
    for _ in 0..3 {
        vm.reply(2, &REPLY).unwrap();
        vm.send(2, &MESSAGE).unwrap();
    }
    let Outcome { closed, to_backend, to_client, .. } = vm.outcome(2);
    assert_eq!((closed.as_deref(), to_backend.len(), to_client.len()), (Some("reply_too_short"), 29, 0));
    vm.leave(2).unwrap();
    assert_eq!(vm.metric("realmgate_sessions_closed_reply_too_short_total"), 1);
    assert_eq!(vm.metric("realmgate_sessions_active"), 0);
}

/// The id of a new session.
fn session_id(vm: &mut Vm, connection: u32) -> i64 {
    vm.open(connection, 1).unwrap();
    vm.send(connection, &MESSAGE).unwrap();
    vm.leave(connection).unwrap();
    let bytes = vm.take(connection).to_backend;
    let (object, session) = (&bytes[12..20], &bytes[21..29]);
    assert_eq!(object, session);
    i64::from_le_bytes(object.try_into().unwrap())
}

#[test]
fn the_workers_of_a_process_share_no_session_id_and_neither_do_processes() {
    const EACH: u32 = 2000;
    let module = wasm_host::load().unwrap();
    let worker = |process: &Process| {
        let mut vm = Vm::start_in(&module, process.clone()).unwrap();
        vm.root(1).unwrap();
        assert!(vm.configure(1, &FRAMED.parse().unwrap()).unwrap());
        vm
    };
    let mut ids = Vec::new();
    // All their workers draw at the same time; the clock of this host stands still.
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for process in [1, 2].map(process) {
            for _ in 0..4 {
                let process = process.clone();
                workers.push(scope.spawn(move || {
                    let mut vm = worker(&process);
                    (2..EACH + 2).map(|connection| session_id(&mut vm, connection)).collect::<Vec<_>>()
                }));
            }
        }
        for worker in workers {
            let drawn = worker.join().unwrap();
            assert!(drawn.is_sorted(), "ids of a worker rise");
            ids.extend(drawn);
        }
    });
    assert!(ids.iter().all(|&id| id > 0));
    let total = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((total, ids.len()), (8 * 2000, 8 * 2000));
}

#[test]
fn a_new_configuration_takes_no_block_of_ids() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    vm.root(1).unwrap();
    let mut last = None;
    for connection in 2..100 {
        assert!(vm.configure(1, &FRAMED.parse().unwrap()).unwrap());
        let id = session_id(&mut vm, connection);
        assert_eq!(*last.get_or_insert(id - 1) + 1, id);
        last = Some(id);
    }
}

/// Envoy refuses what is not on the list, and gives no module its start without an import that it does not know.
#[test]
fn the_module_calls_only_what_it_says() {
    use realmgate_filter::capabilities::{CALLS, ENDS, EVENTS, GUARD_EVENTS, SERVER_DATA};

    let module = wasm_host::load().unwrap();
    let mut imports: Vec<_> = module.imports().map(|import| import.name().to_owned()).collect();
    imports.sort_unstable();
    assert_eq!(imports, CALLS);
    let exports: BTreeSet<_> = module.exports().map(|export| export.name().to_owned()).collect();
    let events = EVENTS.iter().chain(&ENDS).chain(&GUARD_EVENTS).chain([&SERVER_DATA]);
    let events: BTreeSet<_> = events.map(|event| (*event).to_owned()).collect();
    let exported: BTreeSet<_> = exports.into_iter().filter(|name| name.starts_with("proxy_on_")).collect();
    assert_eq!(exported, events);
}
