//! (7): when a client is sent everything.

use crate::conformance::{Kind, Suite, Variant};

use super::until_has;

/// (7) CDS and LDS are asked for by a first request without names. It stands for everything, also for what comes
/// later.
pub async fn s07_an_empty_first_request_is_everything(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::WHOLE) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.connect().await;
        client.ask_all(run.kind).await;
        assert_eq!(client.take(run.kind).await.names(), ["a", "b"]);
        world.add(run.kind, "c");
        run.show(&world);
        let answer = client.take(run.kind).await;
        let whole = run.channel.variant == Variant::Sotw;
        assert_eq!(answer.names(), if whole { &["a", "b", "c"][..] } else { &["c"] });
    }
}

/// (7) After names, no names are nothing.
pub async fn s07_no_names_after_names_are_nothing(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::WHOLE) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        client.unsubscribe(run.kind, &["a"]).await;
        run.change(&mut world, "a");
        client.subscribe(run.kind, &["b"]).await;
        assert_eq!(until_has(&mut client, run.kind, "b").await.names(), ["b"]);
        run.change(&mut world, "a");
        run.change(&mut world, "b");
        assert_eq!(client.take(run.kind).await.names(), ["b"]);
    }
}

/// (7) `*` stands for everything until it is dropped, and names beside it stay when it is.
pub async fn s07_the_wildcard_comes_and_goes_beside_names(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::WHOLE) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.connect().await;
        client.subscribe(run.kind, &["*"]).await;
        assert_eq!(client.take(run.kind).await.names(), ["a", "b"]);
        client.subscribe(run.kind, &["a"]).await;
        assert!(client.take(run.kind).await.has("a"));
        run.change(&mut world, "b");
        assert!(client.take(run.kind).await.has("b"), "names beside the wildcard do not end it");

        client.unsubscribe(run.kind, &["*"]).await;
        // Nothing may follow from that; what is asked for next must.
        client.subscribe(run.kind, &["fence-1"]).await;
        loop {
            let answer = client.take(run.kind).await;
            assert!(!answer.has("b"), "`{}`", answer.in_short());
            if answer.has("fence-1") {
                break;
            }
        }
        run.change(&mut world, "b");
        run.change(&mut world, "a");
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
    }
}

/// (7) In delta a proxy adds names without `*` and goes on relying on its first, empty request.
pub async fn s07_delta_names_leave_the_legacy_wildcard(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::WHOLE) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed_to_all().await;
        client.subscribe(run.kind, &["a"]).await;
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
        run.change(&mut world, "b");
        assert_eq!(client.take(run.kind).await.names(), ["b"]);
        world.add(run.kind, "c");
        run.show(&world);
        assert_eq!(client.take(run.kind).await.names(), ["c"]);
    }
}

/// (7) No other type has a legacy wildcard: asked for nothing, nothing is sent.
pub async fn s07_other_types_are_asked_for_by_name(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::NAMED) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.connect().await;
        client.ask_all(run.kind).await;
        client.subscribe(run.kind, &["a"]).await;
        assert_eq!(until_has(&mut client, run.kind, "a").await.names(), ["a"]);
        run.change(&mut world, "b");
        run.change(&mut world, "a");
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
    }
}
