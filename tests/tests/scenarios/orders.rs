//! Events in every order that Envoy can produce around the end of a connection, and in orders that it should not, on the
//! built module: any event for any context that there is, was or never will be.
//!
//! Envoy deletes a context in the middle of the events of a read and goes on with them, several configurations have
//! connections at the same time, and all that a VM holds ends with it: so nothing may trap, and nothing may stay behind.

use proptest::prelude::*;
use realmgate_tests::Failure;
use serde_json::{Value, json};

use crate::wasm_host::{self, PAUSE, Vm};
use crate::{MESSAGE, REPLY};

/// The session that nobody touches, and the first root context, which is its own.
const BYSTANDER: u32 = 1000;
const FIRST: u32 = 1;

/// What new root contexts are configured with.
#[derive(Clone, Copy, Debug)]
enum Configuration {
    Translating,
    Passing,
    Quiet,
    Refused,
    Guard,
}

impl Configuration {
    fn json(self) -> Value {
        let framing = if matches!(self, Self::Passing) { "client" } else { "server" };
        match self {
            Self::Refused => json!({"routes": 1}),
            Self::Guard => json!({"trust_domain": "x.consul", "services": {"only": ["web"]}}),
            _ => json!({
                "header_timeout_ms": 400,
                "connections_per_ip": 3,
                "access_log": !matches!(self, Self::Quiet),
                "routes": [{"server_type": 200, "to": [{"cluster": "game", "framing": framing}]}],
            }),
        }
    }
}

/// Contexts are numbers that the generator draws: of root contexts 1 to 5, of connections 11 to 20.
#[derive(Clone, Debug)]
enum Step {
    Configure(u32, Configuration),
    EndRoot(u32),
    Open(u32, u32),
    /// A context alone, as a guard has it; or what comes of it later.
    Create(u32, u32),
    NewConnection(u32),
    Send(u32, Vec<u8>, bool),
    Reply(u32, Vec<u8>, bool),
    Prove(u32, bool),
    DownstreamClose(u32, u32),
    UpstreamClose(u32, u32),
    Delete(u32),
    Tick(u32),
    /// From now on it stays open although the filter closes it: its client is slow to read.
    Linger(u32),
    Wait(u32),
    /// So many of the module's next calls are refused.
    Refuse(u32),
}

fn bytes(good: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(good.to_vec()),
        1 => (0..good.len()).prop_map(move |end| good[..end].to_vec()),
        // Lengths that no message has.
        1 => Just([&[8, 0, 0, 0][..], &[0; 25]].concat()),
        1 => Just(vec![0xff; 40]),
        // A good one in front of it.
        1 => Just([good, &[0xff; 40]].concat()),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let root = || 1..6_u32;
    let id = || prop_oneof![9 => 11..21_u32, 1 => 1..6_u32, 1 => Just(77)];
    let new = || 11..21_u32;
    let by = || 0..3_u32;
    let configuration = prop_oneof![
        3 => Just(Configuration::Translating),
        2 => Just(Configuration::Passing),
        1 => Just(Configuration::Quiet),
        1 => Just(Configuration::Refused),
        1 => Just(Configuration::Guard),
    ];
    prop_oneof![
        3 => (root(), configuration).prop_map(|(root, of)| Step::Configure(root, of)),
        2 => root().prop_map(Step::EndRoot),
        9 => (new(), root()).prop_map(|(id, root)| Step::Open(id, root)),
        1 => (new(), root()).prop_map(|(id, root)| Step::Create(id, root)),
        1 => id().prop_map(Step::NewConnection),
        9 => (id(), bytes(&MESSAGE), prop::bool::weighted(0.1)).prop_map(|(id, bytes, end)| Step::Send(id, bytes, end)),
        9 => (id(), bytes(&REPLY), prop::bool::weighted(0.3)).prop_map(|(id, bytes, end)| Step::Reply(id, bytes, end)),
        1 => (id(), any::<bool>()).prop_map(|(id, may)| Step::Prove(id, may)),
        2 => (id(), by()).prop_map(|(id, by)| Step::DownstreamClose(id, by)),
        2 => (id(), by()).prop_map(|(id, by)| Step::UpstreamClose(id, by)),
        3 => id().prop_map(Step::Delete),
        1 => id().prop_map(Step::Tick),
        1 => id().prop_map(Step::Linger),
        3 => (1..700_u32).prop_map(Step::Wait),
        2 => (1..6_u32).prop_map(Step::Refuse),
    ]
}

fn take(vm: &mut Vm, step: Step) -> Result<(), Failure> {
    match step {
        Step::Configure(root, of) => {
            vm.root_of(
                root,
                if matches!(of, Configuration::Guard) { "realmgate/guard" } else { "realmgate" },
            )?;
            // One of the other part, where the root context is there already.
            vm.configure(root, &of.json()).map(|_| ())
        }
        Step::EndRoot(root) => vm.end_root(root),
        Step::Open(id, root) => {
            vm.create(id, root)?;
            vm.raise::<u32, u32>("proxy_on_new_connection", id, id).map(|_| ())
        }
        Step::Create(id, root) => vm.create(id, root),
        Step::NewConnection(id) => vm.raise::<u32, u32>("proxy_on_new_connection", id, id).map(|_| ()),
        Step::Send(id, bytes, end) => vm.downstream(id, &bytes, end),
        Step::Reply(id, bytes, end) => {
            vm.upstream(id, &bytes, end)?;
            // Envoy goes on with it, whatever became of the connection meanwhile.
            if end {
                vm.raise::<_, ()>("proxy_on_upstream_connection_close", id, (id, 0_u32))
            } else {
                Ok(())
            }
        }
        Step::Prove(id, may) => {
            vm.prove(id, if may { "web" } else { "cron" });
            Ok(())
        }
        Step::DownstreamClose(id, by) => {
            vm.raise::<_, ()>("proxy_on_downstream_connection_close", id, (id, by))
        }
        Step::UpstreamClose(id, by) => vm.raise::<_, ()>("proxy_on_upstream_connection_close", id, (id, by)),
        Step::Delete(id) => vm.delete(id),
        Step::Tick(id) => vm.raise::<_, ()>("proxy_on_tick", id, id),
        Step::Linger(id) => {
            vm.linger(id);
            Ok(())
        }
        Step::Wait(ms) => vm.wait(ms),
        Step::Refuse(calls) => {
            vm.refuse(calls);
            Ok(())
        }
    }
}

/// Everything that there is ends, in Envoy's order, and time passes.
fn end(vm: &mut Vm) -> Result<(), Failure> {
    vm.refuse(0);
    (11..21).chain([77, BYSTANDER]).try_for_each(|id| vm.delete(id))?;
    vm.wait(3000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_order_of_events_harms_anybody(steps in prop::collection::vec(step(), 1..60)) {
        let module = wasm_host::load().unwrap();
        let mut vm = Vm::start(&module).unwrap();
        vm.root(FIRST).unwrap();
        prop_assert!(vm.configure(FIRST, &Configuration::Translating.json()).unwrap());
        vm.come_from(None);
        vm.open(BYSTANDER, FIRST).unwrap();
        vm.send(BYSTANDER, &MESSAGE).unwrap();
        vm.come_from(Some("192.0.2.1:1".to_owned()));
        for (i, step) in steps.into_iter().enumerate() {
            let told = format!("step {i}: {step:?}");
            take(&mut vm, step).map_err(|trap| TestCaseError::fail(format!("{told}: {trap}")))?;
            // Others play on. What is refused to them is another matter.
            let refusals = vm.refuse(0);
            vm.send(BYSTANDER, &MESSAGE).unwrap();
            vm.reply(BYSTANDER, &REPLY).unwrap();
            let session = vm.outcome(BYSTANDER);
            let sent = (session.to_backend.len(), session.to_client.len());
            prop_assert_eq!(sent, ((i + 2) * REPLY.len(), (i + 1) * MESSAGE.len()), "{}", told);
            vm.refuse(refusals);
            // Of one root context at most, which lives.
            let timers = vm.timers();
            prop_assert!(timers.len() <= 1 && timers.iter().all(|&(_, lives)| lives), "{}: {:?}", told, timers);
        }
        end(&mut vm).unwrap();
        prop_assert_eq!(vm.timers(), [], "nothing is left to wait for");
        for gauge in ["realmgate_connections_awaiting_header", "realmgate_sessions_active"] {
            prop_assert_eq!(vm.metric(gauge), 0, "{}", gauge);
        }
        // Nobody counts for those that are gone: the address may have as many connections as at first.
        vm.root(9).unwrap();
        prop_assert!(vm.configure(9, &Configuration::Translating.json()).unwrap());
        // What could not be taken back when it should is forgotten when the worker rests.
        vm.open(30, 9).unwrap();
        vm.leave(30).unwrap();
        vm.wait(3000).unwrap();
        let mut is_let_in = |id| {
            vm.open(id, 9).unwrap();
            vm.send(id, &MESSAGE).unwrap();
            vm.outcome(id).cluster.is_some()
        };
        prop_assert_eq!([31, 32, 33, 34].map(&mut is_let_in), [true, true, true, false]);
    }
}

/// The order that ended a worker: the answer is refused, Envoy deletes the context, and goes on with the server's end.
#[test]
fn a_servers_end_after_its_answer_was_refused_is_harmless() {
    let module = wasm_host::load().unwrap();
    let mut vm = Vm::start(&module).unwrap();
    vm.root(FIRST).unwrap();
    assert!(vm.configure(FIRST, &Configuration::Translating.json()).unwrap());
    vm.open(2, FIRST).unwrap();
    vm.send(2, &MESSAGE).unwrap();
    vm.reply(2, &[&[8, 0, 0, 0], &REPLY[4..]].concat()).unwrap();
    assert_eq!(vm.outcome(2).closed.as_deref(), Some("reply_too_short"));
    vm.raise::<_, ()>("proxy_on_upstream_connection_close", 2, (2_u32, 0_u32)).unwrap();
    assert_eq!(vm.raise::<_, u32>("proxy_on_upstream_data", 2, (2_u32, 0_u32, 1_u32)).unwrap(), PAUSE);
    assert_eq!(vm.metric("realmgate_sessions_active"), 0);
}
