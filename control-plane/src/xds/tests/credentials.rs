//! Attacks on who may be which proxy, over real connections: what a credential is not good for, what becomes of a stream whose
//! credential goes, and who may ask how all proxies are.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::status::v3 as pb_status;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::listener::{Client, address, open, open_as};
use super::loopback::{Fixture, next, node};
use super::*;
use crate::xds::{LAST_WORD, ListenerConfig, TlsFiles};

const GAME: &str = "the-token-of-the-games";
const SHOP: &str = "the-token-of-the-shops";
const OPERATOR: &str = "the-token-of-operators";

/// A sidecar's node.
fn sidecar(service: &str, more: &[(&str, &str)]) -> Node {
    let own = [("role", "sidecar"), ("service", service), ("inbound", "10.0.0.1:1"), ("app", "127.0.0.1:2")];
    node(&[&own[..], more].concat())
}

/// Files that a listener reads.
struct Files {
    dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), authority: authority() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        // Moved over, as one that rotates does: no reader sees half of it.
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), &path).unwrap();
        path
    }

    /// A listener that takes these tokens.
    fn tokens(&self, lines: &str) -> ListenerConfig {
        ListenerConfig { token_file: Some(self.write("tokens", lines)), ..ListenerConfig::default() }
    }

    /// A listener that takes certificates of our authority in the trust domain `d`, and goes by these rules.
    fn certificates(&self, rules: &str) -> ListenerConfig {
        let (cert, key) = self.issue(SanType::DnsName("localhost".try_into().unwrap()), 3600);
        let tls = TlsFiles {
            cert: self.write("server.pem", &cert),
            key: self.write("server.key", &key),
            client_ca: Some(self.write("clients.pem", &self.authority.pem())),
        };
        ListenerConfig {
            tls: Some(tls),
            trust_domains: vec!["d".to_owned()],
            rules_file: Some(self.write("rules", rules)),
            ..ListenerConfig::default()
        }
    }

    /// A certificate and its key, good for so many seconds.
    fn issue(&self, name: SanType, seconds: u64) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![name];
        params.not_after = (std::time::SystemTime::now() + Duration::from_secs(seconds)).into();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem())
    }

    /// A connection that shows a certificate with this id, good for so many seconds.
    async fn connect(&self, fixture: &Fixture, id: &str, seconds: u64) -> Client {
        let (cert, key) = self.issue(SanType::URI(id.try_into().unwrap()), seconds);
        Client::new(channel(&self.authority.pem(), &cert, &key, address(fixture)).await)
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "ours");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn channel(authority: &str, cert: &str, key: &str, to: &str) -> Channel {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let dial = Dial(TlsConnector::from(Arc::new(tls)), to.to_owned());
    Endpoint::from_static("http://localhost").connect_with_connector(dial).await.unwrap()
}

/// Connects by TLS with whatever its client shows.
#[derive(Clone)]
struct Dial(TlsConnector, String);

impl tower_service::Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self(connector, to) = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            Ok(TokioIo::new(connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?))
        })
    }
}

/// What is promised of a credential that goes. Files are looked at every 2 s, and a stream that takes nothing is left 3 s.
const LATER: Duration = Duration::from_secs(10);

async fn until(fixture: &Fixture, line: &str) {
    let counted = async {
        while !fixture.metric(line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LATER, counted).await.unwrap_or_else(|_| panic!("never: {line}"));
}

/// The end of a stream on which nothing more may come.
async fn ends_without_a_word<T: std::fmt::Debug>(stream: &mut tonic::Streaming<T>) -> Status {
    timeout(LATER, stream.message()).await.expect("it goes on").expect_err("it was sent something")
}

/// What becomes of a proxy that comes as this.
async fn refused(client: &Client, token: Option<&str>, node: Node) -> Status {
    match open_as(client, token, node).await {
        Err(status) => status,
        Ok((_requests, mut responses)) => ends_without_a_word(&mut responses).await,
    }
}

#[tokio::test]
async fn a_token_is_one_identity_and_no_other() {
    let files = Files::new();
    let lines = format!(
        "{GAME} role=sidecar service=game\n{SHOP} role=sidecar service=my%20shop datacenter=aws cell=blue\n\
         {OPERATOR} role=operator\n"
    );
    let fixture = Fixture::with(files.tokens(&lines), snapshot(&["a@1"], &[], &[], &[])).await;
    for (token, node, place) in [
        (GAME, sidecar("shop", &[]), "service is `shop`"),
        (GAME, sidecar("GAME", &[]), "service is `GAME`"),
        (GAME, sidecar("game/", &[]), "service is `game/`"),
        (GAME, sidecar("*", &[]), "service is `*`"),
        (GAME, sidecar("game", &[("role", "edge")]), "role is `edge`"),
        (GAME, node(&[]), "role is `edge`"),
        (GAME, sidecar("game", &[("cell", "blue")]), "cell is `blue`"),
        (GAME, sidecar("game", &[("datacenter", "aws")]), "datacenter is `aws`"),
        (SHOP, sidecar("my shop", &[("datacenter", "aws")]), "cell is not set"),
        (SHOP, sidecar("my%20shop", &[("datacenter", "aws"), ("cell", "blue")]), "service is `my%20shop`"),
        (OPERATOR, node(&[]), "role is `edge`"),
    ] {
        let end = refused(&fixture.client, Some(token), node).await;
        assert_eq!(end.code(), Code::PermissionDenied, "{end}");
        assert!(end.message().contains(place) && !end.message().contains(token), "{place}: {end}");
    }
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="identity"} 11"#));
    assert!(fixture.registry.proxies().is_empty());
    for (token, node) in
        [(GAME, sidecar("game", &[])), (SHOP, sidecar("my shop", &[("datacenter", "aws"), ("cell", "blue")]))]
    {
        let (_requests, mut responses) = open_as(&fixture.client, Some(token), node).await.unwrap();
        next(&mut responses).await;
    }
}

#[tokio::test]
async fn a_token_that_is_taken_out_ends_its_streams_and_no_other() {
    let files = Files::new();
    let (game, shop) =
        (format!("{GAME} role=sidecar service=game\n"), format!("{SHOP} role=sidecar service=shop\n"));
    let fixture = Fixture::with(files.tokens(&(game + &shop)), snapshot(&["key@1"], &[], &[], &[])).await;
    // All on one connection.
    let (_one, mut idle) = open_as(&fixture.client, Some(GAME), sidecar("game", &[])).await.unwrap();
    let (_two, mut narrowed) = open_as(&fixture.client, Some(SHOP), sidecar("shop", &[])).await.unwrap();
    for responses in [&mut idle, &mut narrowed] {
        next(responses).await;
    }
    files.write("tokens", &shop);
    let end = ends_without_a_word(&mut idle).await;
    assert_eq!(end.code(), Code::Unauthenticated);
    assert!(end.message().starts_with("not let in any more: the token is none of those"), "{end}");
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="revoked_token"} 1"#));
    fixture.source.0.send_replace(snapshot(&["key@2"], &[], &[], &[]));
    assert_eq!(next(&mut narrowed).await.resources[0].version, "2", "another token's stream goes on");
    let end = open(&fixture.client, Some(GAME)).await.unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated);

    // The same token for another service: it is another credential.
    files.write("tokens", &format!("{SHOP} role=sidecar service=game\n"));
    let end = ends_without_a_word(&mut narrowed).await;
    assert_eq!(end.code(), Code::Unauthenticated);
    assert!(end.message().contains("service is `shop`"), "{end}");
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="revoked_identity"} 1"#));
    // Files that cannot be used take nobody's token away.
    let (_three, mut third) = open_as(&fixture.client, Some(SHOP), sidecar("game", &[])).await.unwrap();
    next(&mut third).await;
    files.write("tokens", &format!("{SHOP}\n"));
    until(&fixture, r#"realmgate_xds_token_reloads_total{result="failed"} 1"#).await;
    fixture.source.0.send_replace(snapshot(&["key@3"], &[], &[], &[]));
    next(&mut third).await;
}

#[tokio::test]
async fn who_takes_nothing_does_not_outlive_its_token() {
    let files = Files::new();
    // More than a window and all buffers between take, in many pieces.
    let large: Vec<String> =
        (0..40_000).map(|i| format!("a-rather-long-name-of-a-cluster-{i:05}@1")).collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    let config = files.tokens(&format!("{GAME} role=sidecar service=game\n{SHOP} role=operator\n"));
    let fixture = Fixture::with(config, snapshot(&large, &[], &[], &[])).await;
    let (_requests, mut unread) = open_as(&fixture.client, Some(GAME), sidecar("game", &[])).await.unwrap();
    fixture.until(|proxy| proxy.types.iter().any(|cds| cds.pending == large.len())).await;
    files.write("tokens", &format!("{SHOP} role=operator\n"));
    until(&fixture, r#"realmgate_xds_unauthenticated_total{reason="outlived"} 1"#).await;
    until(&fixture, "realmgate_xds_connected_proxies 0").await;
    timeout(LATER, unread.message()).await.expect("it goes on").expect_err("it got all of it");
}

#[tokio::test]
async fn a_certificate_is_one_identity_and_no_other() {
    let files = Files::new();
    let rules = "spiffe://d/ns/default/dc/aws/svc/blue cell=blue\nspiffe://evil/ns/prod/sa/x role=sidecar service=game\n";
    let fixture = Fixture::with(files.certificates(rules), snapshot(&["a@1"], &[], &[], &[])).await;
    let svc = |service: &str| format!("spiffe://d/ns/default/dc/aws/svc/{service}");
    let mut kept = Vec::new();
    for (id, words) in [
        ("spiffe://evil/ns/default/dc/aws/svc/game", "of another trust domain than d"),
        ("spiffe://*/ns/default/dc/aws/svc/game", "its trust domain is not of"),
        ("spiffe://d@evil/ns/default/dc/aws/svc/game", "its trust domain is not of"),
        ("spiffe://d:1/ns/default/dc/aws/svc/game", "its trust domain is not of"),
        ("spiffe://d/svc/game", "its path is not"),
        ("spiffe://d/ns/default/dc/aws/svc/game/", "its path is not"),
        ("spiffe://d/ns/prod/dc/aws/svc/game", "its namespace is not"),
        ("spiffe://d/ap/x/ns/default/dc/aws/svc/game", "its namespace is not"),
        ("spiffe://d/ns/default/dc/aws/svc/g%61me", "not written as Consul"),
        ("spiffe://d/ns/default/dc/aws/svc/game?x", "not written as Consul"),
        ("spiffe://d/ns/default/dc/aws/svc/game#x", "not written as Consul"),
        ("spiffe://d/ns/default/dc/aws/svc/*", "not written as Consul"),
        ("spiffe://evil/ns/prod/sa/x/", "its path is not"),
        ("https://d/ns/default/dc/aws/svc/game", "does not begin with"),
    ] {
        kept.push(files.connect(&fixture, id, 600).await);
        let end = refused(kept.last().unwrap(), None, sidecar("game", &[])).await;
        assert_eq!(end.code(), Code::Unauthenticated, "{id}: {end}");
        assert!(end.message().contains(words), "{id}: {end}");
    }
    for (service, node, place) in [
        ("game", node(&[]), "role is `edge`"),
        ("game", node(&[("service", "game")]), "role is `edge`"),
        ("game", sidecar("shop", &[]), "service is `shop`"),
        ("game", sidecar("game", &[("cell", "blue")]), "cell is `blue`"),
        ("game", sidecar("game", &[("datacenter", "azure")]), "datacenter is `azure`"),
        ("realmgate-edge", sidecar("realmgate-edge", &[]), "role is `sidecar`"),
        ("realmgate-edge", node(&[("service", "game")]), "service is `game`"),
        ("realmgate-edge", node(&[("cell", "blue")]), "cell is `blue`"),
        ("blue", sidecar("blue", &[]), "cell is not set"),
    ] {
        kept.push(files.connect(&fixture, &svc(service), 600).await);
        let end = refused(kept.last().unwrap(), None, node).await;
        assert_eq!(end.code(), Code::PermissionDenied, "{end}");
        assert!(end.message().contains(place) && end.message().contains(&svc(service)), "{place}: {end}");
    }
    assert!(fixture.registry.proxies().is_empty());
    // A stream that is refused takes no other of its connection with it.
    let client = files.connect(&fixture, &svc("game"), 600).await;
    let (requests, mut good) = open_as(&client, None, sidecar("game", &[])).await.unwrap();
    next(&mut good).await;
    refused(&client, None, sidecar("shop", &[])).await;
    tokio::time::sleep(LAST_WORD + Duration::from_millis(500)).await;
    fixture.source.0.send_replace(snapshot(&["a@2"], &[], &[], &[]));
    next(&mut good).await;
    drop((client, good, requests));
    // Who gets a better certificate shows it on another connection: none of these is kept.
    until(&fixture, "realmgate_xds_connections 0").await;
    for (id, node) in [
        (svc("game"), sidecar("game", &[("datacenter", "aws")])),
        (svc("my%20shop"), sidecar("my shop", &[])),
        (svc("realmgate-edge"), node(&[])),
        (svc("blue"), sidecar("blue", &[("cell", "blue")])),
        ("spiffe://evil/ns/prod/sa/x".to_owned(), sidecar("game", &[])),
    ] {
        let client = files.connect(&fixture, &id, 600).await;
        let (_requests, mut responses) = open_as(&client, None, node).await.unwrap();
        next(&mut responses).await;
    }
}

#[tokio::test]
async fn a_certificate_that_ends_ends_all_streams_of_its_connection() {
    let files = Files::new();
    let fixture = Fixture::with(files.certificates(""), snapshot(&["key@1"], &[], &[], &[])).await;
    let id = "spiffe://d/ns/default/dc/aws/svc/game";
    let short = files.connect(&fixture, id, 3).await;
    let long = files.connect(&fixture, id, 600).await;
    let (_one, mut first) = open_as(&short, None, sidecar("game", &[])).await.unwrap();
    let (_two, mut second) = open_as(&short, None, sidecar("game", &[])).await.unwrap();
    let (_three, mut other) = open_as(&long, None, sidecar("game", &[])).await.unwrap();
    for responses in [&mut first, &mut second, &mut other] {
        next(responses).await;
    }
    // Nothing is pushed.
    for responses in [&mut first, &mut second] {
        let end = ends_without_a_word(responses).await;
        assert_eq!(end.code(), Code::Unauthenticated);
        assert_eq!(end.message(), "not let in any more: the client certificate has expired");
    }
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="revoked_expired"} 2"#));
    // Another certificate takes another connection: this one is not kept.
    until(&fixture, "realmgate_xds_connections 1").await;
    fixture.source.0.send_replace(snapshot(&["key@2"], &[], &[], &[]));
    assert_eq!(next(&mut other).await.resources[0].version, "2");

    // Another authority: nobody has a certificate of it yet.
    let ca = files.dir.path().join("clients.pem");
    std::fs::write(ca.with_extension("new"), authority().pem()).unwrap();
    std::fs::rename(ca.with_extension("new"), ca).unwrap();
    let end = ends_without_a_word(&mut other).await;
    assert_eq!(end.code(), Code::Unauthenticated);
    assert!(end.message().contains("of no authority in"), "{end}");
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="revoked_ca"} 1"#));
    until(&fixture, "realmgate_xds_connections 0").await;
}

#[tokio::test]
async fn only_operators_ask_how_all_proxies_are() {
    let files = Files::new();
    let game = format!("{GAME} role=sidecar service=game\n");
    let lines = format!("{game}{SHOP} role=* service=*\n{OPERATOR} role=operator\n");
    let fixture = Fixture::with(files.tokens(&lines), snapshot(&["a@1"], &[], &[], &[])).await;
    let (_requests, mut responses) =
        open_as(&fixture.client, Some(GAME), sidecar("game", &[])).await.unwrap();
    next(&mut responses).await;
    let channel = Endpoint::new(fixture.url.clone()).unwrap().connect().await.unwrap();
    let mut client = ClientStatusDiscoveryServiceClient::new(channel);
    let asks = |token: &str| {
        let mut request = Request::new(pb_status::ClientStatusRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    for token in [GAME, SHOP] {
        let end = client.fetch_client_status(asks(token)).await.unwrap_err();
        assert_eq!(end.code(), Code::PermissionDenied, "{end}");
        assert!(end.message().contains("role=operator"), "{end}");
    }
    assert!(fixture.metric(r#"realmgate_xds_streams_refused_total{reason="status_permission"} 2"#));
    let end = client.fetch_client_status(pb_status::ClientStatusRequest::default()).await.unwrap_err();
    assert_eq!(end.code(), Code::Unauthenticated);
    let answer = client.fetch_client_status(asks(OPERATOR)).await.unwrap().into_inner();
    assert_eq!(answer.config.len(), 1);

    let (questions, outgoing) = tokio::sync::mpsc::channel(8);
    let stream = asks(OPERATOR).map(|_| tokio_stream::wrappers::ReceiverStream::new(outgoing));
    let mut answers = client.stream_client_status(stream).await.unwrap().into_inner();
    questions.send(pb_status::ClientStatusRequest::default()).await.unwrap();
    next(&mut answers).await;
    files.write("tokens", &game);
    let end = ends_without_a_word(&mut answers).await;
    assert_eq!(end.code(), Code::Unauthenticated);
    fixture.source.0.send_replace(snapshot(&["a@2"], &[], &[], &[]));
    next(&mut responses).await;
}

#[tokio::test]
async fn a_name_that_forges_lines_is_no_name() {
    let fixture = Fixture::new(snapshot(&["a@1"], &[], &[], &[])).await;
    for (id, metadata) in [
        ("edge-1\nedge-2  edge  -  10.0.0.1:1  envoy 1.40.0  delta  1s ago  -  synced", &[][..]),
        ("edge-1", &[("service", "game\u{1b}[2J")][..]),
        ("edge-1", &[("role", "sidecar\n2026-01-01T00:00:00Z  INFO realmgate: all is well")][..]),
    ] {
        let node = Node { id: id.to_owned(), ..node(metadata) };
        let end = refused(&fixture.client, None, node).await;
        assert_eq!(end.code(), Code::InvalidArgument, "{end}");
        assert!(end.message().contains("holds a control character"), "{end}");
    }
    assert!(fixture.registry.proxies().is_empty());
}
