//! Random histories against a model of Envoy: whatever happens in whatever order, a filter never names a
//! cluster that is not in force with its endpoints (or, on demand, can be asked for), and in the end everything is as
//! wanted.

use proptest::prelude::*;

use super::envoy::{Envoy, ON_DEMAND};
use super::*;
use crate::xds::SyncState;
use crate::xds::subscription::PATIENCE;

#[derive(Clone, Debug)]
enum Step {
    /// Another snapshot: which of four clusters exist, and a version for each kind.
    Want {
        clusters: u8,
        cluster: u8,
        endpoints: u8,
    },
    /// Envoy takes the next response in.
    Read,
    /// Envoy's next request reaches us.
    Flush,
    /// Health checks of what warms end.
    Check,
    /// Endpoints that did not come are waited for no longer.
    GiveUp,
    /// The stream breaks, and another comes; perhaps to a server that does not know yet what is wanted.
    Cut {
        early: bool,
    },
    /// The first player of a cluster on demand.
    Ask(&'static str),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => proptest::sample::select(&ON_DEMAND[..]).prop_map(Step::Ask),
        4 => (0..16_u8, 0..3_u8, 0..3_u8)
            .prop_map(|(clusters, cluster, endpoints)| Step::Want { clusters, cluster, endpoints }),
        8 => Just(Step::Read),
        8 => Just(Step::Flush),
        2 => Just(Step::Check),
        1 => any::<bool>().prop_map(|early| Step::Cut { early }),
        2 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..80)
}

/// The filter's version lists the clusters that it names.
fn wanted(clusters: u8, cluster: u8, endpoints: u8, on_demand: bool) -> Arc<Snapshot> {
    let names: Vec<_> =
        ["a", "b", "c", "d"].into_iter().enumerate().filter(|(i, _)| clusters >> i & 1 == 1).collect();
    let make = |version: u8| names.iter().map(|(_, name)| format!("{name}@{version}")).collect::<Vec<_>>();
    let (clusters, endpoints) = (make(cluster), make(endpoints));
    let filter = format!("x@{}", names.iter().map(|(_, name)| *name).collect::<String>());
    let refer = |list: &[String]| set(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let (lazy, eager): (Vec<_>, Vec<_>) = refer(&clusters)
        .iter()
        .cloned()
        .partition(|cluster| on_demand && ON_DEMAND.contains(&&**cluster.name()));
    let clusters = with_on_demand(eager, lazy);
    Arc::new(Snapshot::new(clusters, refer(&endpoints), set(&["l@1"]), set(&[&filter])))
}

fn run(variant: Variant, on_demand: bool, slow: bool, steps: Vec<Step>) {
    let mut last = wanted(3, 0, 0, on_demand);
    let mut proxy = Proxy::new(variant, &last);
    let mut envoy = Envoy::new(variant, on_demand, slow);
    let rest = || (0..100).flat_map(|_| [Step::Flush, Step::Read, Step::Read, Step::Check, Step::Wait]);
    for step in steps.into_iter().chain(rest()).chain([Step::GiveUp]).chain(rest()) {
        let came = match step {
            Step::Want { clusters, cluster, endpoints } => {
                last = wanted(clusters, cluster, endpoints, on_demand);
                proxy.want(&last)
            }
            Step::Ask(name) => {
                envoy.ask(name);
                vec![]
            }
            Step::Wait if proxy.stream.latest().is_pending() => proxy.want(&last),
            Step::Wait => proxy.wait(PATIENCE / 8),
            Step::Read => {
                envoy.read();
                vec![]
            }
            Step::Check => {
                envoy.check_health();
                vec![]
            }
            Step::GiveUp => {
                envoy.give_endpoints_up();
                vec![]
            }
            Step::Cut { early } => {
                let known = if early { Arc::default() } else { Arc::clone(&last) };
                proxy.stream =
                    Stream::new(variant, true, known, Arc::default(), &Account::default(), proxy.now);
                envoy.connect();
                vec![]
            }
            Step::Flush => {
                let request = envoy.outbox.pop_front();
                request.map_or_else(Vec::new, |r| {
                    proxy.stream.on_request(r, proxy.now, SystemTime::now()).unwrap().0
                })
            }
        };
        envoy.inbox.extend(came);
    }
    let has = |name: &str| !last.of(Cluster).is_on_demand(name) || envoy.asked.contains(name);
    let versions = |set: &ResourceSet| -> BTreeMap<String, String> {
        set.iter().filter(|r| has(r.name())).map(|r| (r.name().to_string(), r.version().to_owned())).collect()
    };
    assert_eq!(envoy.clusters, versions(last.of(Cluster)));
    assert_eq!(envoy.endpoints, versions(last.of(Endpoints)));
    assert_eq!(envoy.filter.as_deref(), last.of(Extension).iter().next().map(|r| r.version()));
    assert!(envoy.inbox.is_empty() && envoy.outbox.is_empty());
    assert_eq!(proxy.stream.sync(), SyncState::Synced);
}

proptest! {
    #[test]
    fn s22_s23_sotw_histories_end_as_wanted_and_never_break(slow: bool, steps in steps()) {
        run(Variant::Sotw, false, slow, steps);
    }

    #[test]
    fn s22_s23_delta_histories_end_as_wanted_and_never_break(slow: bool, steps in steps()) {
        run(Variant::Delta, false, slow, steps);
    }

    #[test]
    fn s11_s22_s23_delta_histories_on_demand_end_with_what_was_asked_for(slow: bool, steps in steps()) {
        run(Variant::Delta, true, slow, steps);
    }
}

/// A snapshot that changes before a new stream has said anything is not one that the proxy has.
#[test]
fn s22_what_changes_before_a_stream_speaks_takes_no_cluster_that_a_filter_names() {
    let want = |clusters| Step::Want { clusters, cluster: 0, endpoints: 0 };
    let before = [
        Step::Flush,
        Step::Read,
        Step::Flush,
        Step::Flush,
        Step::Flush,
        Step::Read,
        Step::Flush,
        Step::Flush,
        Step::Read,
        Step::Read,
    ];
    let after = [Step::Cut { early: false }, want(5), Step::Flush, Step::Wait, Step::Wait, want(14)];
    run(Variant::Sotw, false, false, before.into_iter().chain(after).collect());
}
