//! Delta: nonces, subscriptions, removals, reconnects.

use super::*;

fn proxy(wanted: &Arc<Snapshot>) -> Proxy {
    Proxy::new(Variant::Delta, wanted)
}

#[test]
fn s07_an_empty_first_request_is_answered_even_with_nothing() {
    let mut proxy = proxy(&snapshot(&[], &[], &[], &[]));
    assert_eq!(trace(&proxy.ask(Cluster, &[])), ["cds:"]);
    assert!(proxy.ask(Endpoints, &[]).is_empty());
}

#[test]
fn s09_subscriptions_count_even_with_a_stale_nonce() {
    let mut proxy = proxy(&snapshot(&[], &["a@1", "b@1", "c@1"], &[], &[]));
    let first = proxy.ask(Endpoints, &["a"]);
    proxy.ask(Endpoints, &["b"]);
    let came = proxy.send(Endpoints, &first[0].nonce, None, subscribe(&["c".to_owned()]));
    assert_eq!(trace(&came), ["eds: c@1"]);
    let came = proxy.send(Endpoints, "no such nonce", None, subscribe(&["a".to_owned()]));
    assert_eq!(trace(&came), ["eds: a@1"]);
}

#[test]
fn s10_a_name_asked_for_again_is_sent_again() {
    let mut proxy = proxy(&snapshot(&[], &["a@1"], &[], &[]));
    let came = proxy.ask(Endpoints, &["a"]);
    proxy.settle(came);
    assert_eq!(trace(&proxy.ask(Endpoints, &["a"])), ["eds: a@1"]);
}

#[test]
fn s11_an_absent_name_is_answered_as_removed_and_sent_when_it_comes_to_exist() {
    let mut proxy = proxy(&snapshot(&["a@1"], &[], &[], &[]));
    let came = proxy.ask(Cluster, &[]);
    proxy.settle(came);
    let came = proxy.ask(Cluster, &["lazy"]);
    assert_eq!(trace(&came), ["cds: -lazy"]);
    proxy.settle(came);
    let came = proxy.ask(Endpoints, &["e"]);
    assert_eq!(trace(&came), ["eds: -e"]);
    proxy.settle(came);
    let came = proxy.want(&snapshot(&["a@1", "lazy@1"], &["e@1"], &[], &[]));
    assert_eq!(trace(&came), ["cds: lazy@1", "eds: e@1"]);
}

#[test]
fn s12_a_name_dropped_under_the_wildcard_is_answered() {
    let mut proxy = proxy(&snapshot(&["a@1"], &[], &[], &[]));
    let came = proxy.ask(Cluster, &["*", "a", "gone"]);
    assert_eq!(trace(&came), ["cds: a@1 -gone"]);
    proxy.settle(came);
    assert_eq!(trace(&proxy.send(Cluster, "", None, unsubscribe(&["a"]))), ["cds: a@1"]);
    assert_eq!(trace(&proxy.send(Cluster, "", None, unsubscribe(&["gone"]))), ["cds: -gone"]);
    assert!(proxy.send(Cluster, "", None, unsubscribe(&["never"])).is_empty());
}

#[test]
fn s12_a_dropped_name_is_not_sent_any_more() {
    let mut proxy = proxy(&snapshot(&[], &["a@1"], &[], &[]));
    let came = proxy.ask(Endpoints, &["a"]);
    proxy.settle(came);
    assert!(proxy.send(Endpoints, "", None, unsubscribe(&["a"])).is_empty());
    assert!(proxy.want(&snapshot(&[], &["a@2"], &[], &[])).is_empty());
}

#[test]
fn s13_after_a_reconnect_only_differences_and_removals_are_sent() {
    let wanted = snapshot(&["a@1", "b@2", "c@1"], &["a@1", "b@2"], &["l@1"], &["x@1"]);
    let mut proxy = proxy(&wanted);
    let came = proxy.send(Cluster, "", None, again(&[], &[("a", "1"), ("b", "1"), ("old", "1")]));
    assert_eq!(trace(&came), ["cds: b@2 c@1"]);
    let eds = proxy.send(Endpoints, "", None, again(&["a", "b", "gone"], &[("a", "1"), ("b", "1")]));
    assert_eq!(trace(&eds), ["eds: b@2 -gone"]);
    assert!(proxy.send(Listener, "", None, again(&[], &[("l", "1")])).is_empty());
    assert!(proxy.send(Extension, "", None, again(&["x"], &[("x", "1")])).is_empty());
    proxy.ack(&eds[0]);
    assert_eq!(trace(&proxy.ack(&came[0])), ["cds: -old"]);
}

#[test]
fn s13_a_reconnect_removes_clusters_only_when_the_listeners_are_known() {
    let mut proxy = proxy(&snapshot(&["a@1"], &[], &["l@2"], &[]));
    assert!(proxy.send(Cluster, "", None, again(&[], &[("a", "1"), ("old", "1")])).is_empty());
    let came = proxy.send(Listener, "", None, again(&[], &[("l", "1")]));
    assert_eq!(trace(&came), ["lds: l@2"]);
    proxy.ack(&came[0]);
    assert_eq!(trace(&proxy.wait(Duration::from_secs(2))), ["cds: -old"]);
}

#[test]
fn s15_endpoints_are_not_taken_from_a_cluster_that_stays() {
    let mut proxy = Proxy::started(Variant::Delta, &snapshot(&["a@1"], &["a@1"], &[], &[]));
    assert!(proxy.want(&snapshot(&["a@1"], &[], &[], &[])).is_empty());
    let came = proxy.want(&snapshot(&[], &[], &[], &[]));
    assert_eq!(trace(&proxy.settle(came)), ["cds: -a", "eds: -a"]);
}

#[test]
fn s16_filter_configuration_is_never_removed() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &[], &["l@1"], &["x@1"]));
        assert!(proxy.want(&snapshot(&["a@1"], &[], &["l@1"], &[])).is_empty());
        assert!(proxy.ask(Extension, &["never"]).is_empty());
        let came = proxy.want(&snapshot(&["a@1"], &[], &["l@1"], &["x@2", "never@1"]));
        assert_eq!(trace(&came), ["ecds: never@1 x@2"]);
    }
}

#[test]
fn what_is_too_large_for_one_response_comes_in_several() {
    let large = |name: &str| {
        Arc::new(Resource::encoded(Cluster.url(), name.into(), "1".into(), &vec![0; (4 << 20) / 3]))
    };
    let clusters = ResourceSet::new(["a", "b", "c", "d"].map(large));
    let filter = set(&["x@1"]);
    let wanted = Arc::new(Snapshot::new(clusters, set(&[]), set(&[]), filter));
    let mut proxy = proxy(&wanted);
    let came = proxy.ask(Cluster, &[]);
    assert_eq!(trace(&came), ["cds: a@1 b@1"]);
    assert!(proxy.ask(Extension, &["x"]).is_empty(), "the filter may name c and d");
    assert_eq!(trace(&proxy.settle(came)[1..]), ["cds: c@1 d@1", "ecds: x@1"]);
    assert_eq!(proxy.stream.sync(), crate::xds::SyncState::Synced);
}
