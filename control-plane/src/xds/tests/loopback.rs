//! The server over a real gRPC connection: what the pure core cannot show.

use std::sync::Mutex;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Node};
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::*;
use crate::xds::{
    AdsServer, Listener, ListenerConfig, ProxyStatus, Registry, Scope, SnapshotSource, SyncState,
    TooManyScopes,
};

pub(super) const SOON: Duration = Duration::from_secs(5);

pub(super) struct Source(pub(super) watch::Sender<Arc<Snapshot>>);

impl SnapshotSource for Source {
    fn subscribe(&self, scope: &Scope) -> Result<watch::Receiver<Arc<Snapshot>>, TooManyScopes> {
        if scope.cell == "one too many" {
            Err(TooManyScopes { most: 1, of: "in all" })
        } else {
            Ok(self.0.subscribe())
        }
    }
}

pub(super) struct Fixture {
    pub(super) source: Arc<Source>,
    pub(super) registry: Arc<Registry>,
    metrics: prometheus::Registry,
    pub(super) url: String,
    pub(super) client: AggregatedDiscoveryServiceClient<Channel>,
    pub(super) shutdown: Option<oneshot::Sender<()>>,
    pub(super) serving: tokio::task::JoinHandle<()>,
}

impl Fixture {
    pub(super) async fn new(wanted: Arc<Snapshot>) -> Self {
        Self::with(ListenerConfig::default(), wanted).await
    }

    pub(super) async fn with(config: ListenerConfig, wanted: Arc<Snapshot>) -> Self {
        Self::with_stalled(config, wanted, SOON).await
    }

    /// One in which `stalled` is how long answers about clients may be left.
    pub(super) async fn with_stalled(
        config: ListenerConfig,
        wanted: Arc<Snapshot>,
        stalled: Duration,
    ) -> Self {
        let source = Arc::new(Source(watch::Sender::new(wanted)));
        let metrics = prometheus::Registry::new();
        let registry = Arc::new(Registry::new(&metrics).unwrap());
        let snapshots = Arc::clone(&source) as Arc<dyn SnapshotSource>;
        let server = AdsServer::with_stalled(snapshots, Arc::clone(&registry), stalled);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shutdown, stopped) = oneshot::channel();
        let serving = tokio::spawn({
            let door = Listener::open(config, &metrics).unwrap();
            door.serve(listener, server, async { drop(stopped.await) })
        });
        // With its first stream, so that a listener that speaks TLS may be tried, too.
        let channel = Endpoint::new(url.clone()).unwrap().connect_lazy();
        let client = AggregatedDiscoveryServiceClient::new(channel);
        Self { source, registry, metrics, url, client, shutdown: Some(shutdown), serving }
    }

    pub(super) async fn delta(
        &self,
    ) -> (mpsc::Sender<pb::DeltaDiscoveryRequest>, Streaming<pb::DeltaDiscoveryResponse>) {
        let (requests, outgoing) = mpsc::channel(8);
        let incoming = self.client.clone().delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
        (requests, incoming.unwrap().into_inner())
    }

    async fn sotw(&self) -> (mpsc::Sender<pb::DiscoveryRequest>, Streaming<pb::DiscoveryResponse>) {
        let (requests, outgoing) = mpsc::channel(8);
        let incoming = self.client.clone().stream_aggregated_resources(ReceiverStream::new(outgoing)).await;
        (requests, incoming.unwrap().into_inner())
    }

    /// Waits until the only proxy is as wanted, as a `?wait=applied` would.
    pub(super) async fn until(&self, wanted: impl Fn(&ProxyStatus) -> bool) -> ProxyStatus {
        let mut changed = self.registry.changed();
        let wait = async {
            loop {
                if let Some(proxy) = self.registry.proxies().into_iter().find(|proxy| wanted(proxy)) {
                    return proxy;
                }
                changed.changed().await.unwrap();
            }
        };
        timeout(SOON, wait).await.expect("the status never came")
    }

    pub(super) fn metric(&self, line: &str) -> bool {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).unwrap();
        text.lines().any(|l| l == line)
    }
}

pub(super) fn node(metadata: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
    let ours = Value { kind: Some(Kind::StructValue(Struct { fields })) };
    let metadata = Struct { fields: HashMap::from([("realmgate".to_owned(), ours)]) };
    Node { id: "edge-1".to_owned(), metadata: Some(metadata), ..Node::default() }
}

pub(super) async fn next<T>(stream: &mut Streaming<T>) -> T {
    timeout(SOON, stream.message()).await.expect("no response").unwrap().expect("the stream ended")
}

pub(super) async fn end<T>(stream: &mut Streaming<T>) -> Status {
    loop {
        match timeout(SOON, stream.message()).await.expect("no end") {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}

pub(super) fn first(node: Option<Node>) -> pb::DeltaDiscoveryRequest {
    pb::DeltaDiscoveryRequest { node, type_url: Cluster.url().to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_scope_for_which_there_is_no_room_is_refused_with_words() {
    let fixture = Fixture::new(snapshot(&["a@1"], &[], &[], &[])).await;
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(node(&[("cell", "one too many")])))).await.unwrap();
    let end = end(&mut responses).await;
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert!(end.message().starts_with("1 scopes of this role in all are served"), "{end}");
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="too_many_scopes"} 1"#));
}

#[tokio::test]
async fn delta_end_to_end() {
    let fixture = Fixture::new(snapshot(&["a@1"], &[], &[], &[])).await;
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(node(&[("role", "edge"), ("service", "chat")])))).await.unwrap();
    let response = next(&mut responses).await;
    assert_eq!(response.type_url, Cluster.url());
    assert_eq!((response.resources[0].name.as_str(), response.resources[0].version.as_str()), ("a", "1"));
    assert_eq!(response.resources[0].resource.as_ref().unwrap().value, b"a@1");
    let ack = pb::DeltaDiscoveryRequest { response_nonce: response.nonce, ..first(None) };
    requests.send(ack).await.unwrap();
    let status = fixture.until(|proxy| proxy.sync == SyncState::Synced).await;
    assert_eq!(
        (status.id.as_str(), status.scope.service.as_str(), status.variant),
        ("edge-1", "chat", "delta")
    );
    assert_eq!(status.applied, status.wanted);

    fixture.source.0.send_replace(snapshot(&["a@2"], &[], &[], &[]));
    let response = next(&mut responses).await;
    let error_detail = Some(RpcStatus { code: 3, message: "a: bad".to_owned(), ..Default::default() });
    let nack = pb::DeltaDiscoveryRequest { response_nonce: response.nonce, error_detail, ..first(None) };
    requests.send(nack).await.unwrap();
    let status = fixture.until(|proxy| proxy.sync == SyncState::Rejecting).await;
    let rejection = &status.types[0].rejections[0];
    assert_eq!((rejection.resource.as_str(), rejection.version.as_str()), ("a", "2"));
    assert_eq!(rejection.message, "a: bad");
    assert!(fixture.metric(r#"realmgate_xds_rejects_total{type="cds"} 1"#));
    assert!(fixture.metric(r#"realmgate_xds_pushes_total{type="cds"} 2"#));
    assert!(fixture.metric("realmgate_proxy_convergence_seconds_count 1"));

    fixture.source.0.send_replace(snapshot(&[], &[], &[], &[]));
    assert_eq!(next(&mut responses).await.removed_resources, ["a"]);
}

#[tokio::test]
async fn sotw_end_to_end() {
    let fixture = Fixture::new(snapshot(&["a@1", "b@1"], &[], &[], &[])).await;
    let (requests, mut responses) = fixture.sotw().await;
    let request = |node, response_nonce: &str| pb::DiscoveryRequest {
        node,
        type_url: Cluster.url().to_owned(),
        response_nonce: response_nonce.to_owned(),
        ..Default::default()
    };
    requests.send(request(Some(node(&[])), "")).await.unwrap();
    let response = next(&mut responses).await;
    assert_eq!(response.resources.len(), 2);
    requests.send(request(None, &response.nonce)).await.unwrap();
    fixture.until(|proxy| proxy.sync == SyncState::Synced).await;
    fixture.source.0.send_replace(snapshot(&["b@1"], &[], &[], &[]));
    let response = next(&mut responses).await;
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.version_info, **set(&["b@1"]).version());
}

#[tokio::test]
async fn s26_types_not_served_are_ignored() {
    let fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    let (requests, mut responses) = fixture.delta().await;
    let type_url = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration".to_owned();
    requests.send(pb::DeltaDiscoveryRequest { type_url, ..first(Some(node(&[]))) }).await.unwrap();
    requests.send(first(None)).await.unwrap();
    assert_eq!(next(&mut responses).await.type_url, Cluster.url());
    assert!(fixture.metric("realmgate_xds_unknown_type_requests_total 1"));
}

#[tokio::test]
async fn s01_a_stream_without_a_valid_node_is_refused_with_the_place() {
    let fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    for (node, words) in [
        (None, "carries no node"),
        (Some(Node::default()), "node.id is empty"),
        (Some(node(&[("role", "gateway")])), "node.metadata.realmgate.role is `gateway`"),
    ] {
        let (requests, mut responses) = fixture.delta().await;
        requests.send(first(node)).await.unwrap();
        let status = end(&mut responses).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(words), "{}", status.message());
    }
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="node_role"} 1"#));
    assert!(fixture.registry.proxies().is_empty());
}

#[tokio::test]
async fn entries_last_as_long_as_their_stream() {
    let fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    let (one, mut responses) = fixture.delta().await;
    one.send(first(Some(node(&[])))).await.unwrap();
    next(&mut responses).await;
    let (two, mut others) = fixture.delta().await;
    two.send(first(Some(node(&[])))).await.unwrap();
    next(&mut others).await;
    assert_eq!(fixture.registry.proxies().len(), 2);
    assert!(fixture.metric("realmgate_xds_connected_proxies 2"));
    let mut changed = fixture.registry.changed();
    drop((one, responses));
    while fixture.registry.proxies().len() != 1 {
        timeout(SOON, changed.changed()).await.expect("the entry stays").unwrap();
    }
}

#[tokio::test]
async fn shutdown_ends_streams_and_the_server() {
    let mut fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(node(&[])))).await.unwrap();
    next(&mut responses).await;
    fixture.shutdown.take().unwrap().send(()).unwrap();
    assert_eq!(end(&mut responses).await.code(), Code::Unavailable);
    drop((requests, responses));
    drop(fixture.client);
    timeout(SOON, fixture.serving).await.expect("still serving").unwrap();
}

#[tokio::test]
async fn a_proxy_that_reads_nothing_is_cut_off_and_one_that_reads_is_not() {
    // More than a proxy's window and all buffers between take.
    let large: Vec<String> =
        (0..40_000).map(|i| format!("a-rather-long-name-of-a-cluster-{i:05}@1")).collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    let fixture = Fixture::new(snapshot(&large, &[], &[], &[])).await;
    let (deaf, unread) = fixture.delta().await;
    deaf.send(first(Some(node(&[])))).await.unwrap();
    fixture.until(|proxy| proxy.types.iter().any(|cds| cds.pending == large.len())).await;
    let mut other = AggregatedDiscoveryServiceClient::connect(fixture.url.clone())
        .await
        .unwrap()
        .max_decoding_message_size(64 << 20);
    let (requests, outgoing) = mpsc::channel(8);
    let mut responses =
        other.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    requests.send(first(Some(Node { id: "edge-2".to_owned(), ..Node::default() }))).await.unwrap();
    next(&mut responses).await;
    fixture.registry.cut_stalled();
    assert_eq!(fixture.registry.connected(), 2, "cut off without a whole period");
    let mut changed = fixture.registry.changed();
    fixture.registry.cut_stalled();
    while fixture.registry.connected() != 1 {
        timeout(SOON, changed.changed()).await.expect("it stays").unwrap();
    }
    assert_eq!(fixture.registry.proxies()[0].id, "edge-2");
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="stalled"} 1"#));
    drop((deaf, unread));
}

/// Everything that the log says on this thread while it is alive.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    fn taken() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&text);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || Lines(Arc::clone(&writer)))
            .finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    fn lines_with(&self, words: &str) -> usize {
        String::from_utf8_lossy(&self.text.lock().unwrap())
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_again_and_again_fills_no_log() {
    let log = Log::taken();
    let fixture = Fixture::new(snapshot(&["a@1"], &[], &[], &[])).await;
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(node(&[])))).await.unwrap();
    for round in 0..20 {
        let message = format!("a: bad {round}");
        let nack = pb::DeltaDiscoveryRequest {
            response_nonce: next(&mut responses).await.nonce,
            error_detail: Some(RpcStatus { code: 3, message, ..Default::default() }),
            resource_names_subscribe: vec!["a".to_owned()],
            ..first(None)
        };
        requests.send(nack).await.unwrap();
    }
    next(&mut responses).await;
    assert!(fixture.metric(r#"realmgate_xds_rejects_total{type="cds"} 20"#));
    assert_eq!(log.lines_with("proxy refuses"), 1);
}

#[tokio::test]
async fn what_ends_a_stream_is_counted_and_logged() {
    let log = Log::taken();
    let fixture = Fixture::new(snapshot(&[], &[], &[], &[])).await;
    let mut raw = Raw::connect(&fixture.url).await;
    let too_large = [&[0][..], &(5_u32 << 20).to_be_bytes()].concat();
    for (bytes, reason) in [
        (too_large, "request_too_large"),
        (vec![1, 0, 0, 0, 0], "compressed"),
        (vec![0, 0, 0, 0, 9], "cut_short"),
        // A field of four bytes, of which one is there.
        (vec![0, 0, 0, 0, 3, 0x0a, 4, 0], "malformed"),
    ] {
        for _ in 0..2 {
            raw.stream(bytes.clone()).await;
        }
        let line = format!("realmgate_xds_streams_refused_total{{reason=\"{reason}\"}} 2");
        assert!(fixture.metric(&line), "{line}");
        assert_eq!(log.lines_with(&format!("reason=\"{reason}\"")), 1, "{reason}");
    }
    let (requests, mut responses) = fixture.delta().await;
    let resource_names_subscribe = vec!["x".repeat(1025)];
    let request = pb::DeltaDiscoveryRequest { resource_names_subscribe, ..first(Some(node(&[]))) };
    requests.send(request).await.unwrap();
    assert_eq!(end(&mut responses).await.code(), Code::ResourceExhausted);
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="name_too_long"} 1"#));
}

/// A client that sends whatever bytes it likes.
struct Raw(hyper::client::conn::http2::SendRequest<Full<Bytes>>, http::Uri);

impl Raw {
    async fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
        Self(sender, format!("{url}{path}").parse().unwrap())
    }

    /// Opens a stream, sends these bytes and waits for its end.
    async fn stream(&mut self, body: Vec<u8>) {
        let request = http::Request::post(self.1.clone()).body(Full::from(body)).unwrap();
        let response = timeout(SOON, self.0.send_request(request)).await.expect("no response").unwrap();
        // The server may reset what it does not read.
        let _ = timeout(SOON, response.into_body().collect()).await.expect("no end");
    }
}

#[tokio::test]
async fn an_envoy_that_is_too_old_is_sent_nothing_and_told_of() {
    let fixture = Fixture::new(snapshot(&["a@1"], &[], &[], &[])).await;
    let of_version = |minor_number| {
        let version = SemanticVersion { major_number: 1, minor_number, patch: 4 };
        let build = BuildVersion { version: Some(version), ..BuildVersion::default() };
        let user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(build));
        Node { user_agent_name: "envoy".to_owned(), user_agent_version_type, ..node(&[]) }
    };
    let (requests, mut responses) = fixture.delta().await;
    requests.send(first(Some(of_version(36)))).await.unwrap();
    let told = |registry: &Registry| registry.proxies().pop();
    let (version, sync) = loop {
        if let Some(proxy) = told(&fixture.registry) {
            break (proxy.envoy_version, proxy.sync);
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&*version, sync), ("1.36.4", SyncState::Unsupported));
    fixture.source.0.send_replace(snapshot(&["a@2"], &[], &[], &[]));
    // Another stream is served meanwhile.
    let (others, mut answers) = fixture.delta().await;
    others.send(first(Some(of_version(37)))).await.unwrap();
    next(&mut answers).await;
    assert!(timeout(Duration::from_millis(50), responses.message()).await.is_err(), "it was sent something");
    assert!(fixture.registry.progress().iter().any(|proxy| proxy.sync == SyncState::Unsupported));
}
