//! (1) to (3): what a stream begins with, and what its nonces are about.

use crate::conformance::{
    Client, Kind, Memory, Payload, Proxy, Request, Run, Suite, Variant, World, has_all,
};

/// (1) Only the first request surely carries the node; all others are answered without it, and with it.
pub async fn s01_the_node_comes_with_the_first_request_alone(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        client.subscribe(run.kind, &["b"]).await;
        assert!(client.take(run.kind).await.has("b"));

        let mut talkative = run.connect().await;
        for name in ["a", "b"] {
            talkative.set_node(Some(run.subject.node()));
            talkative.subscribe(run.kind, &[name]).await;
            talkative.set_node(Some(run.subject.node()));
            assert!(talkative.take(run.kind).await.has(name));
        }
    }
    for run in suite.aggregated(&Variant::BOTH) {
        run.begin_with(&["a"]);
        let mut client = run.connect().await;
        for kind in [Kind::Cluster, Kind::Endpoints] {
            client.subscribe(kind, &["a"]).await;
            assert!(client.take(kind).await.has("a"), "a second type is answered without a node");
        }
    }
}

/// (2) A proxy asks for clusters, for their endpoints, and for listeners only once both are there: it gets each,
/// though it acknowledges the clusters only after their endpoints came (14).
pub async fn s02_a_starting_proxy_gets_everything_in_its_order(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a", "b"]);
        world.add(Kind::Listener, "a");
        run.begin(&world);
        let mut proxy = Proxy::start(run.connect().await).await;
        let came = proxy.until(|client| has_all(client, &world)).await;
        let kinds: Vec<_> = came.iter().map(|response| response.kind).collect();
        assert!(kinds.is_sorted(), "{kinds:?}");
        for kind in Kind::ALL {
            assert!(proxy.client.held(kind).keys().eq(world.names(kind)), "{kind} is not the world's");
        }
    }
}

/// (3) Nonces are those of a type: however many responses another type has had since, an old nonce of this type
/// is its latest.
pub async fn s03_nonces_belong_to_a_type(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        client.subscribe(Kind::Endpoints, &["a"]).await;
        client.take(Kind::Endpoints).await;
        for _ in 0..5 {
            world.change(Kind::Endpoints, "a");
            run.show(&world);
            client.take(Kind::Endpoints).await;
        }
        client.subscribe(Kind::Cluster, &["b"]).await;
        assert!(client.take(Kind::Cluster).await.has("b"));
        world.change(Kind::Endpoints, "a");
        run.show(&world);
        assert!(client.take(Kind::Endpoints).await.has("a"));
    }
}

/// (3) Nonces are those of a stream: what one client answers is nothing to another, and a new stream begins anew.
pub async fn s03_nonces_belong_to_a_stream(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut first = run.subscribed(&["a"]).await;
        for _ in 0..3 {
            run.change(&mut world, "a");
            first.take(run.kind).await;
        }
        let mut second = run.subscribed(&["a"]).await;
        run.change(&mut world, "a");
        for client in [&mut first, &mut second] {
            assert!(client.take(run.kind).await.has("a"));
        }
        for client in [&mut second, &mut first] {
            client.subscribe(run.kind, &["b"]).await;
            assert!(client.take(run.kind).await.has("b"));
        }
    }
}

/// (3) After a reconnect the first request has no nonce and says what the proxy has: an old version is answered
/// with what it lacks, and the current one at least with every later change. Delta has more to say: (13).
pub async fn s03_a_reconnect_is_told_what_changed_since(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::ALL) {
        let mut world = run.begin_with(&["a"]);
        let names = if run.kind.is_whole() { &[][..] } else { &["a"] };
        let client =
            if run.kind.is_whole() { run.subscribed_to_all().await } else { run.subscribed(names).await };
        let (before, memory) = (client.held(run.kind), client.memory());
        drop(client);
        world.change(run.kind, "a");
        run.begin(&world);

        let mut late = run.connect().await;
        late.resume(run.kind, names, &memory).await;
        let now = late.take(run.kind).await.payload("a").clone();
        assert_ne!(before.get("a"), Some(&now), "an old version is not the current one");
        let memory = late.memory();
        drop(late);

        let mut current = run.connect().await;
        current.resume(run.kind, names, &memory).await;
        let after = changed_after(&mut current, &run, &mut world).await;
        assert_ne!(after, now);
    }
}

/// The resource `a` after a change that is shown now, whether or not the first request is answered before.
async fn changed_after(client: &mut Client<'_>, run: &Run<'_>, world: &mut World) -> Payload {
    let before = client.held(run.kind);
    run.change(world, "a");
    loop {
        let response = client.take(run.kind).await;
        let now = response.payload("a");
        if before.get("a") != Some(now) {
            return now.clone();
        }
    }
}

/// (3) A nonce of an earlier stream is none of the new one's; delta honours what else such a request says (9).
pub async fn s03_a_nonce_does_not_outlive_its_stream(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Delta], &Kind::ALL) {
        run.begin_with(&["a"]);
        let mut client = run.subscribed(&["a"]).await;
        let nonce = client.request(run.kind).nonce;
        drop(client);
        let mut client = run.connect().await;
        client.resume(run.kind, &[], &Memory::default()).await;
        let subscribe = client.wire_names(run.kind, &["a"]);
        let type_url = run.kind.url().to_owned();
        client.send(Request { type_url, nonce, subscribe, ..Request::default() }).await;
        super::until_has(&mut client, run.kind, "a").await;
    }
}
