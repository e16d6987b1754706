//! (9) to (13): delta.

use crate::conformance::{Kind, Request, Response, Suite, Variant, World};

/// Types whose absence may be said; a filter's configuration never is (16).
const REMOVABLE: [Kind; 3] = [Kind::Cluster, Kind::Endpoints, Kind::Listener];

/// (9) A nonce only says which response is answered: what else a request asks for counts, however old its nonce.
pub async fn s09_subscriptions_count_even_with_a_stale_nonce(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b", "c", "d"]);
        let mut client = run.subscribed(&["a"]).await;
        let stale = client.request(run.kind);
        run.change(&mut world, "a");
        let latest = client.expect(run.kind).await;
        for (nonce, error, name) in [
            (&stale.nonce, None, "b"),
            (&"never-sent".to_owned(), None, "c"),
            (&latest.nonce, Some("a: no".to_owned()), "d"),
        ] {
            let subscribe = client.wire_names(run.kind, &[name]);
            client.send(Request { nonce: nonce.clone(), error, subscribe, ..stale.clone() }).await;
            assert_eq!(client.take(run.kind).await.names(), [name]);
        }
    }
}

/// (10) A name that is asked for again is sent again, though it is current: the proxy may have dropped it.
pub async fn s10_a_name_asked_for_again_is_sent_again(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::ALL) {
        run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a", "b"]).await;
        for _ in 0..3 {
            client.subscribe(run.kind, &["a"]).await;
            assert_eq!(client.take(run.kind).await.names(), ["a"]);
        }
        client.unsubscribe(run.kind, &["a"]).await;
        client.subscribe(run.kind, &["a"]).await;
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
    }
    for run in suite.runs(&[Variant::Delta], &Kind::WHOLE) {
        run.begin_with(&["a", "b"]);
        let mut client = run.subscribed_to_all().await;
        for _ in 0..2 {
            client.subscribe(run.kind, &["a"]).await;
            assert_eq!(client.take(run.kind).await.names(), ["a"], "under the wildcard");
        }
    }
}

/// (11) A name that does not exist is answered in `removed_resources`, and sent once it exists.
pub async fn s11_an_absent_name_is_answered_and_stays_asked_for(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &REMOVABLE) {
        for wildcard in [false, true] {
            if wildcard && !run.kind.is_whole() {
                continue;
            }
            let mut world = run.begin_with(&["a"]);
            let mut client = if wildcard { run.subscribed_to_all().await } else { run.connect().await };
            client.subscribe(run.kind, &["missing"]).await;
            let answer = client.take(run.kind).await;
            assert_eq!((answer.names(), answer.removed()), (vec![], vec!["missing"]));
            for _ in 0..2 {
                world.add(run.kind, "missing");
                run.show(&world);
                assert_eq!(client.take(run.kind).await.names(), ["missing"]);
                if !run.kind.is_whole() {
                    break;
                }
                world.remove(run.kind, "missing");
                run.show(&world);
                let answer = client.take(run.kind).await;
                assert_eq!((answer.names(), answer.removed()), (vec![], vec!["missing"]));
            }
        }
    }
}

/// (12) Who drops a name under the wildcard has to be told whether it is still to be had.
pub async fn s12_a_name_dropped_under_the_wildcard_is_answered(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::WHOLE) {
        let mut world = run.begin_with(&["a"]);
        let mut client = run.subscribed_to_all().await;
        client.subscribe(run.kind, &["a", "missing"]).await;
        let answer = client.take(run.kind).await;
        assert_eq!((answer.names(), answer.removed()), (vec!["a"], vec!["missing"]));
        client.unsubscribe(run.kind, &["a"]).await;
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
        client.unsubscribe(run.kind, &["missing"]).await;
        assert_eq!(client.take(run.kind).await.removed(), ["missing"]);
        run.change(&mut world, "a");
        assert_eq!(client.take(run.kind).await.names(), ["a"], "the wildcard still holds");
    }
}

/// (12) Dropping a name that was never asked for says and changes nothing.
pub async fn s12_unknown_unsubscribes_are_ignored(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        client.unsubscribe(run.kind, &["b", "missing"]).await;
        client.fence().await;
        run.change(&mut world, "a");
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
    }
    for run in suite.runs(&[Variant::Delta], &Kind::WHOLE) {
        let mut world = run.begin_with(&["a"]);
        let mut client = run.subscribed_to_all().await;
        client.unsubscribe(run.kind, &["a", "missing"]).await;
        client.fence().await;
        run.change(&mut world, "a");
        assert_eq!(client.take(run.kind).await.names(), ["a"], "under the wildcard");
    }
}

/// (12) What is not asked for any more is not sent any more.
pub async fn s12_a_dropped_name_is_not_sent(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a", "b"]).await;
        client.unsubscribe(run.kind, &["a"]).await;
        client.fence().await;
        run.change(&mut world, "a");
        run.change(&mut world, "b");
        assert_eq!(client.take(run.kind).await.names(), ["b"]);
    }
}

/// (13) Who reconnects and says what it has is sent the differences and the removals, and nothing if there are none.
pub async fn s13_a_reconnect_gets_only_the_differences(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b", "gone"]);
        let names = if run.kind.is_whole() { &[][..] } else { &["a", "b", "gone"] };
        let client =
            if run.kind.is_whole() { run.subscribed_to_all().await } else { run.subscribed(names).await };
        let memory = client.memory();
        drop(client);
        let mut unchanged = run.connect().await;
        unchanged.resume(run.kind, names, &memory).await;
        unchanged.fence().await;
        drop(unchanged);

        world.remove(run.kind, "gone");
        world.change(run.kind, "b");
        run.begin(&world);
        let mut client = run.connect().await;
        client.resume(run.kind, names, &memory).await;
        // One response, or the removals in another.
        let mut removal = run.kind != Kind::Extension;
        let mut change = true;
        while change || removal {
            let answer = client.take(run.kind).await;
            assert!(answer.names().iter().all(|name| *name == "b"), "`{}`", answer.in_short());
            assert!(answer.removed().iter().all(|name| *name == "gone"), "`{}`", answer.in_short());
            change &= !answer.has("b");
            removal &= answer.removed.is_empty();
        }
        client.fence().await;
    }
}

/// (13) The same with all types: a removed cluster goes only after the filter that named it has changed (22).
pub async fn s13_a_proxy_that_reconnects_gets_only_the_differences(suite: &Suite<'_>) {
    for run in suite.aggregated(&[Variant::Delta]) {
        let mut world = World::of(Kind::Cluster, &["a", "b", "gone"]);
        world.add(Kind::Listener, "a");
        run.begin(&world);
        let proxy = run.proxy(&world).await;
        let memory = proxy.client.memory();
        let names = Kind::ALL.map(|kind| (kind, proxy.client.names(kind)));
        drop(proxy);
        world.remove(Kind::Cluster, "gone");
        world.change(Kind::Endpoints, "b");
        run.begin(&world);

        let mut client = run.connect().await;
        for (kind, names) in &names {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            client.resume(*kind, &names, &memory).await;
        }
        let mut came = Vec::new();
        while client.holds(Kind::Cluster, "gone") {
            let response = client.expect_any().await;
            client.ack(&response).await;
            came.push(response);
        }
        let at = |kind| came.iter().position(|response| response.kind == kind);
        let trace: Vec<_> = came.iter().map(Response::in_short).collect();
        assert!(at(Kind::Extension) < at(Kind::Cluster), "{trace:?}");
        assert!(at(Kind::Listener).is_none(), "{trace:?}");
        for response in &came {
            assert!(response.kind == Kind::Extension || !response.has("a"), "{trace:?}");
        }
        assert!(
            trace.contains(&"eds: b".to_owned()) || trace.contains(&"eds: b -gone".to_owned()),
            "{trace:?}"
        );
    }
}
