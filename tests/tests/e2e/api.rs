//! The management API on a real control plane, over HTTP and over gRPC.

use realmgate_proto::v1::management_client::ManagementClient;
use realmgate_proto::v1::{ExplainRequest, GetPolicyRequest, PutPolicyRequest};
use realmgate_tests::stage::port;
use realmgate_tests::{Stage, TestNet};
use serde_json::{Value, json};
use tonic::Code;

const POLICY: &str = r#"
services: [{name: blue, endpoints: ["127.0.0.1:1"]}]
routes:
  - {name: all, server_type: 200, to: [{service: blue}]}
listeners: [{name: edge, bind: "127.0.0.1:7000"}]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let net = TestNet::new();
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let put = |query: &str, text: &str| {
        let (status, body) = control_plane.put_policy_with(query, text);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, dry) = put("?dry_run=true", POLICY);
    assert_eq!((status, &dry["changed"], &dry["version"]), (200, &json!(true), &json!(0)));
    let (status, first) = put("?message=start", POLICY);
    assert_eq!((status, &first["version"], &first["changed"]), (200, &json!(1), &json!(true)));

    let (status, refused) = put("", &POLICY.replace("service: blue", "service: bleu"));
    assert_eq!((status, &refused["error"]), (422, &json!("invalid_policy")));
    let problem = &refused["problems"][0];
    assert_eq!((&problem["line"], &problem["path"]), (&json!(4), &json!("routes[0].to[0].service")));
    for query in ["?wait=never", "?timeout=soon", "?unknown=1"] {
        assert_eq!(put(query, POLICY).0, 400, "{query}");
    }
    assert_eq!(control_plane.get("/v1/nothing").0, 404);
    assert_eq!(control_plane.get("/v1/explain?server_type=200&world=40000").0, 400);

    let (_, again) = put("", POLICY);
    assert_eq!((&again["version"], &again["changed"]), (&json!(1), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_says_the_same() {
    let net = TestNet::new();
    let _control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let address = format!("http://{}", net.at(port::API));
    let mut client = ManagementClient::connect(address).await.unwrap();
    let put = |text: &str, if_match: &str| PutPolicyRequest {
        text: text.to_owned(),
        if_match: if_match.to_owned(),
        ..PutPolicyRequest::default()
    };
    let first = client.put_policy(put(POLICY, "")).await.unwrap().into_inner();
    assert_eq!((first.version, first.changed), (1, true));
    let stored = client.get_policy(GetPolicyRequest {}).await.unwrap().into_inner();
    assert_eq!((stored.text.as_str(), &stored.etag), (POLICY, &first.etag));

    let invalid = client.put_policy(put("routes: 5", "")).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    assert!(invalid.message().contains("line 1, routes"), "{invalid}");
    let other = format!("{POLICY}# another\n");
    assert_eq!(client.put_policy(put(&other, "other")).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.put_policy(put(&other, &first.etag)).await.unwrap().into_inner().version, 2);

    let question = ExplainRequest { server_type: 200, world: 7, instance: 1, ..ExplainRequest::default() };
    let answer = client.explain(question.clone()).await.unwrap().into_inner();
    assert_eq!((answer.matched, answer.route.as_str(), answer.listener.as_str()), (true, "all", "edge"));
    assert_eq!(answer.destinations[0].endpoints, ["127.0.0.1:1"]);
    let beyond = ExplainRequest { world: 40_000, ..question };
    assert_eq!(client.explain(beyond).await.unwrap_err().code(), Code::InvalidArgument);
}
