//! The status of clients over real connections: what is told, and what a client of it may cost.

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::status::v3 as pb_status;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    NodeMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use pb_status::ConfigStatus::{Error, Synced};

use super::loopback::{Fixture, SOON, end, first, next, node};
use super::*;
use crate::xds::{ListenerConfig, SyncState};

type Client = ClientStatusDiscoveryServiceClient<Channel>;
type Questions = mpsc::Sender<pb_status::ClientStatusRequest>;

#[tokio::test]
async fn s27_client_status_tells_each_resource_of_each_proxy() {
    let with_secret =
        |clusters: &[&str]| super::secrets::with(&snapshot(clusters, &[], &["l@1"], &[]), &["leaf@1"]);
    let fixture = Fixture::new(with_secret(&["a@1", "b@1"])).await;
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(node(&[])))).await.unwrap();
    let response = next(&mut responses).await;
    let leaf = pb::DeltaDiscoveryRequest {
        type_url: Secret.url().to_owned(),
        resource_names_subscribe: vec!["leaf".to_owned()],
        ..Default::default()
    };
    requests.send(leaf.clone()).await.unwrap();
    let secret = next(&mut responses).await;
    let acknowledged =
        pb::DeltaDiscoveryRequest { response_nonce: secret.nonce, resource_names_subscribe: vec![], ..leaf };
    requests.send(acknowledged).await.unwrap();
    requests.send(pb::DeltaDiscoveryRequest { response_nonce: response.nonce, ..first(None) }).await.unwrap();
    fixture.until(|proxy| proxy.sync == SyncState::Synced).await;
    fixture.source.0.send_replace(with_secret(&["a@2", "b@1"]));
    let response = next(&mut responses).await;
    let error_detail = Some(RpcStatus { code: 3, message: "a: bad".to_owned(), ..Default::default() });
    let nack = pb::DeltaDiscoveryRequest { response_nonce: response.nonce, error_detail, ..first(None) };
    requests.send(nack).await.unwrap();
    fixture.until(|proxy| proxy.sync == SyncState::Rejecting).await;

    let mut client = ClientStatusDiscoveryServiceClient::connect(fixture.url.clone()).await.unwrap();
    let mut ask = async |pattern| {
        let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case: false });
        let node_matchers = vec![NodeMatcher { node_id, node_metadatas: vec![] }];
        let request = pb_status::ClientStatusRequest { node_matchers, ..Default::default() };
        client.fetch_client_status(request).await
    };
    let answer = ask(MatchPattern::Prefix("edge".to_owned())).await.unwrap().into_inner();
    let [client] = answer.config.as_slice() else { panic!("one proxy") };
    assert_eq!(client.node.as_ref().unwrap().id, "edge-1");
    // Of its listeners it never asked.
    let [leaf, a, b] = client.generic_xds_configs.as_slice() else { panic!("a secret and two clusters") };
    assert_eq!((leaf.name.as_str(), leaf.version_info.as_str(), leaf.config_status()), ("leaf", "1", Synced));
    assert_eq!(leaf.xds_config, None, "a secret is shown");
    assert_eq!((a.name.as_str(), a.version_info.as_str(), a.config_status()), ("a", "2", Error));
    assert_eq!(a.error_state.as_ref().unwrap().details, "a: bad");
    assert_eq!((b.name.as_str(), b.config_status()), ("b", Synced));
    assert_eq!(b.xds_config.as_ref().unwrap().value, b"b@1");
    assert!(ask(MatchPattern::Exact("other".to_owned())).await.unwrap().into_inner().config.is_empty());
    let regex = MatchPattern::SafeRegex(RegexMatcher::default());
    assert_eq!(ask(regex).await.unwrap_err().code(), Code::InvalidArgument);
}

async fn stream(client: &mut Client) -> (Questions, Streaming<pb_status::ClientStatusResponse>) {
    let (questions, outgoing) = mpsc::channel(8);
    let answers = client.stream_client_status(ReceiverStream::new(outgoing)).await.unwrap();
    (questions, answers.into_inner())
}

#[tokio::test]
async fn streams_of_client_status_end_when_the_server_does() {
    let mut fixture = Fixture::new(snapshot(&["a@1"], &[], &[], &[])).await;
    let mut client = Client::connect(fixture.url.clone()).await.unwrap();
    let (questions, mut answers) = stream(&mut client).await;
    for _ in 0..2 {
        questions.send(pb_status::ClientStatusRequest::default()).await.unwrap();
        assert!(next(&mut answers).await.config.is_empty());
    }
    fixture.shutdown.take().unwrap().send(()).unwrap();
    assert_eq!(end(&mut answers).await.code(), Code::Unavailable);
    // Before a connection that stays would be closed.
    timeout(Duration::from_secs(2), fixture.serving).await.expect("still serving").unwrap();
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_not_kept() {
    // More than a window and all buffers between take.
    let body = vec![0; 2 << 20];
    let large = Arc::new(Resource::encoded(Cluster.url(), "a".into(), "1".into(), &body));
    let wanted = Arc::new(Snapshot::new(ResourceSet::new([large]), set(&[]), set(&[]), set(&[])));
    let stalled = Duration::from_millis(300);
    let fixture = Fixture::with_stalled(ListenerConfig::default(), wanted, stalled).await;
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(node(&[])))).await.unwrap();
    next(&mut responses).await;

    let begin = Instant::now();
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let endpoint = Endpoint::new(fixture.url.clone()).unwrap().initial_stream_window_size(65_535);
        let mut client = Client::new(endpoint.connect().await.unwrap());
        let (questions, answers) = stream(&mut client).await;
        questions.send(pb_status::ClientStatusRequest::default()).await.unwrap();
        deaf.push((questions, answers));
    }
    let cut = async {
        while !fixture.metric(r#"realmgate_xds_streams_refused_total{reason="stalled"} 3"#) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, cut).await.expect("they are kept");
    assert!(begin.elapsed() >= 3 * stalled, "more than one answer at a time");
    let mut other = Client::connect(fixture.url.clone()).await.unwrap().max_decoding_message_size(8 << 20);
    let answer = other.fetch_client_status(pb_status::ClientStatusRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().config.len(), 1);
    drop(deaf);
}
