//! Order over the types: make before break, no stalls, no wedges, silence.

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
