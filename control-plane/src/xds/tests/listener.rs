//! The listener over real connections: its bounds, its credentials, and how it lets proxies go.

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::task::{Context, Poll};
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::loopback::{Fixture, SOON, first, next, node};
use super::*;
use crate::xds::listener::Peer;
use crate::xds::{Listener, ListenerConfig, ListenerError, TlsFiles};

pub(super) type Client = AggregatedDiscoveryServiceClient<Channel>;
type Requests = mpsc::Sender<pb::DeltaDiscoveryRequest>;
type Responses = Streaming<pb::DeltaDiscoveryResponse>;

/// Opens a stream with this token and says who it is.
pub(super) async fn open(client: &Client, token: Option<&str>) -> Result<(Requests, Responses), Status> {
    open_as(client, token, node(&[])).await
}

/// The same of another node.
pub(super) async fn open_as(
    client: &Client,
    token: Option<&str>,
    node: Node,
) -> Result<(Requests, Responses), Status> {
    let (requests, outgoing) = mpsc::channel(8);
    requests.send(first(Some(node))).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let responses = client.clone().delta_aggregated_resources(request).await?;
    Ok((requests, responses.into_inner()))
}

/// A cluster of 100 kB, so that there is always something on its way.
fn large(version: usize) -> Arc<Snapshot> {
    let (version, body) = (version.to_string().into(), vec![b'x'; 100_000]);
    let resource = Resource::encoded(Cluster.url(), "a".into(), version, &body);
    let clusters = ResourceSet::new([Arc::new(resource)]);
    Arc::new(Snapshot::new(clusters, set(&[]), set(&[]), set(&[])))
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_moved_on_one_by_one_with_whole_messages() {
    const PROXIES: usize = 150;
    let mut fixture = Fixture::with(ListenerConfig::default(), large(0)).await;
    let mut proxies = JoinSet::new();
    for _ in 0..PROXIES {
        // A connection each.
        let client = Client::connect(fixture.url.clone()).await.unwrap();
        proxies.spawn(async move {
            let (requests, mut responses) = open(&client, None).await.unwrap();
            let end = loop {
                match timeout(SOON, responses.message()).await.expect("no end") {
                    Ok(Some(response)) => {
                        let body = &response.resources[0].resource.as_ref().unwrap().value;
                        assert_eq!(body.len(), 100_000);
                        let ack = pb::DeltaDiscoveryRequest { response_nonce: response.nonce, ..first(None) };
                        // The stream may be at its end already.
                        let _ = requests.send(ack).await;
                    }
                    Ok(None) => panic!("the stream ended without a status"),
                    Err(status) => break status,
                }
            };
            (Instant::now(), end)
        });
    }
    timeout(SOON, async {
        let mut changed = fixture.registry.changed();
        while fixture.registry.proxies().iter().filter(|p| !p.applied.is_empty()).count() < PROXIES {
            changed.changed().await.unwrap();
        }
    })
    .await
    .expect("not all proxies have come");

    let begin = Instant::now();
    fixture.shutdown.take().unwrap().send(()).unwrap();
    let mut ends = Vec::new();
    let mut version = 0;
    while !proxies.is_empty() {
        version += 1;
        fixture.source.0.send_replace(large(version));
        if let Ok(Some(end)) = timeout(Duration::from_millis(5), proxies.join_next()).await {
            ends.push(end.unwrap());
        }
    }
    for (_, status) in &ends {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("shutting down"), "{status}");
    }
    // The window is 1 ms a proxy here: all 150 moments miss its later half once in 2^150 runs. Counted from the beginning and not
    // from the first, which a busy machine may bring late.
    let last = ends.iter().map(|(at, _)| *at - begin).max().unwrap();
    assert!(last >= Duration::from_millis(75), "{last:?}");
    let at = address(&fixture).to_owned();
    timeout(SOON, fixture.serving).await.expect("still serving").unwrap();
    assert!(TcpStream::connect(&at).await.is_err());
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let config = ListenerConfig { max_connections: 1, ..ListenerConfig::default() };
    let fixture = Fixture::with(config, snapshot(&["a@1"], &[], &[], &[])).await;
    let (_requests, mut responses) = open(&fixture.client, None).await.unwrap();
    next(&mut responses).await;
    let mut second = TcpStream::connect(address(&fixture)).await.unwrap();
    // Closed, or reset, but not kept.
    assert!(!matches!(timeout(SOON, second.read(&mut [0; 1])).await.expect("it was kept"), Ok(1..)));
    assert!(fixture.metric(r#"realmgate_xds_connections_refused_total{reason="too_many"} 1"#));
    assert!(fixture.metric("realmgate_xds_connections 1"));
}

#[tokio::test]
async fn streams_need_a_good_token_where_tokens_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("tokens");
    std::fs::write(&token_file, "the-old-token-of-all role=edge\nthe-new-token-of-all role=edge\n").unwrap();
    let config = ListenerConfig { token_file: Some(token_file), ..ListenerConfig::default() };
    let fixture = Fixture::with(config, snapshot(&["a@1"], &[], &[], &[])).await;
    for (token, words) in [(None, "a token is required"), (Some("another-token-of-all"), "none of those")] {
        let status = open(&fixture.client, token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains(words) && !status.message().contains("another"), "{status}");
    }
    // The same connection may do better.
    for token in ["the-old-token-of-all", "the-new-token-of-all"] {
        let (_requests, mut responses) = open(&fixture.client, Some(token)).await.unwrap();
        next(&mut responses).await;
    }
    for reason in ["no_token", "wrong_token"] {
        assert!(fixture.metric(&format!("realmgate_xds_unauthenticated_total{{reason=\"{reason}\"}} 1")));
    }
}

/// The address of a fixture's listener.
pub(super) fn address(fixture: &Fixture) -> &str {
    fixture.url.trim_start_matches("http://")
}

#[tokio::test]
async fn who_brings_no_stream_that_can_be_let_in_does_not_keep_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("tokens");
    std::fs::write(&token_file, "the-only-token-of-all role=edge\n").unwrap();
    let admission = Duration::from_millis(300);
    let config = ListenerConfig { admission, token_file: Some(token_file), ..ListenerConfig::default() };
    let fixture = Fixture::with(config, snapshot(&["a@1"], &[], &[], &[])).await;
    let mut silent = TcpStream::connect(address(&fixture)).await.unwrap();
    let (requests, mut responses) = open(&fixture.client, Some("the-only-token-of-all")).await.unwrap();
    next(&mut responses).await;
    // The server's SETTINGS, then the end.
    timeout(SOON, silent.read_to_end(&mut Vec::new())).await.expect("it was kept").ok();
    assert!(fixture.metric(r#"realmgate_xds_connections_refused_total{reason="silent"} 1"#));
    // Whose stream was let in stays, for as long as the stream does.
    fixture.source.0.send_replace(snapshot(&["a@2"], &[], &[], &[]));
    next(&mut responses).await;
    assert!(fixture.metric("realmgate_xds_connections 1"));
    drop((requests, responses));
    let closed = async {
        while !fixture.metric("realmgate_xds_connections 0") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, closed).await.expect("a connection without a stream was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_once_holds_no_place_without_a_stream() {
    let config = ListenerConfig { max_connections: 1, ..ListenerConfig::default() };
    let fixture = Fixture::with(config, snapshot(&["a@1"], &[], &[], &[])).await;
    let (requests, mut of_old) = open(&fixture.client, None).await.unwrap();
    next(&mut of_old).await;
    drop((requests, of_old));
    // Its connection stays, for longer than this takes.
    let let_in = async {
        loop {
            if let Ok(client) = Client::connect(fixture.url.clone()).await
                && let Ok(opened) = open(&client, None).await
            {
                return opened;
            }
        }
    };
    let (_requests, mut of_new) = timeout(SOON, let_in).await.expect("it was locked out");
    next(&mut of_new).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_lock_nobody_out() {
    const PLACES: u32 = 16;
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("tokens");
    std::fs::write(&token_file, "the-only-token-of-all role=* service=* datacenter=* cell=*\n").unwrap();
    let config =
        ListenerConfig { max_connections: PLACES, token_file: Some(token_file), ..ListenerConfig::default() };
    let fixture = Fixture::with(config, snapshot(&["a@1"], &[], &[], &[])).await;
    // One was there before; it never has to make room.
    let (_old, mut of_old) = open(&fixture.client, Some("the-only-token-of-all")).await.unwrap();
    next(&mut of_old).await;
    let mut silent = Vec::new();
    for _ in 1..PLACES {
        silent.push(TcpStream::connect(address(&fixture)).await.unwrap());
    }
    // As a proxy does: again and again, until it is let in. All silent ones stay for as long as they may.
    let let_in = async {
        loop {
            if let Ok(client) = Client::connect(fixture.url.clone()).await
                && let Ok(opened) = open(&client, Some("the-only-token-of-all")).await
            {
                return opened;
            }
        }
    };
    let (_new, mut of_new) = timeout(SOON, let_in).await.expect("it was locked out");
    next(&mut of_new).await;
    fixture.source.0.send_replace(snapshot(&["a@2"], &[], &[], &[]));
    next(&mut of_old).await;
    let told = async {
        let made_room = |n| format!("realmgate_xds_connections_refused_total{{reason=\"made_room\"}} {n}");
        while !(1..PLACES).any(|n| fixture.metric(&made_room(n))) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, told).await.expect("nobody made room");
}

/// Cuts off whoever opens a stream.
#[derive(Clone)]
struct CutsOff;

impl tonic::codegen::Service<http::Request<hyper::body::Incoming>> for CutsOff {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        request.extensions().get::<Peer>().unwrap().cut.cut();
        pending()
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_off_is_gone() {
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", tcp.local_addr().unwrap());
    let listener = Listener::open(ListenerConfig::default(), &prometheus::Registry::new()).unwrap();
    let serving = tokio::spawn(listener.serve(tcp, CutsOff, pending()));
    let client = Client::connect(url).await.unwrap();
    timeout(SOON, open(&client, None)).await.expect("it was not cut off").unwrap_err();
    serving.abort();
}

#[tokio::test]
async fn a_host_that_vanished_is_noticed_and_counted() {
    let config = ListenerConfig { keepalive: Duration::from_millis(150), ..ListenerConfig::default() };
    let fixture = Fixture::with(config, snapshot(&["a@1"], &[], &[], &[])).await;
    let between = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", between.local_addr().unwrap());
    let at = address(&fixture).to_owned();
    let (vanish, vanished) = tokio::sync::oneshot::channel::<()>();
    let forwarding = tokio::spawn(async move {
        let (mut client, _) = between.accept().await.unwrap();
        let mut server = TcpStream::connect(at).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = vanished => {}
        }
        // Both stay open, and nothing goes through.
        pending::<()>().await;
    });
    let client = Client::connect(url).await.unwrap();
    let (_requests, mut responses) = open(&client, None).await.unwrap();
    next(&mut responses).await;
    vanish.send(()).unwrap();
    let lost = async {
        while !fixture.metric("realmgate_xds_connections_lost_total 1") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, lost).await.expect("it was not noticed");
    assert_eq!(fixture.registry.connected(), 0);
    forwarding.abort();
}

#[tokio::test]
async fn who_does_not_finish_a_handshake_does_not_keep_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { cert: dir.path().join("cert"), key: dir.path().join("key"), client_ca: None };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let config = ListenerConfig {
        admission: Duration::from_millis(200),
        tls: Some(files.clone()),
        ..ListenerConfig::default()
    };
    let metrics = prometheus::Registry::new();
    let listener = Listener::open(config.clone(), &metrics).unwrap();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut silent = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
    let serving = tokio::spawn(listener.serve(tcp, CutsOff, pending()));
    assert!(!matches!(timeout(SOON, silent.read(&mut [0; 1])).await.expect("it was kept"), Ok(1..)));
    let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
    assert!(
        text.contains(r#"realmgate_xds_connections_refused_total{reason="handshake_timeout"} 1"#),
        "{text}"
    );
    serving.abort();

    std::fs::write(&files.key, "nothing").unwrap();
    let Err(ListenerError::Tls(why)) = Listener::open(config, &prometheus::Registry::new()) else {
        panic!("it was taken");
    };
    assert!(why.contains("key_file"), "{why}");
}
