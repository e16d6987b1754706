//! The token and the CA of Consul, read again when their files change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::error::ConsulError;

/// Whoever rotates a token waits minutes for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Both are a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Size and time of a file: what changes when it is replaced.
type Stamp = Option<(u64, SystemTime)>;

/// A value read from a file that follows it. Reading a small local file now and then needs no thread of its own.
#[derive(Debug)]
pub(super) struct Followed<T> {
    path: Option<PathBuf>,
    read: fn(&Path) -> Result<T, ConsulError>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    looked: Option<Instant>,
    stamp: Stamp,
    value: Option<Arc<T>>,
}

impl<T> Followed<T> {
    pub(super) const fn new(path: Option<PathBuf>, read: fn(&Path) -> Result<T, ConsulError>) -> Self {
        Self { path, read, state: Mutex::new(State { looked: None, stamp: None, value: None }) }
    }

    /// The value, `None` where no file was named. A file that can no longer be used is an error: to go on with a token
    /// that was taken back would only look like another fault.
    pub(super) fn get(&self) -> Result<Option<Arc<T>>, ConsulError> {
        let Some(path) = &self.path else { return Ok(None) };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if due || state.value.is_none() {
            let stamp = stamp(path);
            if stamp.is_none() || stamp != state.stamp || state.value.is_none() {
                state.value = None;
                state.value = Some(Arc::new((self.read)(path)?));
                state.stamp = stamp;
            }
            state.looked = Some(Instant::now());
        }
        Ok(state.value.clone())
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// A token as the header that carries it.
pub(super) fn token(path: &Path) -> Result<HeaderValue, ConsulError> {
    let text = read(path)?;
    let text = String::from_utf8(text).map_err(|_| unusable(path, "it is not text"))?;
    let mut header =
        HeaderValue::from_str(text.trim()).map_err(|_| unusable(path, "it holds more than one line"))?;
    if header.is_empty() {
        return Err(unusable(path, "it is empty"));
    }
    // Kept out of whatever prints headers.
    header.set_sensitive(true);
    Ok(header)
}

/// Certificates of authorities as the TLS configuration that believes them alone.
pub(super) fn authorities(path: &Path) -> Result<ClientConfig, ConsulError> {
    let text = read(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|e| unusable(path, &e.to_string()))?;
        roots.add(certificate).map_err(|e| unusable(path, &e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable(path, "it holds no certificate"));
    }
    believing(roots).map_err(|e| unusable(path, &e.to_string()))
}

/// TLS with whomever these authorities vouch for.
pub(super) fn believing(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn read(path: &Path) -> Result<Vec<u8>, ConsulError> {
    let size = fs::metadata(path).map_err(|e| unusable(path, &e.to_string()))?.len();
    if size > MAX_FILE {
        return Err(unusable(path, "it is larger than 1 MiB"));
    }
    fs::read(path).map_err(|e| unusable(path, &e.to_string()))
}

fn unusable(path: &Path, problem: &str) -> ConsulError {
    ConsulError::File { path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_and_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (text, good) in [("abc\n", true), ("", false), ("a\nb", false), ("  \n", false)] {
            fs::write(&path, text).unwrap();
            let token = token(&path);
            assert_eq!(token.is_ok(), good, "{text:?}");
            assert!(!format!("{token:?}").contains("abc"));
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_missed_when_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let followed = Followed::new(Some(path.clone()), token);
        assert_eq!(followed.get().unwrap_err().label(), "file");
        fs::write(&path, "one").unwrap();
        assert_eq!(*followed.get().unwrap().unwrap(), "one");
        fs::write(&path, "second").unwrap();
        followed.state.lock().unwrap().looked = None;
        assert_eq!(*followed.get().unwrap().unwrap(), "second");
        fs::remove_file(&path).unwrap();
        followed.state.lock().unwrap().looked = None;
        followed.get().unwrap_err();
        assert!(Followed::new(None, token).get().unwrap().is_none());
    }

    #[test]
    fn authorities_are_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        fs::write(&path, "no certificate").unwrap();
        assert!(authorities(&path).unwrap_err().to_string().contains("no certificate"));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["consul".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(&path, certificate.pem()).unwrap();
        authorities(&path).unwrap();
    }
}
