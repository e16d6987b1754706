//! Limits per address in the built module: several workers of a process, what they cost, and how they die.

use realmgate_tests::scenario::Outcome;
use serde_json::{Value, json};
use wasmtime::Module;

use crate::wasm_host::{self, Process, Vm, process};

/// A message without a body for server type 200.
const MESSAGE: [u8; 8] = [0, 0, 0, 0, 1, 200, 1, 0];

fn config(limits: &Value) -> Value {
    let mut config =
        json!({"header_timeout_ms": 0, "routes": [{"server_type": 200, "to": [{"cluster": "game"}]}]});
    let fields = limits.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(fields);
    config
}

/// A worker of this process whose players all come from one address.
fn worker(module: &Module, process: &Process, limits: &Value) -> Vm {
    let mut vm = Vm::start_in(module, process.clone()).unwrap();
    vm.root(1).unwrap();
    assert!(vm.configure(1, &config(limits)).unwrap());
    vm.come_from(Some("[2001:db8::1]:4711".to_owned()));
    vm
}

/// Whether a new connection is let in.
fn is_let_in(vm: &mut Vm, connection: u32, root: u32) -> bool {
    vm.open(connection, root).unwrap();
    vm.send(connection, &MESSAGE).unwrap();
    let Outcome { cluster, closed, .. } = vm.outcome(connection);
    assert_eq!(cluster.is_some(), closed.is_none());
    cluster.is_some()
}

/// The calls of a connection that comes, and of the same one leaving.
fn calls(limits: &Value) -> (usize, usize) {
    let mut vm = worker(&wasm_host::load().unwrap(), &process(1), limits);
    // The first connection of a worker also takes a number.
    assert!(is_let_in(&mut vm, 2, 1));
    let before = vm.calls();
    vm.open(3, 1).unwrap();
    let came = vm.calls();
    vm.leave(3).unwrap();
    (came - before, vm.calls() - came)
}

/// What it costs is part of what the filter promises.
#[test]
fn limits_cost_few_calls_and_none_where_there_are_none() {
    // Nothing; what the access log is told.
    assert_eq!(calls(&json!({})), (0, 1));
    // The address, a read, a write; a read, a write.
    assert_eq!(calls(&json!({"connections_per_ip": 9})), (3, 1 + 2));
    // The address, a read, the clock, a write; nothing.
    assert_eq!(calls(&json!({"new_connections_per_ip_per_second": 9})), (4, 1));
    let both = json!({"connections_per_ip": 9, "new_connections_per_ip_per_second": 9});
    assert_eq!(calls(&both), (4, 1 + 2));
}

#[test]
fn a_refusal_costs_as_little_as_it_can() {
    let refusal = |limits: &Value| {
        let mut vm = worker(&wasm_host::load().unwrap(), &process(1), limits);
        assert!(is_let_in(&mut vm, 2, 1));
        let before = vm.calls();
        assert!(!is_let_in(&mut vm, 3, 1));
        vm.calls() - before
    };
    // The address, a read, the reason, the end.
    assert_eq!(refusal(&json!({"connections_per_ip": 1, "new_connections_per_ip_per_second": 1})), 4);
    // The clock as well.
    assert_eq!(refusal(&json!({"new_connections_per_ip_per_second": 1})), 5);
}

#[test]
fn workers_at_the_same_time_let_in_exactly_as_many_as_may() {
    const WORKERS: u32 = 4;
    const ROUNDS: u32 = 200;
    let (module, process) = (wasm_host::load().unwrap(), process(1));
    let limits = json!({"connections_per_ip": 10});
    let barrier = std::sync::Barrier::new(WORKERS as usize);
    std::thread::scope(|scope| {
        let work = |_| {
            scope.spawn(|| {
                let mut vm = worker(&module, &process, &limits);
                let mut let_in = Vec::new();
                for round in 0..ROUNDS {
                    barrier.wait();
                    let all = (2..12).map(|id| round * 100 + id);
                    let mine: Vec<_> = all.filter(|&id| is_let_in(&mut vm, id, 1)).collect();
                    barrier.wait();
                    for &id in &mine {
                        vm.leave(id).unwrap();
                    }
                    let_in.push(mine.len());
                }
                let_in
            })
        };
        let workers: Vec<_> = (0..WORKERS).map(work).collect();
        let let_in: Vec<Vec<_>> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        for round in 0..ROUNDS as usize {
            assert_eq!(let_in.iter().map(|of| of[round]).sum::<usize>(), 10, "round {round}");
        }
    });
}

#[test]
fn a_new_configuration_counts_on_and_old_connections_count_in_it() {
    let mut vm = worker(&wasm_host::load().unwrap(), &process(1), &json!({"connections_per_ip": 2}));
    assert!(is_let_in(&mut vm, 11, 1) && is_let_in(&mut vm, 12, 1));
    // In Envoy each configuration is a root context of its own; the old one stays for its connections.
    vm.root(2).unwrap();
    assert!(vm.configure(2, &config(&json!({"connections_per_ip": 3}))).unwrap());
    assert!(is_let_in(&mut vm, 13, 2));
    assert!(!is_let_in(&mut vm, 14, 2));
    vm.leave(11).unwrap();
    assert!(is_let_in(&mut vm, 15, 2));
    assert!(!is_let_in(&mut vm, 16, 2));
    for connection in [12, 13, 15] {
        vm.leave(connection).unwrap();
    }
    assert_eq!((0..9).filter(|id| is_let_in(&mut vm, 20 + id, 2)).count(), 3);
}

#[test]
fn what_a_dead_vm_counted_is_forgotten_and_what_a_live_one_counted_is_not() {
    let (module, process) = (wasm_host::load().unwrap(), process(1));
    let limits = json!({"connections_per_ip": 3});
    let [mut lives, mut dies] = [(); 2].map(|()| worker(&module, &process, &limits));
    assert!(is_let_in(&mut lives, 2, 1));
    assert!(is_let_in(&mut dies, 2, 1) && is_let_in(&mut dies, 3, 1));
    assert!(!is_let_in(&mut lives, 4, 1));
    // It ends in the middle of its work, and Envoy makes a new one in its place.
    drop(dies);
    let mut new = worker(&module, &process, &limits);
    lives.wait(5000).unwrap();
    assert!(!is_let_in(&mut new, 2, 1), "not missed for long enough");
    for _ in 0..10 {
        lives.wait(1000).unwrap();
        new.wait(1000).unwrap();
    }
    assert!(is_let_in(&mut new, 3, 1) && is_let_in(&mut lives, 5, 1));
    assert!(!is_let_in(&mut new, 4, 1));
    assert_eq!(lives.metric("realmgate_connections_refused_connections_per_ip_total"), 1);
}

#[test]
fn without_an_address_there_is_no_limit_per_address() {
    let limits = json!({"connections_per_ip": 1});
    let mut vm = worker(&wasm_host::load().unwrap(), &process(1), &limits);
    for (first, source, uncounted) in [(2, Some("/run/players.sock".to_owned()), 0), (4, None, 2)] {
        vm.come_from(source);
        assert!(is_let_in(&mut vm, first, 1) && is_let_in(&mut vm, first + 1, 1));
        vm.wait(250).unwrap();
        assert_eq!(vm.metric("realmgate_connections_uncounted_total"), uncounted);
    }
}
