//! The management API on a real control plane, over HTTP and over gRPC.

use realmgate_proto::v1::management_client::ManagementClient;
use realmgate_proto::v1::{ExplainRequest, GetPolicyRequest, PutPolicyRequest};
use realmgate_tests::http::Http;
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

    // What is equal is in force already, and what comes and goes before anybody hears of it, too.
    let other = POLICY.replace("127.0.0.1:1", "127.0.0.1:2");
    for text in [POLICY, &format!("{POLICY}# the same\n"), &other, POLICY] {
        put("", &other);
        let (status, answer) = put("?wait=applied&timeout=20s", text);
        assert_eq!((status, &answer["applied"]["complete"]), (200, &json!(true)), "{answer}");
    }
}

/// What HTTP says of versions, and of bodies that are too large.
#[tokio::test(flavor = "multi_thread")]
async fn writes_are_made_over_the_version_that_they_name() {
    let net = TestNet::new();
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let http = || Http::new(control_plane.api());
    let put = |http: Http, text: &str| {
        let (status, body) = http.send("PUT", "/v1/policy", "application/yaml", text).unwrap();
        (
            status,
            serde_json::from_str::<Value>(&body).unwrap()["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let conflict = (412, "conflict".to_owned());
    assert_eq!(put(http().with_header("if-match", "*"), POLICY), conflict, "nothing is there");
    assert_eq!(put(http().with_header("if-none-match", "*"), POLICY).0, 200);
    assert_eq!(put(http().with_header("if-none-match", "*"), POLICY), conflict);
    let (_, shown) = http().get("/v1/policy").unwrap();
    let etag = serde_json::from_str::<Value>(&shown).unwrap()["etag"].as_str().unwrap().to_owned();
    for text in [POLICY, "{}"] {
        assert_eq!(put(http().with_header("if-match", "\"stale\""), text), conflict, "{text}");
    }
    for good in [format!("\"stale\", \"{etag}\""), etag.clone(), "*".to_owned()] {
        assert_eq!(put(http().with_header("if-match", &good), POLICY).0, 200, "{good}");
    }
    let known = |tag: &str| http().with_header("if-none-match", tag).get("/v1/policy").unwrap();
    assert_eq!(known(&format!("\"{etag}\"")), (304, String::new()));
    assert_eq!(known("\"stale\""), (200, shown));
    let much = format!("{POLICY}#{}\n", "x".repeat(5 << 20));
    assert_eq!(put(http(), &much), (413, "too_large".to_owned()));
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

const EMPTY: &str = "empty: the document has no keys, so it is no policy; one that routes nothing is `{}`";

/// So many routes, each of a world, on a listener.
fn routes(count: usize) -> String {
    let routes = (1..=count)
        .map(|i| format!("{{name: r{i}, server_type: 200, worlds: {i}, to: [{{service: blue}}]}}"));
    let routes = routes.collect::<Vec<_>>().join(", ");
    format!(
        "listeners: [{{name: edge, bind: '127.0.0.1:7000'}}]\nservices: [{{name: blue, endpoints: ['127.0.0.1:1']}}]\n\
         routes: [{routes}]\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_no_policy_and_much_is_not_taken_away_by_accident() {
    let net = TestNet::new();
    let control_plane = Stage::control_plane(&net, &json!({})).unwrap();
    let mut client = ManagementClient::connect(format!("http://{}", net.at(port::API))).await.unwrap();
    let request = |text: &str, force: bool| PutPolicyRequest {
        text: text.to_owned(),
        force,
        ..PutPolicyRequest::default()
    };
    let put = |query: &str, text: &str| {
        let (status, body) = control_plane.put_policy_with(query, text);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let cli = |arguments: &[&str], text: &str| {
        std::fs::write(net.dir().join("document"), text).unwrap();
        let output = control_plane.realmgate(arguments).unwrap();
        let words = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(words).unwrap())
    };
    assert_eq!(put("", &routes(12)).0, 200);
    for text in ["", " \n", "# soon\n", "null", "[]", "\"\""] {
        for query in ["", "?force=true", "?dry_run=true"] {
            let (status, refused) = put(query, text);
            assert_eq!((status, &refused["error"]), (422, &json!("empty")), "{text:?} {query}: {refused}");
            assert_eq!(refused["problems"][0]["message"], EMPTY);
        }
        let refused = client.put_policy(request(text, true)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(EMPTY), "{refused}");
        for arguments in
            [&["policy", "validate", "document"][..], &["policy", "apply", "document", "--force"]]
        {
            let (code, words) = cli(arguments, text);
            assert!(code == 64 && words.contains(EMPTY), "{text:?} {arguments:?}: {code} {words}");
        }
    }

    let few = routes(5);
    let (status, refused) = put("", &few);
    assert_eq!((status, &refused["error"]), (409, &json!("mass_removal")), "{refused}");
    assert_eq!(refused["mass_removal"]["taken"][0]["kind"], "routes");
    assert!(
        refused["message"].as_str().unwrap().contains("7 of 12 routes (r6, r7, r8, r9, r10, ...)"),
        "{refused}"
    );
    let (status, dry) = put("?dry_run=true", &few);
    assert_eq!((status, &dry["mass_removal"]), (200, &refused["mass_removal"]), "{dry}");
    assert_eq!(put("?dry_run=true&force=true", &few).1.get("mass_removal"), None);
    let refused = client.put_policy(request(&few, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("mass_removal: it takes away 7 of 12 routes"), "{refused}");
    let dry = PutPolicyRequest { dry_run: true, ..request(&few, false) };
    let dry = client.put_policy(dry).await.unwrap().into_inner();
    assert!(dry.mass_removal.starts_with("it takes away 7 of 12 routes"), "{dry:?}");
    let (code, words) = cli(&["policy", "apply", "document"], &few);
    assert!(code == 1 && words.contains("7 of 12 worlds") && words.contains("--force"), "{code} {words}");
    let (code, words) = cli(&["policy", "apply", "document", "--dry-run"], &few);
    assert!(
        code == 0 && words.contains("has to be confirmed with --force: it takes away 7 of 12"),
        "{code} {words}"
    );
    assert_eq!(cli(&["policy", "apply", "document", "--force"], &few).0, 0);
    client.put_policy(request(&routes(12), false)).await.unwrap();
    client.put_policy(request(&few, true)).await.unwrap();
    let (code, words) = cli(&["policy", "apply", "--empty"], "");
    assert!(code == 1 && words.contains("the last listener (edge)"), "{code} {words}");
    assert_eq!(cli(&["policy", "apply", "--empty", "--force"], "").0, 0);
}
