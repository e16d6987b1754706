//! The load reporting service over a real connection.

use envoy_types::pb::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::loopback::{Fixture, end, next, node};
use super::*;

type Requests = mpsc::Sender<LoadStatsRequest>;

async fn open(fixture: &Fixture) -> (Requests, Streaming<LoadStatsResponse>) {
    let mut client = LoadReportingServiceClient::connect(fixture.url.clone()).await.unwrap();
    let (requests, outgoing) = mpsc::channel(8);
    let incoming = client.stream_load_stats(ReceiverStream::new(outgoing)).await;
    (requests, incoming.unwrap().into_inner())
}

#[tokio::test]
async fn a_proxy_is_asked_for_nothing_and_its_stream_goes_with_the_others() {
    let mut fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    let (requests, mut responses) = open(&fixture).await;
    let first = LoadStatsRequest { node: Some(node(&[])), ..LoadStatsRequest::default() };
    requests.send(first).await.unwrap();
    let answer = next(&mut responses).await;
    assert!(answer.clusters.is_empty() && !answer.send_all_clusters, "{answer:?}");
    assert!(answer.load_reporting_interval.unwrap().seconds >= 60);
    for _ in 0..100 {
        requests.send(LoadStatsRequest::default()).await.unwrap();
    }
    fixture.shutdown.take().unwrap().send(()).unwrap();
    assert_eq!(end(&mut responses).await.code(), Code::Unavailable);
    drop((requests, responses));
    fixture.serving.await.unwrap();
}

#[tokio::test]
async fn who_is_no_proxy_is_refused_with_words() {
    let fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    for (node, words) in
        [(None, "no node"), (Some(node(&[("role", "x")])), "which is none of: edge, sidecar")]
    {
        let (requests, mut responses) = open(&fixture).await;
        requests.send(LoadStatsRequest { node, ..LoadStatsRequest::default() }).await.unwrap();
        let end = end(&mut responses).await;
        assert_eq!(end.code(), Code::InvalidArgument);
        assert!(end.message().contains(words), "{end}");
    }
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="node_missing"} 1"#));
}
