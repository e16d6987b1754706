//! Clusters on demand: the wildcard leaves them out, a name brings one, and order holds for it as for others.

use super::*;
use crate::xds::SyncState;

/// A snapshot of these clusters and those on demand; all clusters have endpoints.
fn with_lazy(eager: &[&str], lazy: &[&str], listeners: &[&str], extensions: &[&str]) -> Arc<Snapshot> {
    let all = |names: &[&str]| set(names).iter().cloned().collect::<Vec<_>>();
    let clusters = ResourceSet::with_on_demand(all(eager), all(lazy));
    Arc::new(Snapshot::new(clusters, set(&[eager, lazy].concat()), set(listeners), set(extensions)))
}

/// A proxy that has all but the clusters on demand.
fn started(variant: Variant, wanted: &Arc<Snapshot>) -> Proxy {
    let mut proxy = Proxy::new(variant, wanted);
    let mut came = proxy.ask(Cluster, &[]);
    let names: Vec<&str> = wanted.of(Cluster).eager().map(|r| &**r.name()).collect();
    came.extend(proxy.ask(Endpoints, &names));
    came.extend(proxy.ask(Listener, &[]));
    came.extend(proxy.ask(Extension, &["x"]));
    proxy.settle(came);
    assert_eq!(proxy.stream.sync(), SyncState::Synced);
    proxy
}

/// Asks for a cluster by name beside the wildcard, as each variant says it.
fn ask_for(proxy: &mut Proxy, name: &str) -> Vec<Response> {
    let star = if proxy.variant == Variant::Sotw { "*" } else { name };
    let mut names = vec![star];
    names.extend((star != name).then_some(name));
    proxy.ask(Cluster, &names)
}

#[test]
fn the_version_covers_them_and_tells_the_two_kinds_apart() {
    let of = |eager: &[&str], lazy: &[&str]| Arc::clone(with_lazy(eager, lazy, &[], &[]).of(Cluster));
    let both = of(&["a@1"], &["w1@1"]);
    assert_ne!(both.version(), of(&["a@1"], &["w1@2"]).version());
    assert_ne!(both.version(), of(&["a@1"], &[]).version());
    assert_ne!(both.version(), of(&["a@1", "w1@1"], &[]).version());
    assert_eq!(of(&["a@1", "w1@1"], &[]).version(), set(&["a@1", "w1@1"]).version());
    assert!(both.get("w1").is_some() && both.is_on_demand("w1") && !both.is_on_demand("a"));
    assert!(!of(&["a@1"], &["a@1"]).is_on_demand("a"), "what any listener wants at once comes at once");
    assert_eq!((both.len(), both.eager().count(), both.iter().count()), (2, 1, 2));
}

#[test]
fn s07_the_wildcard_leaves_them_out_and_who_has_none_of_them_is_synced() {
    for variant in BOTH {
        let wanted = with_lazy(&["a@1"], &["w1@1", "w2@1"], &["l@1"], &["x@1"]);
        let mut proxy = Proxy::new(variant, &wanted);
        assert_eq!(trace(&proxy.ask(Cluster, &[])), ["cds: a@1"]);
        let mut proxy = started(variant, &wanted);
        // Nobody has w2: a change of it is nobody's business.
        let came = proxy.want(&with_lazy(&["a@1"], &["w1@1", "w2@2"], &["l@1"], &["x@1"]));
        assert!(came.is_empty(), "{:?}", trace(&came));
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        assert_eq!(proxy.stream.deadline(proxy.now), None);
    }
}

#[test]
fn s07_a_name_brings_one_beside_the_wildcard_and_its_endpoints_follow() {
    for variant in BOTH {
        let mut proxy = started(variant, &with_lazy(&["a@1"], &["w1@1", "w2@1"], &["l@1"], &["x@1"]));
        let came = ask_for(&mut proxy, "w1");
        assert_eq!(trace(&came), [if variant == Variant::Sotw { "cds: a@1 w1@1" } else { "cds: w1@1" }]);
        let endpoints = proxy.ask(Endpoints, &["w1"]);
        assert_eq!(trace(&endpoints), ["eds: w1@1"]);
        proxy.settle(endpoints);
        proxy.settle(came);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        // From now on it is kept up to date like any other.
        let came = proxy.want(&with_lazy(&["a@1"], &["w1@2", "w2@2"], &["l@1"], &["x@1"]));
        let clusters = if variant == Variant::Sotw { "cds: a@1 w1@2" } else { "cds: w1@2" };
        assert_eq!(trace(&came), [clusters, "eds: w1@2"]);
    }
}

#[test]
fn s10_one_that_is_asked_for_again_is_sent_again() {
    let mut proxy = started(Variant::Delta, &with_lazy(&["a@1"], &["w1@1"], &["l@1"], &["x@1"]));
    let came = proxy.ask(Cluster, &["w1"]);
    proxy.settle(came);
    assert_eq!(trace(&proxy.ask(Cluster, &["w1"])), ["cds: w1@1"]);
}

#[test]
fn s12_one_that_is_dropped_under_the_wildcard_is_answered_as_gone() {
    let mut proxy = started(Variant::Delta, &with_lazy(&["a@1"], &["w1@1"], &["l@1"], &["x@1"]));
    let came = proxy.ask(Cluster, &["w1"]);
    proxy.settle(came);
    assert_eq!(trace(&proxy.send(Cluster, "", None, unsubscribe(&["w1"]))), ["cds: -w1"]);
    assert!(proxy.want(&with_lazy(&["a@1"], &["w1@2"], &["l@1"], &["x@1"])).is_empty());
}

#[test]
fn s13_a_reconnect_with_names_is_sent_only_the_differences() {
    let wanted = with_lazy(&["a@1"], &["w1@1", "w2@2", "w3@1"], &["l@1"], &["x@1"]);
    let mut proxy = Proxy::new(Variant::Delta, &wanted);
    let has = [("a", "1"), ("w1", "1"), ("w2", "1")];
    let came = proxy.send(Cluster, "", None, again(&["*", "w1", "w2"], &has));
    assert_eq!(trace(&came), ["cds: w2@2"]);
}

#[test]
fn s22_one_goes_only_when_no_filter_names_it_and_comes_back_by_itself() {
    for variant in BOTH {
        let with = with_lazy(&["a@1"], &["w1@1"], &["l@1"], &["x@1"]);
        let mut proxy = started(variant, &with);
        let mut came = ask_for(&mut proxy, "w1");
        came.extend(proxy.ask(Endpoints, &["w1"]));
        proxy.settle(came);

        let filter = proxy.want(&with_lazy(&["a@1"], &[], &["l@1"], &["x@2"]));
        assert_eq!(trace(&filter), ["ecds: x@2"], "the filter first");
        let gone = proxy.ack(&filter[0]);
        assert_eq!(trace(&gone[..1]), [if variant == Variant::Sotw { "cds: a@1" } else { "cds: -w1" }]);
        proxy.settle(gone);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);

        // Envoy never asks for a name twice: the subscription has to outlive the cluster (11).
        let came = proxy.want(&with);
        let clusters = if variant == Variant::Sotw { "cds: a@1 w1@1" } else { "cds: w1@1" };
        assert_eq!(trace(&came)[0], clusters);
        assert_eq!(trace(&proxy.settle(came)).last().unwrap(), "ecds: x@1");
    }
}

#[test]
fn s22_what_becomes_on_demand_leaves_when_the_listeners_are_those_that_ask_for_it() {
    for variant in BOTH {
        let eager = with_lazy(&["a@1", "w1@1"], &[], &["l@1"], &["x@1"]);
        let mut proxy = started(variant, &eager);
        let came = proxy.want(&with_lazy(&["a@1"], &["w1@1"], &["l@2"], &["x@1"]));
        assert_eq!(trace(&came), ["lds: l@2"]);
        let came = proxy.settle(came);
        let gone = if variant == Variant::Sotw { "cds: a@1" } else { "cds: -w1" };
        assert_eq!(trace(&came)[1..], [gone.to_owned()]);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        // And back: first the cluster, then the listener that does not ask.
        let clusters = proxy.want(&eager);
        assert_eq!(trace(&clusters)[0], if variant == Variant::Sotw { "cds: a@1 w1@1" } else { "cds: w1@1" });
        assert!(clusters.iter().all(|response| response.kind != Listener));
        let came = trace(&proxy.settle(clusters));
        assert_eq!(came.last().unwrap(), "lds: l@1");
    }
}

#[test]
fn s22_players_at_new_worlds_hold_no_filter_back() {
    for variant in BOTH {
        let mut proxy = started(variant, &with_lazy(&["a@1"], &["w1@1", "w2@1"], &["l@1"], &["x@1"]));
        let came = ask_for(&mut proxy, "w1");
        assert_eq!(came.len(), 1);
        // Neither acknowledged nor its endpoints asked for.
        let came = proxy.want(&with_lazy(&["a@1"], &["w1@1", "w2@1"], &["l@1"], &["x@2"]));
        assert_eq!(trace(&came), ["ecds: x@2"]);
    }
}

#[test]
fn s22_a_cluster_that_waits_for_its_turn_behind_one_on_demand_holds_filters_back() {
    for variant in BOTH {
        let mut proxy = started(variant, &with_lazy(&["a@1"], &["w1@1"], &["l@1"], &["x@1"]));
        let asked = ask_for(&mut proxy, "w1");
        assert!(proxy.want(&with_lazy(&["a@1", "b@1"], &["w1@1"], &["l@1"], &["x@2"])).is_empty());
        let clusters = proxy.ack(&asked[0]);
        let expected = if variant == Variant::Sotw { "cds: a@1 b@1 w1@1" } else { "cds: b@1" };
        assert_eq!(trace(&clusters), [expected]);
        let endpoints = proxy.ask(Endpoints, &["b"]);
        assert!(proxy.ack(&clusters[0]).is_empty(), "b has no endpoints yet");
        assert_eq!(trace(&proxy.ack(&endpoints[0])), ["ecds: x@2"]);
    }
}
