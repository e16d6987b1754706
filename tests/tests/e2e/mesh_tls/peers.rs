//! Peers of the mesh without an Envoy: certificates of any authority, and a small client that shows them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, KeyUsagePurpose, SanType};
use realmgate_tests::consul::in_url;
use realmgate_tests::{Consul, Frame};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::{TlsConnector, rustls};

use crate::cast::LIMIT;

const DAY: Duration = Duration::from_hours(24);

/// Who signs a peer's certificate.
pub(super) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// The authority that a control plane with its data here has embedded.
    pub(super) fn of(data_dir: &Path) -> Self {
        let text = fs::read_to_string(data_dir.join("mesh-ca.json")).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let root = &document["roots"][0];
        let key = KeyPair::from_pem(root["key"].as_str().unwrap()).unwrap();
        Self::new(root["name"].as_str().unwrap(), key)
    }

    /// One that nobody knows.
    pub(super) fn foreign() -> Self {
        Self::new("foreign", KeyPair::generate().unwrap())
    }

    fn new(name: &str, key: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(Issuer::new(params, key))
    }

    /// A peer with this SPIFFE id, good until a day from now.
    pub(super) fn peer(&self, uri: &str) -> Peer {
        self.peer_until(uri, SystemTime::now() + DAY)
    }

    /// A peer whose certificate is good until then.
    pub(super) fn peer_until(&self, uri: &str, until: SystemTime) -> Peer {
        self.sign(&certificate(&[uri], until))
    }

    /// A peer with several ids.
    pub(super) fn peer_of_many(&self, uris: &[&str]) -> Peer {
        self.sign(&certificate(uris, SystemTime::now() + DAY))
    }

    fn sign(&self, params: &CertificateParams) -> Peer {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Peer::with(Some((certificate.pem(), key.serialize_pem())))
    }
}

fn certificate(uris: &[&str], until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())).collect();
    params.not_before = (until - 2 * DAY).into();
    params.not_after = until.into();
    params
}

/// A client of the mesh.
pub(super) struct Peer(TlsConnector);

impl Peer {
    /// One that shows no certificate.
    pub(super) fn nameless() -> Self {
        Self::with(None)
    }

    /// One that says itself who it is.
    pub(super) fn signed_by_itself(uri: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = certificate(&[uri], SystemTime::now() + DAY).self_signed(&key).unwrap();
        Self::with(Some((certificate.pem(), key.serialize_pem())))
    }

    /// One that shows a service's certificate of this Consul.
    pub(super) fn of_consul(consul: &Consul, service: &str) -> Self {
        let leaf = consul.get(&format!("/v1/agent/connect/ca/leaf/{}", in_url(service)));
        let [chain, key] =
            ["CertPEM", "PrivateKeyPEM"].map(|field| leaf[field].as_str().expect(field).to_owned());
        Self::with(Some((chain, key)))
    }

    fn with(identity: Option<(String, String)>) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let config = config.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let config = match identity {
            Some((chain, key)) => {
                let chain =
                    CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
                config
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
            None => config.with_no_client_auth(),
        };
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// A connection that has said nothing yet. The server may refuse it later: in TLS 1.3 it looks at the client's
    /// certificate when the client is done.
    pub(super) async fn connect(&self, to: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from("mesh.internal").unwrap();
        timeout(LIMIT, self.0.connect(name, stream)).await.expect("a handshake that does not end")
    }

    /// Whether a message is answered; otherwise the connection is closed instead.
    pub(super) async fn is_let_in(&self, to: SocketAddr) -> bool {
        let Ok(mut stream) = self.connect(to).await else { return false };
        is_answered(&mut stream).await
    }
}

/// Whether a message on this connection is answered; otherwise it is closed instead.
pub(super) async fn is_answered(stream: &mut TlsStream<TcpStream>) -> bool {
    let frame = Frame::to_world(1, 1, b"hello".to_vec());
    let answer = async {
        stream.write_all(&frame.to_bytes()?).await?;
        let mut answer = BytesMut::new();
        while stream.read_buf(&mut answer).await? != 0 {
            if let Some(answer) = Frame::take(&mut answer) {
                assert_eq!(answer, frame);
                return io::Result::Ok(true);
            }
        }
        Ok(false)
    };
    timeout(LIMIT, answer).await.expect("neither answered nor closed").unwrap_or(false)
}

/// The peer tests the server's view of it; that servers prove who they are is tested where Envoy is the client.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
