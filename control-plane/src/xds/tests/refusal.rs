//! What a proxy refuses: never sent again unchanged, told apart by resource, healed by another version.

use super::*;
use crate::xds::SyncState;
use crate::xds::subscription::PATIENCE;

#[test]
fn s17_s19_a_refusal_is_noted_and_not_answered_with_the_same() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &[], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["a@2"], &[], &["l@1"], &["x@1"]));
        assert!(proxy.answer(&came[0], Some("a: bad")).is_empty());
        assert_eq!(proxy.stream.sync(), SyncState::Rejecting);
        assert!(proxy.wait(Duration::from_mins(1)).is_empty());
        let wanted = snapshot(&["a@3"], &[], &["l@1"], &["x@1"]);
        let came = proxy.want(&wanted);
        assert_eq!(trace(&proxy.settle(came)), ["cds: a@3"]);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn s18_the_others_of_a_refused_response_are_said_again_without_the_guilty() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1", "b@1", "c@1"], &[], &[], &[]));
        let came = proxy.want(&snapshot(&["a@2", "b@2", "c@1"], &[], &[], &[]));
        let came = proxy.answer(&came[0], Some("Error adding/updating cluster(s) b: no"));
        let others = if variant == Variant::Sotw { "cds: a@2 b@1 c@1" } else { "cds: a@2" };
        assert_eq!(trace(&came), [others]);
        proxy.settle(came);
        assert_eq!(proxy.stream.of(Cluster).rejected.keys().map(|name| &**name).collect::<Vec<_>>(), ["b"]);
    }
}

#[test]
fn s18_a_new_resource_that_is_refused_is_left_out_of_the_full_state() {
    let mut proxy = Proxy::started(Variant::Sotw, &snapshot(&["a@1"], &[], &[], &[]));
    let came = proxy.want(&snapshot(&["a@1", "b@1"], &[], &[], &[]));
    proxy.answer(&came[0], Some("b: no"));
    assert_eq!(trace(&proxy.want(&snapshot(&["a@2", "b@1"], &[], &[], &[]))), ["cds: a@2"]);
}

#[test]
fn s18_one_bad_among_many_is_found_when_the_refusal_names_none() {
    for variant in BOTH {
        let names: Vec<String> = (0..1000).map(|i| format!("w{i:04}@1")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut proxy = Proxy::new(variant, &snapshot(&names, &[], &[], &[]));
        let mut queue = proxy.ask(Cluster, &[]);
        let (mut sent, mut refused) = (0, Vec::new());
        while let Some(response) = queue.pop() {
            sent += 1;
            let bad = response.resources.iter().any(|r| &**r.name() == "w0321");

            if bad {
                let payload: Vec<_> = response.resources.iter().map(|r| Arc::clone(r.name())).collect();
                assert!(!refused.contains(&payload), "the same again");
                refused.push(payload);
            }
            queue.extend(proxy.answer(&response, bad.then_some("Invalid duration")));
        }
        assert!(sent <= 22, "{sent}");
        let clusters = proxy.stream.of(Cluster);
        assert_eq!(clusters.rejected.keys().map(|name| &**name).collect::<Vec<_>>(), ["w0321"]);
        assert_eq!(clusters.pending(proxy.stream.wanted().of(Cluster)), 0);
    }
}

#[test]
fn s19_many_bad_are_found_when_the_refusal_is_cut() {
    for variant in BOTH {
        let names: Vec<String> = (0..1000).map(|i| format!("w{i:04}@1")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut proxy = Proxy::new(variant, &snapshot(&names, &[], &[], &[]));
        let mut queue = proxy.ask(Cluster, &[]);
        let (mut resources, mut refused) = (0, Vec::new());
        while let Some(response) = queue.pop() {
            let bad: Vec<_> = response.resources.iter().filter(|r| r.name().ends_with('7')).collect();
            resources += bad.len();
            // It names thirty, and half of another.
            let mut words: Vec<_> = bad.iter().take(30).map(|r| format!("{}: bad", r.name())).collect();
            if let Some(next) = bad.get(30) {
                words.push(format!("{}...(truncated)", &next.name()[..4]));
            }
            if !bad.is_empty() {
                let payload: Vec<_> = response.resources.iter().map(|r| Arc::clone(r.name())).collect();
                assert!(!refused.contains(&payload), "the same again");
                refused.push(payload);
            }
            queue.extend(proxy.answer(&response, (!bad.is_empty()).then(|| words.join(", ")).as_deref()));
        }
        let clusters = proxy.stream.of(Cluster);
        assert_eq!(clusters.rejected.len(), 100);
        assert!(clusters.rejected.keys().all(|name| name.ends_with('7')));
        assert_eq!(clusters.pending(proxy.stream.wanted().of(Cluster)), 0);
        // All of them, then at most half of what is left, and so on: not all the rest each time.
        assert!(resources <= 100 + 70 + 35 + 35, "{resources}");
    }
}

#[test]
fn s19_what_is_refused_late_is_nothing_to_fall_back_to() {
    let wanted = |version: &str| snapshot(&[&format!("a@{version}"), "b@1"], &[], &[], &[]);
    let mut proxy = Proxy::started(Variant::Sotw, &wanted("1"));
    let second = proxy.want(&wanted("2"));
    proxy.want(&wanted("3"));
    let third = proxy.wait(PATIENCE);
    assert_eq!(trace(&third), ["cds: a@3 b@1"]);
    proxy.answer(&second[0], Some("a: bad"));
    proxy.answer(&third[0], Some("a: bad"));
    let came = proxy.want(&snapshot(&["a@3", "b@2"], &[], &[], &[]));
    assert_eq!(trace(&came), ["cds: a@1 b@2"]);
}

#[test]
fn groups_that_are_refused_again_while_they_wait_do_not_pile_up() {
    let mut proxy = Proxy::new(Variant::Delta, &snapshot(&["a@1", "b@1", "c@1", "d@1"], &[], &[], &[]));
    for _ in 0..100 {
        let came = proxy.ask(Cluster, &["a", "b", "c", "d"]);
        proxy.answer(&came[0], Some("no"));
    }
    assert!(proxy.stream.of(Cluster).suspended.len() <= 4);
}

#[test]
fn s19_filters_stay_at_their_last_good_version_while_a_cluster_is_refused() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["a@2"], &["a@1"], &["l@2"], &["x@2"]));
        assert!(proxy.ack(&came[1]).is_empty());
        assert!(proxy.answer(&came[0], Some("a: bad")).is_empty());
        // Endpoints go on, and so does what the proxy never had.
        let came = proxy.want(&snapshot(&["a@2"], &["a@2"], &["l@2"], &["x@2"]));
        assert_eq!(trace(&came), ["eds: a@2"]);
        proxy.ack(&came[0]);
        let came = proxy.want(&snapshot(&["a@2"], &["a@2"], &["l@2", "m@1"], &["x@2"]));
        let listeners = if variant == Variant::Sotw { "lds: l@1 m@1" } else { "lds: m@1" };
        assert_eq!(trace(&came), [listeners]);
        proxy.settle(came);
        let came = proxy.want(&snapshot(&["a@3"], &["a@2"], &["l@2", "m@1"], &["x@2"]));
        let came = trace(&proxy.settle(came));
        assert_eq!(came[..2], ["cds: a@3", "eds: a@2"]);
        assert_eq!(came.last().unwrap(), "ecds: x@2");
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn s19_a_refused_cluster_that_is_wanted_no_more_blocks_nothing() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &[], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["a@1", "b@1"], &[], &["l@1"], &["x@2"]));
        proxy.answer(&came[0], Some("b: bad"));
        let came = proxy.want(&snapshot(&["a@1"], &[], &["l@1"], &["x@3"]));
        assert_eq!(trace(&came), ["ecds: x@3"]);
        proxy.settle(came);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn s20_no_name_is_sent_twice_in_one_response() {
    let mut proxy = Proxy::new(Variant::Delta, &snapshot(&["a@1"], &[], &[], &[]));
    assert_eq!(trace(&proxy.ask(Cluster, &["*", "a", "a"])), ["cds: a@1"]);
    let mut proxy = Proxy::new(Variant::Sotw, &snapshot(&["a@1"], &[], &[], &[]));
    assert_eq!(trace(&proxy.ask(Cluster, &["*", "a", "a"])), ["cds: a@1"]);
}

#[test]
fn s22_clusters_that_a_refused_filter_no_longer_names_are_kept() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1", "b@1"], &[], &["l@1"], &["x@1"]));
        let came = proxy.want(&snapshot(&["b@1"], &[], &["l@1"], &["x@2"]));
        assert!(proxy.answer(&came[0], Some("no such module")).is_empty());
        assert!(proxy.wait(Duration::from_mins(1)).is_empty());
        let came = proxy.want(&snapshot(&["b@1"], &[], &["l@1"], &["x@3"]));
        assert_eq!(proxy.settle(came).len(), 2);
    }
}

#[test]
fn what_a_proxy_says_and_refuses_is_bounded_in_bytes() {
    // Each name is within the bound of names, and together they take more than a connection may.
    let name = |i: usize| format!("{i:06}{}", "n".repeat(1_000));
    let names = |range: std::ops::Range<usize>| range.map(name).collect::<Vec<_>>();
    let mut proxy = Proxy::started(Variant::Delta, &snapshot(&["a@1"], &[], &["l@1"], &["x@1"]));
    let mut ask = |asks| {
        let request = Request { kind: Endpoints, nonce: String::new(), error: None, asks };
        proxy.stream.on_request(request, proxy.now, SystemTime::now()).map(drop)
    };
    for step in 0..12 {
        ask(subscribe(&names(step * 1_000..(step + 1) * 1_000))).unwrap();
    }
    let none = Texts::default();
    let gone = names(0..12_000).iter().map(String::as_str).collect();
    ask(Asks::Change { subscribe: none.clone(), unsubscribe: gone, initial: none }).unwrap();
    let mut steps = (20..60).map(|step| ask(subscribe(&names(step * 1_000..(step + 1) * 1_000))));
    let taken = steps.by_ref().take_while(Result::is_ok).count();
    assert!((12..15).contains(&taken), "{taken}: what was dropped counts no more");

    // A refusal of each of many resources.
    let versions = |version: usize| (0..2_000).map(move |i| format!("w{i:04}@{version}"));
    let all: Vec<_> = versions(1).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let mut proxy = Proxy::new(Variant::Delta, &snapshot(&all, &[], &[], &[]));
    let mut queue = proxy.ask(Cluster, &[]);
    while let Some(response) = queue.pop() {
        let words = format!("{}: {}", response.resources[0].name(), "x".repeat(4_000));
        queue.extend(proxy.answer(&response, Some(&words)));
    }
    let rejected = &proxy.stream.of(Cluster).rejected;
    let words: HashMap<_, _> =
        rejected.values().map(|r| (Arc::as_ptr(&r.why), r.why.message.len())).collect();
    assert!(rejected.len() == 2_000 && words.values().sum::<usize>() < 1 << 20, "{}", words.len());
}
