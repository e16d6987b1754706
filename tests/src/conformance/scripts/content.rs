//! (20), (21) and (23) to (27): what is in a response, and when there is none.
//!
//! (20), (21) and (24) are checked on every response of every script; here are the requests that provoke faults.

use std::time::Duration;

use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Request as GrpcRequest};
use tonic_prost::ProstCodec;

use crate::conformance::{Kind, Request, SOON, Service, Suite, Variant, World};

const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const SCOPED_ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";

/// (20) However often a name is asked for, it is in a response once.
pub async fn s20_no_name_is_twice_in_a_response(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let twice = if run.kind.is_whole() { &["*", "a", "a", "b"][..] } else { &["a", "a", "b"] };
        let mut client = run.connect().await;
        let names = client.wire_names(run.kind, twice);
        let request = client.request(run.kind);
        client.send(Request { names: names.clone(), subscribe: names, ..request }).await;
        client.note(run.kind, twice);
        let answer = client.take(run.kind).await;
        assert_eq!(answer.names(), ["a", "b"]);
        run.change(&mut world, "a");
        let names = client.wire_names(run.kind, twice);
        let request = client.request(run.kind);
        client.send(Request { names: names.clone(), subscribe: names, ..request }).await;
        while client.held(run.kind).get("a") == answer.resources.get("a") {
            client.take(run.kind).await;
        }
    }
}

/// (21) The name beside a resource is the name in it; in state of the world there is only the latter.
pub async fn s21_names_are_those_inside(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        run.begin_with(&["a", "b"]);
        let client = run.subscribed(&["a", "b"]).await;
        for (name, payload) in client.held(run.kind) {
            let inside = run.kind.name_inside(&payload.body).expect("checked when it came");
            assert_eq!(run.subject.script_name(run.kind, &inside), Some(name));
        }
    }
}

/// (23) Nothing is sent when nothing changed: not for an acknowledgement, not for a world shown again, and not
/// for a change of what this client did not ask for.
pub async fn s23_nothing_is_sent_when_nothing_changed(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        client.fence().await;
        run.show(&world);
        run.change(&mut world, "b");
        run.show(&world);
        run.change(&mut world, "a");
        let next = client.take(run.kind).await;
        assert!(next.has("a") && !next.has("b"), "`{}`", next.in_short());
    }
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a"]);
        world.add(Kind::Listener, "a");
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        proxy.client.fence().await;
        run.show(&world);
        world.change(Kind::Endpoints, "a");
        run.show(&world);
        assert_eq!(proxy.client.take(Kind::Endpoints).await.names(), ["a"]);
        proxy.client.fence().await;
    }
}

/// (24) Only a heartbeat may come without a body: what is new, has changed or is asked for again has one.
pub async fn s24_what_is_no_heartbeat_has_a_body(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        let mut world = run.begin_with(&["a", "b"]);
        let mut client = run.subscribed(&["a"]).await;
        let bodies = client.held(run.kind);
        assert!(bodies.values().all(|new| !new.body.is_empty()));
        run.change(&mut world, "a");
        let changed = client.take(run.kind).await.payload("a").clone();
        // Who asks again may have lost it, in the very version that it was sent.
        match run.channel.variant {
            Variant::Delta => client.subscribe(run.kind, &["a"]).await,
            Variant::Sotw => {
                client.change(run.kind, &["b"], &["a"]).await;
                client.take(run.kind).await;
                client.subscribe(run.kind, &["a"]).await;
            }
        }
        let again = client.take(run.kind).await.payload("a").clone();
        assert!(!changed.body.is_empty());
        assert_eq!(again.body, changed.body);
    }
}

/// (25) A change of a filter is a filter's alone: no listener, which would drain, and no cluster.
pub async fn s25_a_filter_changes_by_itself(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a"]);
        world.add(Kind::Listener, "a");
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        for kind in [Kind::Extension, Kind::Endpoints] {
            world.change(kind, "a");
            run.show(&world);
            assert_eq!(proxy.client.take(kind).await.names(), ["a"]);
            proxy.client.fence().await;
        }
        world.change(Kind::Listener, "a");
        run.show(&world);
        assert!(proxy.client.take(Kind::Listener).await.has("a"));
        proxy.client.fence().await;
    }
}

/// (25) A listener warms until its filter is there: asked for, it is sent, and to a proxy that had it before.
pub async fn s25_the_filter_of_a_new_listener_is_sent_when_asked_for(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = World::of(Kind::Cluster, &["a"]);
        run.begin(&world);
        let mut proxy = run.proxy(&world).await;
        world.add(Kind::Listener, "a");
        run.show(&world);
        let came = proxy.until(|client| client.holds(Kind::Extension, "a")).await;
        let kinds: Vec<_> = came.iter().map(|response| response.kind).collect();
        assert_eq!(kinds, [Kind::Listener, Kind::Extension]);
    }
}

/// (26) Secrets, runtime settings and types of the future are ordinary: who does not serve them ignores them.
pub async fn s26_other_types_do_not_end_the_stream(suite: &Suite<'_>) {
    for run in suite.aggregated(&Variant::BOTH) {
        let mut world = run.begin_with(&["a"]);
        let mut client = run.connect().await;
        for type_url in [ROUTES, SCOPED_ROUTES, "type.googleapis.com/of.the.Future"] {
            for name in ["*", "a"] {
                let (names, type_url) = (vec![name.to_owned()], type_url.to_owned());
                let request =
                    Request { type_url, names: names.clone(), subscribe: names, ..Request::default() };
                client.send(request).await;
            }
        }
        client.subscribe(run.kind, &["a"]).await;
        client.take(run.kind).await;
        run.change(&mut world, "a");
        client.take(run.kind).await;
    }
}

/// (26) On a service of one type the type is implied.
pub async fn s26_a_service_of_one_type_needs_no_type(suite: &Suite<'_>) {
    for run in suite.runs(&Variant::BOTH, &Kind::ALL) {
        if run.channel.service == Service::Aggregated {
            continue;
        }
        run.begin_with(&["a"]);
        let mut client = run.connect().await;
        let names = client.wire_names(run.kind, &["a"]);
        let request = client.request(run.kind);
        let request = Request { type_url: String::new(), names: names.clone(), subscribe: names, ..request };
        client.send(request).await;
        assert_eq!(client.take(run.kind).await.names(), ["a"]);
    }
}

/// (27) Who asks for load reports learns at once whether there is somebody for them.
pub async fn s27_load_reports_are_taken_or_refused_clearly(suite: &Suite<'_>) {
    let endpoint = Endpoint::from_shared(format!("http://{}", suite.subject.address())).expect("a URL");
    let mut grpc = Grpc::new(endpoint.connect().await.expect("the server listens"));
    grpc.ready().await.expect("the server answers");
    let first = LoadStatsRequest { node: Some(suite.subject.node()), ..LoadStatsRequest::default() };
    let path = PathAndQuery::from_static("/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats");
    let codec = ProstCodec::<LoadStatsRequest, LoadStatsResponse>::default();
    let requests = tokio_stream::iter([first]);
    let call = grpc.streaming(GrpcRequest::new(requests), path, codec);
    let answer = tokio::time::timeout(SOON + Duration::from_secs(1), call).await.expect("an answer");
    if let Err(status) = answer {
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
}
