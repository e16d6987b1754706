//! TLS towards Redis, by files that are read at each connection, so that replaced ones are taken up.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use zeroize::Zeroizing;

use super::RedisTlsFiles;

/// Certificates and keys are a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// TLS over `stream` with whoever proves to be `host` by one of our authorities.
pub(super) async fn over(
    stream: TcpStream,
    host: &str,
    files: &Arc<RedisTlsFiles>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::other("the host in redis.url cannot stand in a certificate"))?;
    let files = Arc::clone(files);
    let config = spawn_blocking(move || config(&files)).await.map_err(io::Error::other)??;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn config(files: &RedisTlsFiles) -> io::Result<ClientConfig> {
    let Some(ca) = &files.ca else {
        return Err(io::Error::other("redis.url is rediss: redis.tls.ca_file has to name its authorities"));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|e| unusable(ca, &e.to_string()))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let Some((cert, key)) = &files.client else { return Ok(builder.with_no_client_auth()) };
    // Not what the reader says of it: that may repeat a line of the key.
    let key_of = |text: &[u8]| PrivateKeyDer::from_pem_slice(text).ok();
    let private = key_of(&read(key)?).ok_or_else(|| unusable(key, "it holds no private key in PEM"))?;
    builder.with_client_auth_cert(certificates(cert)?, private).map_err(|e| unusable(cert, &e.to_string()))
}

/// The certificates of a file, of which there has to be one.
fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|e| unusable(path, &e.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable(path, "it holds no certificate in PEM"));
    }
    Ok(certificates)
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let fault = |error: io::Error| unusable(path, &error.to_string());
    let file = fs::File::open(path).map_err(fault)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(fault)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(unusable(path, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

fn unusable(path: &Path, problem: &str) -> io::Error {
    io::Error::other(format!("{}: {problem}", path.display()))
}
