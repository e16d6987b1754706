//! (17) to (19): what a proxy refuses.

use crate::conformance::{Client, Kind, Payload, Response, Service, Suite, Variant, World};

/// Refusals in a row; a few where the rule has been tried already.
const ROUNDS: usize = 50;

/// Refuses a response because of one resource, in words like those of proxies.
async fn refuse(client: &mut Client<'_>, response: &Response, name: &str) {
    client.nack(response, &refusal(client, response.kind, name)).await;
}

fn refusal(client: &Client<'_>, kind: Kind, name: &str) -> String {
    format!("Error adding/updating {}: malformed", client.wire_names(kind, &[name]).concat())
}

#[track_caller]
fn never_again(response: &Response, name: &str, refused: &Payload) {
    let again = response.resources.get(name).is_some_and(|payload| payload.body == refused.body);
    assert!(!again, "(19) refused and sent again: {name} in `{}`", response.in_short());
}

/// (17) A refusal is its `error_detail`, whatever version stands beside it, and without one it is none.
pub async fn s17_a_refusal_is_the_error_and_not_the_version(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::WHOLE) {
        for refuses in [true, false] {
            let mut world = run.begin_with(&["a", "b"]);
            let mut client = run.subscribed_to_all().await;
            run.change(&mut world, "a");
            let response = client.expect(run.kind).await;
            let changed = response.payload("a").clone();
            let mut answer = client.request(run.kind);
            assert_ne!(answer.version, response.version);
            if refuses {
                answer.version.clone_from(&response.version);
                answer.error = Some(refusal(&client, run.kind, "a"));
            }
            client.send(answer).await;
            run.change(&mut world, "b");
            let next = client.expect(run.kind).await;
            let has = next.resources.get("a").is_some_and(|payload| *payload == changed);
            assert_eq!(has, !refuses, "`{}`", next.in_short());
        }
    }
}

/// (17) A refused cluster is not there: a filter that names it does not follow (22) until the cluster is cured.
pub async fn s17_nothing_that_names_a_refused_cluster_follows_it(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a"]);
        world.add(Kind::Listener, "a");
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        world.add(Kind::Cluster, "b");
        run.show(&world);
        let clusters = proxy.client.expect(Kind::Cluster).await;
        let refused = clusters.payload("b").clone();
        refuse(&mut proxy.client, &clusters, "b").await;
        proxy.client.fence().await;
        world.change(Kind::Cluster, "b");
        run.show(&world);
        let filters = proxy.client.held(Kind::Extension);
        let came = proxy.until(|client| client.held(Kind::Extension) != filters).await;
        let kinds: Vec<_> = came.iter().map(|response| response.kind).collect();
        assert!(kinds.is_sorted(), "{kinds:?}");
        for response in came.iter().filter(|response| response.kind == Kind::Cluster) {
            never_again(response, "b", &refused);
        }
    }
}

/// (18) One resource of a response is bad, the others are not: they go on being sent, the bad one is not, and
/// its next version is.
pub async fn s18_a_refusal_is_about_one_resource(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b", "c"]);
        let mut client = run.subscribed(&["a", "b", "c"]).await;
        world.change(run.kind, "a");
        world.change(run.kind, "b");
        run.show(&world);
        let response = client.expect(run.kind).await;
        let refused = response.payload("a").clone();
        refuse(&mut client, &response, "a").await;
        // The others may be said again, since who refuses has perhaps taken none of them.
        for name in ["b", "c"] {
            let before = client.held(run.kind);
            run.change(&mut world, name);
            while client.held(run.kind).get(name) == before.get(name) {
                never_again(&client.take(run.kind).await, "a", &refused);
            }
        }
        run.change(&mut world, "a");
        let cured = client.take(run.kind).await;
        assert!(cured.has("a"));
        never_again(&cured, "a", &refused);
    }
}

/// (18) A new resource that is refused does not keep the others of its response away.
pub async fn s18_the_others_of_a_refused_response_are_there(suite: &Suite<'_>) {
    for run in suite.runs(&[Variant::Sotw], &Kind::WHOLE) {
        let mut world = run.begin_with(&["a"]);
        let mut client = run.subscribed_to_all().await;
        world.add(run.kind, "b");
        world.add(run.kind, "c");
        run.show(&world);
        let response = client.expect(run.kind).await;
        let refused = response.payload("b").clone();
        refuse(&mut client, &response, "b").await;
        run.change(&mut world, "a");
        let next = client.take(run.kind).await;
        never_again(&next, "b", &refused);
        assert!(next.has("a") && next.has("c"), "`{}`", next.in_short());
    }
}

/// (18) A new cluster that came with one that was refused is not bad: once the other is cured, the filter that
/// names it follows.
pub async fn s18_a_good_cluster_is_named_once_the_bad_one_is_cured(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a"]);
        world.add(Kind::Listener, "a");
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        world.change(Kind::Cluster, "a");
        world.add(Kind::Cluster, "b");
        run.show(&world);
        let filters = proxy.client.held(Kind::Extension);
        let clusters = proxy.client.expect(Kind::Cluster).await;
        assert!(clusters.has("a") && clusters.has("b"));
        refuse(&mut proxy.client, &clusters, "a").await;
        world.change(Kind::Cluster, "a");
        run.show(&world);
        proxy.until(|client| client.held(Kind::Extension) != filters).await;
    }
}

/// (19) What was refused is not sent again until it changes, through fifty rounds of other changes that are
/// refused, too: as many responses come as there are changes.
pub async fn s19_a_refused_payload_is_never_sent_again(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let thorough = run.kind == Kind::Endpoints && run.channel.service == Service::Aggregated;
        let rounds = if thorough { ROUNDS } else { ROUNDS / 20 };
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a", "b"]).await;
        run.change(&mut world, "a");
        let response = client.expect(run.kind).await;
        let mut refused = vec![("a", response.payload("a").clone())];
        refuse(&mut client, &response, "a").await;
        for _ in 0..rounds {
            run.change(&mut world, "b");
            let next = client.expect(run.kind).await;
            for (name, payload) in &refused {
                never_again(&next, name, payload);
            }
            refused.push(("b", next.payload("b").clone()));
            refuse(&mut client, &next, "b").await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        client.fence().await;
        run.change(&mut world, "a");
        let cured = client.take(run.kind).await;
        assert!(cured.has("a"));
        for (name, payload) in &refused {
            never_again(&cured, name, payload);
        }
    }
}

/// (19) The same when the refusal does not say what it is about.
pub async fn s19_a_refusal_without_a_name_is_no_loop_either(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a", "b"]).await;
        run.change(&mut world, "a");
        let response = client.expect(run.kind).await;
        let refused = response.payload("a").clone();
        client.nack(&response, "malformed").await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        client.fence().await;
        run.change(&mut world, "b");
        let next = client.take(run.kind).await;
        assert!(next.has("b"));
        never_again(&next, "a", &refused);
    }
}
