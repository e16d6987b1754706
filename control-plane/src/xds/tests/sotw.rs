//! State of the world: nonces, full state, wildcard.

use super::*;

fn proxy(wanted: &Arc<Snapshot>) -> Proxy {
    Proxy::new(Variant::Sotw, wanted)
}

#[test]
fn s03_a_reconnect_with_the_wanted_version_is_sent_nothing() {
    let wanted = snapshot(&["a@1"], &[], &["l@1"], &[]);
    let mut proxy = proxy(&wanted);
    let version = wanted.of(Cluster).version().to_string();
    let asks = Asks::All { names: Texts::default(), version };
    assert!(proxy.send(Cluster, "", None, asks).is_empty());
    let asks = Asks::All { names: Texts::default(), version: "other".to_owned() };
    let came = proxy.send(Listener, "", None, asks);
    assert_eq!(trace(&came), ["lds: l@1"]);
    proxy.settle(came);
    assert_eq!(proxy.stream.sync(), crate::xds::SyncState::Synced);
}

#[test]
fn s04_a_stale_nonce_gets_no_answer() {
    let mut proxy = proxy(&snapshot(&[], &["a@1", "b@1"], &[], &[]));
    let first = proxy.ask(Endpoints, &["a"]);
    let second = proxy.ask(Endpoints, &["b"]);
    assert_eq!(trace(&second), ["eds: b@1"]);
    let names = ["a", "c"].into_iter().collect();
    let stale = Asks::All { names, version: String::new() };
    assert!(proxy.send(Endpoints, &first[0].nonce, None, stale.clone()).is_empty());
    assert!(proxy.send(Endpoints, &first[0].nonce, Some("bad"), stale).is_empty());
}

#[test]
fn s05_clusters_and_listeners_carry_the_full_state_and_endpoints_only_changes() {
    let mut proxy = Proxy::started(Variant::Sotw, &snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &["l@1"], &[]));
    let came = proxy.want(&snapshot(&["a@1", "b@1"], &["a@1", "b@2"], &["l@1", "m@1"], &[]));
    let came = proxy.settle(came);
    assert_eq!(trace(&came), ["eds: b@2", "lds: l@1 m@1"]);
    let came = proxy.want(&snapshot(&["a@1"], &["a@1"], &["m@1"], &[]));
    let came = proxy.settle(came);
    assert_eq!(trace(&came), ["lds: m@1", "cds: a@1"]);
}

#[test]
fn s06_added_names_are_sent_even_if_unchanged() {
    let mut proxy = proxy(&snapshot(&[], &["a@1", "b@1"], &[], &[]));
    let came = proxy.ask(Endpoints, &["a"]);
    proxy.settle(came);
    assert_eq!(trace(&proxy.ask(Endpoints, &["b"])), ["eds: b@1"]);
}

#[test]
fn s07_empty_after_names_is_nothing() {
    let mut proxy = proxy(&snapshot(&["a@1", "b@1"], &[], &[], &[]));
    let came = proxy.ask(Cluster, &["a"]);
    assert_eq!(trace(&came), ["cds: a@1"]);
    let nothing = Asks::All { names: Texts::default(), version: String::new() };
    assert_eq!(trace(&proxy.send(Cluster, &came[0].nonce, None, nothing)), ["cds:"]);
    assert!(proxy.want(&snapshot(&["a@2", "b@1"], &[], &[], &[])).is_empty());
}

#[test]
fn s08_endpoints_follow_their_changed_cluster_and_a_repeated_request_is_answered() {
    let mut proxy = Proxy::started(Variant::Sotw, &snapshot(&["a@1", "b@1"], &["a@1", "b@1"], &[], &[]));
    let came = proxy.want(&snapshot(&["a@2", "b@1"], &["a@1", "b@1"], &[], &[]));
    assert_eq!(trace(&came), ["cds: a@2 b@1", "eds: a@1"]);
    // Envoy keeps the acknowledgement of the clusters back while it warms them.
    assert!(proxy.ack(&came[1]).is_empty());
    let again = proxy.ack(&came[1]);
    assert_eq!(trace(&again), ["eds: a@1"]);
    proxy.settle(again);
    proxy.ack(&came[0]);
    let nonce = proxy.last[&Endpoints].clone();
    assert!(proxy.send(Endpoints, &nonce, None, proxy.all(Endpoints)).is_empty());
}
