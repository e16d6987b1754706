//! (14) to (16) and (22): what comes before what, and what is never taken away.

use std::time::Duration;

use crate::Stopwatch;
use crate::conformance::{Client, Kind, Proxy, Response, Suite, Variant, World};

/// Far less than the 15 s that a proxy waits for endpoints, and far more than a push takes.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Two clusters, and a listener whose filter names both.
fn world() -> World {
    let mut world = World::of(Kind::Cluster, &["a", "b"]);
    world.add(Kind::Listener, "a");
    world
}

fn trace(came: &[Response]) -> Vec<String> {
    came.iter().map(Response::in_short).collect()
}

/// The first response of this type that holds for `wanted`.
#[track_caller]
fn first(came: &[Response], kind: Kind, wanted: impl Fn(&Response) -> bool) -> usize {
    let found = came.iter().position(|response| response.kind == kind && wanted(response));
    found.unwrap_or_else(|| panic!("no such response of {kind} in {:?}", trace(came)))
}

/// (14) A proxy does not acknowledge a changed cluster before it has seen its endpoints: they follow at once,
/// unchanged and unasked.
pub async fn s14_endpoints_follow_a_changed_cluster_at_once(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a", "b"]);
        run.begin(&world);
        let mut client = run.subscribed_to_all().await;
        client.subscribe(Kind::Endpoints, &world.names(Kind::Endpoints)).await;
        client.take(Kind::Endpoints).await;
        world.change(Kind::Cluster, "a");
        run.show(&world);
        let clusters = client.expect(Kind::Cluster).await;
        let watch = Stopwatch::start();
        let endpoints = client.take(Kind::Endpoints).await;
        assert!(endpoints.has("a") && watch.undisturbed() < AT_ONCE, "after {:?}", watch.elapsed());
        client.ack(&clusters).await;
        client.fence().await;
    }
}

/// (14) The endpoints of a new cluster are asked for, and sent without waiting for the cluster's acknowledgement.
pub async fn s14_endpoints_of_a_new_cluster_do_not_wait_for_its_acknowledgement(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a"]);
        run.begin(&world);
        let mut client = run.connect().await;
        client.ask_all(Kind::Cluster).await;
        let mut unanswered = vec![client.expect(Kind::Cluster).await];
        client.subscribe(Kind::Endpoints, &["a", "fence-1", "fence-2"]).await;
        assert!(client.take(Kind::Endpoints).await.has("a"));
        client.ack(&unanswered.remove(0)).await;

        world.add(Kind::Cluster, "b");
        run.show(&world);
        unanswered.push(client.expect(Kind::Cluster).await);
        client.subscribe(Kind::Endpoints, &["b"]).await;
        let watch = Stopwatch::start();
        assert!(client.take(Kind::Endpoints).await.has("b"));
        assert!(watch.undisturbed() < AT_ONCE, "after {:?}", watch.elapsed());
    }
}

/// (15) Taking endpoints away does not empty a cluster: it is never done while the proxy has the cluster.
pub async fn s15_endpoints_are_not_taken_from_a_cluster_that_is_there(suite: &Suite<'_>) {
    for run in suite.aggregated(&[Variant::Delta]) {
        let mut world = world();
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        let before = proxy.client.held(Kind::Cluster);
        world.cluster("a").resolved = true;
        run.show(&world);
        let gone = |response: &Response, name: &str| response.removed.contains(name);
        let changed = |client: &Client<'_>| client.held(Kind::Cluster).get("a") != before.get("a");
        let came = proxy.until(changed).await;
        assert!(!came.iter().any(|response| gone(response, "a")), "{:?}", trace(&came));

        world.remove(Kind::Cluster, "b");
        run.show(&world);
        let came = proxy.until(|client| !client.holds(Kind::Cluster, "b")).await;
        let endpoints = came.iter().position(|r| r.kind == Kind::Endpoints && gone(r, "b"));
        let cluster = first(&came, Kind::Cluster, |response| gone(response, "b"));
        assert!(endpoints.is_none_or(|at| at > cluster), "{:?}", trace(&came));
    }
}

/// (16) A filter's configuration is never taken away: one that exists no more, or never did, is not mentioned.
pub async fn s16_filter_configuration_is_never_removed(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &[Kind::Extension]) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a", "b"]).await;
        world.remove(run.kind, "a");
        run.change(&mut world, "b");
        assert_eq!(client.take(run.kind).await.names(), ["b"]);
        client.subscribe(run.kind, &["missing"]).await;
        client.fence().await;
        world.add(run.kind, "missing");
        run.show(&world);
        assert_eq!(client.take(run.kind).await.names(), ["missing"]);
    }
}

/// (22) New clusters and their endpoints come before the filter that names them; old clusters go after it.
pub async fn s22_make_before_break(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = world();
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        world.add(Kind::Cluster, "c");
        world.remove(Kind::Cluster, "b");
        world.add(Kind::Listener, "c");
        run.show(&world);
        let done =
            |client: &Client<'_>| client.holds(Kind::Extension, "c") && !client.holds(Kind::Cluster, "b");
        let came = proxy.until(done).await;
        let made = first(&came, Kind::Cluster, |response| response.has("c"));
        let filled = first(&came, Kind::Endpoints, |response| response.has("c"));
        let named = first(&came, Kind::Extension, |response| response.has("a"));
        let listened = first(&came, Kind::Listener, |response| response.has("c"));
        let broken = came.iter().rposition(|response| response.kind == Kind::Cluster);
        let order = made < filled && filled < named && filled < listened && Some(named) < broken;
        assert!(order, "{:?}", trace(&came));
        assert!(
            broken > came.iter().rposition(|response| response.kind == Kind::Extension),
            "{:?}",
            trace(&came)
        );
        if run.channel.variant == Variant::Sotw {
            let kept = came.get(made).is_some_and(|response| response.has("b"));
            assert!(kept, "a cluster that is still named is missing in {:?}", trace(&came));
        }
    }
}

/// (22) A cluster goes only when the filters that no longer name it are acknowledged, and stays when they are
/// refused.
pub async fn s22_a_cluster_stays_until_what_named_it_is_acknowledged(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        for refused in [false, true] {
            let mut world = world();
            run.begin(&world);
            let mut proxy = run.proxy(&world).await;
            world.remove(Kind::Cluster, "b");
            run.show(&world);
            let filters = filter_of_a(&mut proxy).await;
            proxy.client.fence().await;
            if refused {
                let name = proxy.client.wire_names(Kind::Extension, &["a"]).concat();
                proxy.client.nack(&filters, &format!("{name}: no")).await;
                // The other filters of the response may be said again (18).
                let came = proxy.client.until_fence().await;
                let others = came.iter().all(|r| r.kind == Kind::Extension && !r.has("a"));
                assert!(others, "{:?}", trace(&came));
                assert!(proxy.client.holds(Kind::Cluster, "b"));
                world.change(Kind::Extension, "a");
                run.show(&world);
            } else {
                proxy.client.ack(&filters).await;
            }
            let came = proxy.until(|client| !client.holds(Kind::Cluster, "b")).await;
            if refused {
                let cured = first(&came, Kind::Extension, |response| response.has("a"));
                let broken = came.iter().rposition(|response| response.kind == Kind::Cluster);
                assert!(Some(cured) < broken, "{:?}", trace(&came));
            }
        }
    }
}

/// The response that brings the filter of `a`, not answered yet.
async fn filter_of_a(proxy: &mut Proxy<'_>) -> Response {
    loop {
        let (response, before) = proxy.next().await;
        assert!(proxy.client.holds(Kind::Cluster, "b"), "`{}` takes b away", response.in_short());
        if response.kind == Kind::Extension && response.has("a") {
            return response;
        }
        proxy.answer(&response, &before).await;
    }
}

/// (22) Asked for everything at once, a server sends clusters, endpoints, listeners and filters in this order.
pub async fn s22_the_first_answers_come_in_order(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let world = world();
        run.begin(&world);
        let mut client = run.connect().await;
        client.ask_all(Kind::Cluster).await;
        client.subscribe(Kind::Endpoints, &world.names(Kind::Endpoints)).await;
        client.ask_all(Kind::Listener).await;
        client.subscribe(Kind::Extension, &world.names(Kind::Extension)).await;
        for kind in Kind::ALL {
            client.take(kind).await;
        }
        client.fence().await;
    }
}

/// (22) A proxy holds its question for clusters back while one warms, on a new stream too, where it asks for all else at once:
/// new filters and listeners wait until it has asked for clusters and acknowledged them.
pub async fn s22_a_reconnect_gets_filters_after_it_asked_for_clusters(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = world();
        run.begin(&world);
        let proxy = run.proxy(&world).await;
        let memory = proxy.client.memory();
        drop(proxy);
        world.add(Kind::Cluster, "c");
        world.add(Kind::Listener, "c");
        run.begin(&world);
        let mut client = run.connect().await;
        client.resume(Kind::Endpoints, &memory.names(Kind::Endpoints), &memory).await;
        if run.channel.variant == Variant::Sotw {
            client.take(Kind::Endpoints).await;
        }
        client.resume(Kind::Listener, &[], &memory).await;
        client.resume(Kind::Extension, &memory.names(Kind::Extension), &memory).await;
        client.fence().await;

        client.resume(Kind::Cluster, &[], &memory).await;
        let clusters = client.expect(Kind::Cluster).await;
        assert!(clusters.has("c"));
        client.subscribe(Kind::Endpoints, &["c"]).await;
        while !client.holds(Kind::Endpoints, "c") {
            client.take(Kind::Endpoints).await;
        }
        client.ack(&clusters).await;
        while !(client.holds(Kind::Listener, "c")
            && client.held(Kind::Extension) != memory.held(Kind::Extension))
        {
            let response = client.expect_any().await;
            client.ack(&response).await;
        }
    }
}

/// (22) Changes that never rest, each of which adds a cluster, hold filters back no longer than one change alone.
pub async fn s22_changes_that_never_rest_do_not_hold_filters_back(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = world();
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        let mut came: Vec<Response> = Vec::new();
        for change in 0..20 {
            world.add(Kind::Cluster, &format!("more-{change}"));
            world.change(Kind::Extension, "a");
            run.show(&world);
            let (response, before) = proxy.next().await;
            // The next change is there before the server hears of this acknowledgement.
            world.add(Kind::Cluster, &format!("even-more-{change}"));
            run.show(&world);
            proxy.answer(&response, &before).await;
            came.push(response);
        }
        let filters = came.iter().filter(|response| response.kind == Kind::Extension).count();
        assert!(filters >= 3, "{:?}", trace(&came));
    }
}
