//! (4) to (6) and (8): state of the world.

use std::time::Duration;

use crate::conformance::{Kind, Request, Suite, Variant, World};

/// (4) A request with a nonce that is not the latest gets no answer: the proxy will ask again when it has seen
/// the latest response.
pub async fn s04_a_stale_nonce_gets_no_answer(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b", "c"]);
        let mut client = run.subscribed(&["a"]).await;
        let stale = client.request(run.kind);
        run.change(&mut world, "a");
        client.expect(run.kind).await;
        let names = client.wire_names(run.kind, &["a", "b"]);
        client.send(Request { names, ..stale.clone() }).await;
        client.send(Request { error: Some("late".to_owned()), ..stale }).await;
        client.subscribe(run.kind, &["c"]).await;
        let answer = client.take(run.kind).await;
        assert!(answer.has("c") && !answer.has("b"), "`{}`", answer.in_short());
    }
}

/// (5) CDS and LDS responses carry everything that is asked for, changed or not; what is missing is gone.
pub async fn s05_clusters_and_listeners_carry_the_full_state(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::WHOLE) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut all = run.subscribed_to_all().await;
        let mut some = run.subscribed(&["a", "b"]).await;
        run.change(&mut world, "a");
        for client in [&mut all, &mut some] {
            assert_eq!(client.take(run.kind).await.names(), ["a", "b"]);
        }
        world.remove(run.kind, "b");
        run.show(&world);
        for client in [&mut all, &mut some] {
            assert_eq!(client.take(run.kind).await.names(), ["a"]);
        }
        world.add(run.kind, "c");
        run.show(&world);
        assert_eq!(all.take(run.kind).await.names(), ["a", "c"]);
        some.subscribe(run.kind, &["c"]).await;
        // On this stream the request may have been quicker than the change.
        let mut answer = some.take(run.kind).await;
        if answer.names() == ["a"] {
            answer = some.take(run.kind).await;
        }
        assert_eq!(answer.names(), ["a", "c"]);
    }
}

/// (5) For EDS and ECDS absence says nothing: what is gone is not mentioned, stays asked for, and is sent when it
/// is there again.
pub async fn s05_absent_endpoints_and_filters_stay_asked_for(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::NAMED) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a", "b"]).await;
        world.remove(run.kind, "b");
        run.change(&mut world, "a");
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
        world.add(run.kind, "b");
        run.change(&mut world, "b");
        assert!(client.take(run.kind).await.has("b"));
    }
}

/// (6) Names that are added are answered, though nothing changed.
pub async fn s06_added_names_are_sent_even_if_unchanged(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::ALL) {
        run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        client.subscribe(run.kind, &["b"]).await;
        let answer = client.take(run.kind).await;
        assert!(answer.has("b"));
        assert!(!run.kind.is_whole() || answer.has("a"), "a full state without `a`");
        client.unsubscribe(run.kind, &["b"]).await;
        client.subscribe(run.kind, &["b"]).await;
        loop {
            let answer = client.take(run.kind).await;
            assert!(answer.names().iter().all(|name| ["a", "b"].contains(name)));
            if answer.has("b") {
                break;
            }
        }
    }
}

/// (8) After a change of a cluster the proxy repeats its last request for endpoints, and waits: a request that is
/// no different from an acknowledgement has to be answered. Once the clusters are acknowledged it is one.
pub async fn s08_endpoints_are_sent_again_for_a_changed_cluster(suite: &Suite<'_>) {
    for run in suite.aggregated(&[Variant::Sotw]) {
        let mut world = World::of(Kind::Cluster, &["a", "b"]);
        run.begin(&world);
        let mut client = run.subscribed_to_all().await;
        client.subscribe(Kind::Endpoints, &world.names(Kind::Endpoints)).await;
        client.take(Kind::Endpoints).await;
        world.change(Kind::Cluster, "a");
        run.show(&world);
        let clusters = client.expect(Kind::Cluster).await;
        // The first answer may be one that was on its way already (14); then the second is to this.
        for _ in 0..2 {
            let again = client.request(Kind::Endpoints);
            client.send(again).await;
            assert!(client.take(Kind::Endpoints).await.has("a"));
        }
        client.ack(&clusters).await;
        let acknowledgement = client.request(Kind::Endpoints);
        client.send(acknowledgement).await;
        // A server may have answered both of the two above; no request can tell that from an answer to this one.
        let more = client.within(Duration::from_millis(50)).await;
        assert!(more.is_none_or(|response| response.kind == Kind::Endpoints && response.has("a")));
        client.fence().await;
    }
}
