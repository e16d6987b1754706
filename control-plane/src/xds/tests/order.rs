//! Order over the types: make before break, no stalls, no wedges, silence.

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message;

use super::*;
use crate::xds::SyncState;
use crate::xds::subscription::PATIENCE;

#[test]
fn s14_endpoints_follow_changed_clusters_before_any_acknowledgement() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &[], &[]));
        let came = proxy.want(&snapshot(&["a@2"], &["a@1"], &[], &[]));
        assert_eq!(trace(&came), ["cds: a@2", "eds: a@1"]);
    }
}

#[test]
fn s14_endpoints_of_a_new_cluster_are_sent_when_asked_for() {
    for variant in BOTH {
        let mut proxy = Proxy::new(variant, &snapshot(&["a@1"], &["a@1"], &[], &[]));
        assert_eq!(trace(&proxy.ask(Cluster, &[])), ["cds: a@1"]);
        assert_eq!(trace(&proxy.ask(Endpoints, &["a"])), ["eds: a@1"]);
    }
}

#[test]
fn s22_filters_follow_the_clusters_and_endpoints_they_may_name() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]));
        let clusters = proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@2"], &["x@2"]));
        assert_eq!(clusters.len(), 1);
        assert!(proxy.ack(&clusters[0]).is_empty(), "b has no endpoints yet");
        let endpoints = proxy.ask(Endpoints, &["b"]);
        assert_eq!(trace(&endpoints), ["eds: b@1"]);
        assert_eq!(trace(&proxy.ack(&endpoints[0])), ["lds: l@2", "ecds: x@2"]);
    }
}

#[test]
fn s22_filters_wait_for_all_parts_of_endpoints_that_are_too_large_for_one_response() {
    let endpoints = |version: &'static str| {
        let names = ["a", "b", "c", "d", "e", "f"].into_iter();
        let large = move |name: &str| {
            Arc::new(Resource::encoded(Endpoints.url(), name.into(), version.into(), &vec![0; (4 << 20) / 3]))
        };
        ResourceSet::new(names.map(large))
    };
    let wanted = |version: &'static str| {
        let filter = format!("x@{version}");
        Arc::new(Snapshot::new(set(&[]), endpoints(version), set(&[]), set(&[&filter])))
    };
    let mut proxy = Proxy::started(Variant::Delta, &wanted("1"));
    let came = proxy.want(&wanted("2"));
    assert_eq!(trace(&came), ["eds: a@2 b@2"]);
    assert!(proxy.wait(Duration::ZERO).is_empty());
    assert_eq!(trace(&proxy.settle(came)[1..]), ["eds: c@2 d@2", "eds: e@2 f@2", "ecds: x@2"]);
}

#[test]
fn s22_filters_follow_changed_endpoints_of_the_same_snapshot() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]));
        let endpoints = proxy.want(&snapshot(&["a@1"], &["a@2"], &["l@1"], &["x@2"]));
        assert_eq!(trace(&endpoints), ["eds: a@2"]);
        // Endpoints that change ever again do not hold the filter back for ever.
        assert!(proxy.want(&snapshot(&["a@1"], &["a@3"], &["l@1"], &["x@2"])).is_empty());
        assert_eq!(trace(&proxy.ack(&endpoints[0])), ["eds: a@3", "ecds: x@2"]);
    }
}

#[test]
fn s22_a_cluster_goes_only_when_nothing_names_it_any_more() {
    for variant in BOTH {
        let mut proxy =
            Proxy::started(variant, &snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["b@1"], &["b@1"], &["l@1"], &["x@2"]));
        assert_eq!(trace(&came), ["ecds: x@2"]);
        let came = proxy.ack(&came[0]);
        let removal = if variant == Variant::Sotw { "cds: b@1" } else { "cds: -a" };
        assert_eq!(trace(&came), [removal]);
    }
}

#[test]
fn s22_a_kept_cluster_stays_in_the_full_state() {
    let mut proxy = Proxy::started(Variant::Sotw, &snapshot(&["a@1"], &[], &["l@1"], &["x@1"]));
    let came = proxy.want(&snapshot(&["b@1"], &[], &["l@1"], &["x@2"]));
    assert_eq!(trace(&came), ["cds: b@1 a@1"]);
    assert_eq!(trace(&proxy.settle(came)), ["cds: b@1 a@1", "ecds: x@2", "cds: b@1"]);
}

#[test]
fn s22_a_cluster_whose_endpoints_nobody_asks_for_does_not_block_filters_for_ever() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@2"]));
        assert!(proxy.ack(&came[0]).is_empty());
        let until = proxy.stream.deadline(proxy.now).unwrap();
        assert_eq!(until - proxy.now, PATIENCE);
        assert_eq!(trace(&proxy.wait(PATIENCE)), ["ecds: x@2"]);
        assert_eq!(proxy.stream.deadline(proxy.now), None);
    }
}

#[test]
fn s22_at_the_start_listeners_and_filters_wait_for_clusters_and_endpoints() {
    for variant in BOTH {
        let mut proxy = Proxy::new(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]));
        let clusters = proxy.ask(Cluster, &[]);
        assert!(proxy.ask(Listener, &[]).is_empty());
        assert!(proxy.ask(Extension, &["x"]).is_empty());
        let endpoints = proxy.ask(Endpoints, &["a"]);
        proxy.ack(&clusters[0]);
        assert_eq!(trace(&proxy.ack(&endpoints[0])), ["lds: l@1", "ecds: x@1"]);
    }
}

#[test]
fn s23_nothing_is_sent_when_nothing_changed() {
    for variant in BOTH {
        let wanted = snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]);
        let mut proxy = Proxy::started(variant, &wanted);
        assert!(proxy.want(&wanted).is_empty());
        assert!(proxy.wait(Duration::from_hours(1)).is_empty());
        assert_eq!(proxy.stream.deadline(proxy.now), None);
        for (kind, nonce) in proxy.last.clone() {
            let asks = if variant == Variant::Sotw { proxy.all(kind) } else { subscribe(&[]) };
            assert!(proxy.send(kind, &nonce, None, asks).is_empty());
        }
    }
}

#[test]
fn a_slow_proxy_gets_the_latest_and_not_each_step() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &[], &[]));
        let first = proxy.want(&snapshot(&["a@1"], &["a@2"], &[], &[]));
        for version in 3..100 {
            let endpoints = format!("a@{version}");
            assert!(proxy.want(&snapshot(&["a@1"], &[&endpoints], &[], &[])).is_empty());
        }
        assert_eq!(proxy.stream.sync(), SyncState::Pending);
        assert_eq!(trace(&proxy.ack(&first[0])), ["eds: a@99"]);
    }
}

#[test]
fn a_change_taken_back_while_in_flight_leaves_nothing_waiting() {
    for variant in BOTH {
        let one = snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]);
        let mut proxy = Proxy::started(variant, &one);
        let came = proxy.want(&snapshot(&["a@1"], &["a@2"], &["l@1"], &["x@1"]));
        proxy.want(&snapshot(&["a@1"], &["a@3"], &["l@1"], &["x@2"]));
        proxy.want(&snapshot(&["a@1"], &["a@2"], &["l@1"], &["x@3"]));
        assert_eq!(trace(&proxy.settle(came)[1..]), ["ecds: x@2", "ecds: x@3"]);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn a_withheld_acknowledgement_does_not_hold_back_the_cure() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &[], &[]));
        proxy.want(&snapshot(&["a@2"], &["a@1"], &[], &[]));
        assert!(proxy.want(&snapshot(&["a@3"], &["a@1"], &[], &[])).is_empty());
        assert_eq!(trace(&proxy.wait(PATIENCE)), ["cds: a@3", "eds: a@1"]);
    }
}

#[test]
fn a_proxy_is_not_in_sync_before_it_could_ask_for_all_there_is() {
    for variant in BOTH {
        let wanted = snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]);
        let mut proxy = Proxy::new(variant, &wanted);
        for (kind, names) in [(Cluster, &[][..]), (Endpoints, &["a"]), (Listener, &[])] {
            let came = proxy.ask(kind, names);
            proxy.settle(came);
            assert_eq!(proxy.stream.sync(), SyncState::Pending, "after {kind:?}");
        }
        // One that never asks for filters has no use for any.
        let until = proxy.stream.deadline(proxy.now).unwrap();
        proxy.wait(until - proxy.now);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn what_is_under_way_counts_before_what_is_refused() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["a@2"], &["a@1"], &["l@1"], &["x@1"]));
        assert!(proxy.ack(&came[1]).is_empty());
        proxy.answer(&came[0], Some("a: bad"));
        assert_eq!(proxy.stream.sync(), SyncState::Rejecting);
        let came = proxy.want(&snapshot(&["a@2"], &["a@2"], &["l@1"], &["x@1"]));
        assert_eq!(proxy.stream.sync(), SyncState::Pending);
        proxy.settle(came);
        assert_eq!(proxy.stream.sync(), SyncState::Rejecting);
    }
}

/// Asks as a proxy does that has the first version of all that it names.
fn ask_again(proxy: &mut Proxy, kind: ResourceType, names: &[&str]) -> Vec<Response> {
    proxy.names.entry(kind).or_default().extend(names.iter().map(ToString::to_string));
    let has: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
    let asks = match proxy.variant {
        Variant::Delta => again(names, &has),
        Variant::Sotw => Asks::All { names: names.iter().collect(), version: "before".to_owned() },
    };
    proxy.send(kind, "", None, asks)
}

#[test]
fn s22_changes_that_add_clusters_do_not_push_filters_back() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@a"]));
        let clusters = proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@ab"]));
        assert_eq!(clusters.len(), 1);
        let next = snapshot(&["a@1", "b@1", "c@1"], &["a@1", "b@1", "c@1"], &["l@1"], &["x@abc"]);
        assert!(proxy.want(&next).is_empty());
        let endpoints = proxy.ask(Endpoints, &["b"]);
        proxy.ack(&endpoints[0]);
        let filter = proxy.ack(&clusters[0]);
        assert_eq!(trace(&filter), ["ecds: x@ab"]);
        let last = snapshot(&["a@1", "c@1", "d@1"], &["a@1", "c@1", "d@1"], &["l@1"], &["x@acd"]);
        assert!(proxy.want(&last).is_empty());
        assert_eq!(proxy.stream.sync(), SyncState::Pending);
        assert_eq!(proxy.stream.pending(Cluster), 3, "one goes, two come");
        // The filter in force names `b`.
        let clusters = proxy.ack(&filter[0]);
        let both = if variant == Variant::Sotw { "cds: a@1 c@1 d@1 b@1" } else { "cds: c@1 d@1" };
        assert_eq!(trace(&clusters), [both]);
        let endpoints = proxy.ask(Endpoints, &["c", "d"]);
        proxy.ack(&endpoints[0]);
        let came = proxy.ack(&clusters[0]);
        assert_eq!(trace(&came), ["ecds: x@acd"]);
        let gone = if variant == Variant::Sotw { "cds: a@1 c@1 d@1" } else { "cds: -b" };
        assert_eq!(trace(&proxy.settle(came)[1..])[0], gone);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn s22_clusters_go_with_the_next_that_come() {
    for variant in BOTH {
        let mut proxy =
            Proxy::started(variant, &snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@ab"]));
        let came = proxy.want(&snapshot(&["b@1"], &["b@1"], &["l@1"], &["x@b"]));
        assert!(proxy.want(&snapshot(&["b@1", "c@1"], &["b@1", "c@1"], &["l@1"], &["x@bc"])).is_empty());
        let both = if variant == Variant::Sotw { "cds: b@1 c@1" } else { "cds: c@1 -a" };
        assert_eq!(trace(&proxy.ack(&came[0])), [both]);
    }
}

#[test]
fn endpoints_and_secrets_do_not_wait_for_what_is_under_way() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@a"]));
        let clusters = proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@ab"]));
        // `b` goes again, and the endpoints of `a` fail over.
        let latest = snapshot(&["a@1"], &["a@2"], &["l@1"], &["x@a2"]);
        let came = proxy.want(&latest);
        assert_eq!(trace(&came), ["eds: a@2"]);
        proxy.ack(&came[0]);
        // What is under way still names `b`, which must not come into force empty.
        let endpoints = proxy.ask(Endpoints, &["b"]);
        assert_eq!(trace(&endpoints), ["eds: b@1"]);
        proxy.ack(&endpoints[0]);
        let came = proxy.ack(&clusters[0]);
        assert_eq!(trace(&came), ["ecds: x@ab"]);
        proxy.settle(came);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        assert_eq!(proxy.stream.latest().version(), latest.version());
    }
}

#[test]
fn a_refusal_makes_way_for_the_next_snapshot_at_once() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@a"]));
        let clusters = proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@ab"]));
        assert!(proxy.want(&snapshot(&["a@1", "b@2"], &["a@1", "b@2"], &["l@1"], &["x@ab2"])).is_empty());
        let came = proxy.answer(&clusters[0], Some("b: bad"));
        let cure = if variant == Variant::Sotw { "cds: a@1 b@2" } else { "cds: b@2" };
        assert_eq!(trace(&came), [cure]);
    }
}

#[test]
fn what_is_under_way_is_given_up_for_a_cure_alone() {
    for variant in BOTH {
        let one = snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@a"]);
        let mut proxy = Proxy::started(variant, &one);
        proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@ab"]));
        let endpoints = proxy.ask(Endpoints, &["b"]);
        proxy.ack(&endpoints[0]);
        // A check of `b` that takes long is no reason to have more clusters warm.
        let more = snapshot(&["a@1", "b@1", "c@1"], &["a@1", "b@1", "c@1"], &["l@1"], &["x@abc"]);
        assert!(proxy.want(&more).is_empty());
        assert!(proxy.wait(Duration::from_mins(1)).is_empty());
        // `b` goes: that ends it.
        let gone = if variant == Variant::Sotw { "cds: a@1" } else { "cds: -b" };
        assert_eq!(trace(&proxy.want(&one))[0], gone);
    }
}

#[test]
fn s22_a_proxy_that_comes_back_gets_filters_after_it_asked_for_clusters() {
    for variant in BOTH {
        let wanted = snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &["x@2"]);
        let mut proxy = Proxy::new(variant, &wanted);
        // A cluster warms: its endpoints are asked for, and those of the others, but no clusters.
        let endpoints = ask_again(&mut proxy, Endpoints, &["a", "b"]);
        proxy.settle(endpoints);
        ask_again(&mut proxy, Listener, &[]);
        assert!(ask_again(&mut proxy, Extension, &["x"]).is_empty());
        // A check may take as long as it likes.
        assert!(proxy.wait(Duration::from_hours(1)).is_empty());
        assert_eq!(proxy.stream.sync(), SyncState::Pending);
        let mut came = match variant {
            Variant::Delta => proxy.send(Cluster, "", None, again(&[], &[("a", "1"), ("b", "0")])),
            Variant::Sotw => ask_again(&mut proxy, Cluster, &[]),
        };
        assert_eq!(came[0].kind, Cluster, "what it claims is not what is wanted");
        if variant == Variant::Delta {
            // Its endpoints are said once more: the proxy may wait for them.
            came.extend(proxy.ask(Endpoints, &["b"]));
        }
        assert!(trace(&proxy.settle(came)).contains(&"ecds: x@2".to_owned()));
    }
}

#[test]
fn a_proxy_that_never_asks_for_clusters_is_waited_for_a_while() {
    use crate::xds::gate::NEVER_ASKS;
    for variant in BOTH {
        // The proxy resolves names of `a` itself.
        let wanted = snapshot(&["a@1"], &[], &["l@1"], &["x@2"]);
        let mut proxy = Proxy::new(variant, &wanted);
        assert!(ask_again(&mut proxy, Extension, &["x"]).is_empty());
        assert!(proxy.wait(NEVER_ASKS / 2).is_empty());
        assert_eq!(proxy.stream.sync(), SyncState::Pending);
        assert_eq!(trace(&proxy.wait(NEVER_ASKS / 2)), ["ecds: x@2"]);
        // One that brings nothing holds nothing back, and one without endpoints no cluster that has any.
        let mut proxy = Proxy::new(variant, &wanted);
        assert_eq!(trace(&proxy.ask(Extension, &["x"])), ["ecds: x@2"]);
        let mut proxy = Proxy::new(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@2"]));
        assert_eq!(trace(&ask_again(&mut proxy, Extension, &["x"])), ["ecds: x@2"]);
    }
}

#[test]
fn s15_endpoints_are_not_taken_away_before_it_is_known_which_clusters_there_are() {
    let wanted = snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]);
    let mut proxy = Proxy::new(Variant::Delta, &wanted);
    assert!(ask_again(&mut proxy, Endpoints, &["a", "b"]).is_empty());
}

#[test]
fn s15_a_cluster_that_nobody_wants_any_more_holds_nothing_back_for_long() {
    use crate::xds::gate::WARMS_LONG;
    for variant in BOTH {
        let mut proxy =
            Proxy::new(variant, &snapshot(&["a@1", "slow@1"], &["a@1", "slow@1"], &["l@1"], &["x@2"]));
        let came = ask_again(&mut proxy, Endpoints, &["a", "slow"]);
        proxy.settle(came);
        ask_again(&mut proxy, Listener, &[]);
        assert!(ask_again(&mut proxy, Extension, &["x"]).is_empty());
        assert!(proxy.wait(WARMS_LONG).is_empty(), "it is wanted");
        assert_eq!(proxy.stream.warms_long(proxy.now), Some(vec![]));
        let came = proxy.want(&snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@2"]));
        assert_eq!(came.len(), 1, "{:?}", trace(&came));
        let empty = ClusterLoadAssignment { cluster_name: "slow".to_owned(), ..Default::default() };
        assert_eq!((came[0].kind, &**came[0].resources[0].name()), (Endpoints, "slow"));
        assert_eq!(came[0].resources[0].body(), empty.encode_to_vec());
        assert_eq!(proxy.settle(came).len(), 1);
        // Another snapshot says it no more often.
        assert!(proxy.want(&snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@3"])).is_empty());
        let came = match variant {
            Variant::Delta => proxy.send(Cluster, "", None, again(&[], &[("a", "1"), ("slow", "1")])),
            Variant::Sotw => ask_again(&mut proxy, Cluster, &[]),
        };
        let came = trace(&proxy.settle(came));
        assert!(came.contains(&"ecds: x@3".to_owned()), "{came:?}");
        assert_eq!(proxy.stream.warms_long(proxy.now + WARMS_LONG), None);
    }
}

#[test]
fn what_nobody_wants_warms_no_longer_than_its_time_without_another_change() {
    let mut proxy = Proxy::new(Variant::Delta, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@2"]));
    ask_again(&mut proxy, Endpoints, &["a", "slow"]);
    ask_again(&mut proxy, Listener, &[]);
    let came = ask_again(&mut proxy, Extension, &["x"]);
    assert!(came.is_empty());
    for _ in 0..3 {
        let next = proxy.stream.deadline(proxy.now).expect("it is looked at again") - proxy.now;
        let came = proxy.wait(next);
        if let [response] = &came[..] {
            assert_eq!((response.kind, &**response.resources[0].name()), (Endpoints, "slow"));
            return;
        }
    }
    panic!("nothing came");
}
