//! The edge's own HTTP listener, which load balancers and Prometheus ask.

use realmgate_tests::http::Http;
use realmgate_tests::stage::port;
use realmgate_tests::{Stage, TestNet, wait_until};
use serde_json::json;

use crate::cast::{LIMIT, route, servers, services};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_ready_while_it_has_routes_and_is_not_draining() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 1, 0).await;
    let edge = Http::new(stage.net.at(port::HEALTH));
    let status = |path: &str| edge.get(path).map_or(0, |(status, _)| status);
    let policy = |routes: serde_json::Value| {
        json!({"listeners": stage.listener(&json!({})), "services": services(&servers), "routes": routes})
            .to_string()
    };
    wait_until("the edge answers", LIMIT, || status("/health") == 200);
    assert_eq!(status("/ready"), 503, "ready without a route");

    stage.control_plane.put_policy(&policy(json!([route("all", &json!("any"), "game-1")])));
    wait_until("the edge is ready", LIMIT, || status("/ready") == 200);
    let (_, metrics) = edge.get("/metrics").unwrap();
    assert!(metrics.contains("\nenvoy_server_live"), "no Envoy statistics in /metrics");

    stage.edge.post("/healthcheck/fail");
    wait_until("a draining edge is not ready", LIMIT, || status("/ready") == 503);
    assert_eq!(status("/health"), 200);
    stage.edge.post("/healthcheck/ok");
    wait_until("the edge is ready again", LIMIT, || status("/ready") == 200);

    stage.control_plane.put_policy(&policy(json!([])));
    wait_until("without routes it is not ready", LIMIT, || status("/ready") == 503);
}
