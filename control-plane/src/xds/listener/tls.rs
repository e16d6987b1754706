//! TLS of the listener: its certificate, whom it trusts, and what a client's certificate says.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How the listener shows who it is, and whom it believes.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    clients: Option<Clients>,
}

/// Who may show a certificate.
#[derive(Debug)]
struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Of the file's content: other certificates of ours, or another key, change nothing for those who are there.
    authorities: [u8; 32],
}

/// A client's certificate, which was good when it connected.
pub(super) struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    /// Its only URI; none if it has not exactly one.
    pub(super) uri: Option<String>,
    verified: Mutex<Verified>,
}

/// What a certificate was last checked against, and how long that holds.
#[derive(Clone, Copy, Debug)]
struct Verified {
    authorities: [u8; 32],
    until: SystemTime,
}

/// Why a certificate is not good any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoMore {
    Expired,
    Untrusted,
}

/// Makes a configuration of the contents of PEM files: certificate chain, key and, where clients are to show
/// certificates, the authorities that may sign them. Fails with what is wrong, never with a secret.
pub(super) fn read(contents: &[Vec<u8>]) -> Result<Tls, String> {
    let (chain, key, authorities) = match contents {
        [chain, key] => (chain, key, None),
        [chain, key, authorities] => (chain, key, Some(authorities)),
        _ => return Err("a certificate and a key are needed".to_owned()),
    };
    let chain = certificates(chain).map_err(|error| format!("cert_file: {error}"))?;
    if let Some(leaf) = chain.first() {
        still_valid(leaf).map_err(|error| format!("cert_file: {error}"))?;
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("key_file: {error}"))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?;
    let (builder, clients) = match authorities {
        None => (builder.with_no_client_auth(), None),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem).map_err(|e| format!("client_ca_file: {e}"))? {
                roots.add(certificate).map_err(|error| format!("client_ca_file: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // One who has none is told so in words a proxy logs, by a status instead of an alert.
                .allow_unauthenticated()
                .build();
            let verifier = verifier.map_err(|error| format!("client_ca_file: {error}"))?;
            let clients =
                Clients { verifier: Arc::clone(&verifier), authorities: Sha256::digest(pem).into() };
            (builder.with_client_cert_verifier(verifier), Some(clients))
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
        error => error.to_string(),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry a certificate on whose authority may no longer be trusted. Proxies connect
    // once in hours: there is little to save, and nothing to keep for each of them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Tls { config: Arc::new(config), clients })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(certificates) }
}

/// Nobody would accept it; the one before may be good for a while.
fn still_valid(leaf: &CertificateDer<'_>) -> Result<(), String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let until = leaf.validity().not_after;
    if until < x509_parser::time::ASN1Time::now() {
        return Err(format!("the certificate expired at {until}"));
    }
    Ok(())
}

impl Certificate {
    /// What a client showed in a handshake under `tls`, and was good in the middle of it: a client may take its time with the
    /// end, so a certificate that has ended by now is looked at again.
    pub(super) fn shown(chain: Option<&[CertificateDer<'_>]>, tls: &Tls) -> Option<Self> {
        let chain: Vec<_> = chain?.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let uri = only_uri(chain.first()?);
        let authorities = tls.clients.as_ref()?.authorities;
        let verified = Verified { authorities, until: earliest_end(&chain, UNIX_EPOCH) };
        Some(Self { chain, uri, verified: Mutex::new(verified) })
    }

    /// Whether it is good at this time under `tls`. It costs the check of a signature only when the authorities have
    /// changed, or a certificate of its chain has ended.
    pub(super) fn check(&self, tls: &Tls, now: SystemTime) -> Result<(), NoMore> {
        let Some((clients, leaf)) = tls.clients.as_ref().zip(self.chain.first()) else {
            return Err(NoMore::Untrusted);
        };
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.authorities == clients.authorities && now < verified.until {
            return Ok(());
        }
        let between = self.chain.get(1..).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        match clients.verifier.verify_client_cert(leaf, between, time) {
            Ok(_) => {
                let until = earliest_end(&self.chain, now);
                *verified = Verified { authorities: clients.authorities, until };
                Ok(())
            }
            Err(Error::InvalidCertificate(error)) if is_of_time(&error) => Err(NoMore::Expired),
            Err(_) => Err(NoMore::Untrusted),
        }
    }

    /// When it has to be checked again.
    pub(super) fn until(&self) -> SystemTime {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).until
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// The first moment after `now` at which one of these has ended: a second after the last that it names, which is good yet.
fn earliest_end(chain: &[CertificateDer<'_>], now: SystemTime) -> SystemTime {
    let end = |certificate: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let last = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(last.checked_add(1)?))
    };
    let ends = chain.iter().filter_map(end).filter(|end| *end > now);
    ends.min().unwrap_or(now)
}

fn is_of_time(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. })
}

/// The URI of a certificate that has exactly one, as the SPIFFE standard wants it.
fn only_uri(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next()?.to_owned();
    uris.next().is_none().then_some(uri)
}

/// A short name for a client certificate that was refused; none when something else went wrong.
pub(super) fn refused_certificate(error: &io::Error) -> Option<&'static str> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(error) => Some(match error {
            CertificateError::UnknownIssuer => "unknown_ca",
            error if is_of_time(error) => "expired_certificate",
            _ => "bad_certificate",
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn issue(names: &[&str], expired: bool) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let san = |name: &&str| match name.strip_prefix("dns:") {
            Some(name) => SanType::DnsName(name.try_into().unwrap()),
            None => SanType::URI((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(san).collect();
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap(), key)
    }

    #[test]
    fn a_certificate_that_ended_during_the_handshake_is_not_good_whatever_stands_behind_it() {
        let (ours, key) = issue(&["dns:here"], false);
        let (long, _) = issue(&["dns:anyone"], false);
        let pem = |text: String| text.into_bytes();
        let tls = read(&[pem(ours.pem()), pem(key.serialize_pem()), pem(long.pem())]).unwrap();
        let (ended, _) = issue(&["spiffe://d/ns/default/dc/aws/svc/game"], true);
        let chain = [ended.der().clone(), long.der().clone()];
        let shown = Certificate::shown(Some(&chain), &tls).unwrap();
        assert!(shown.check(&tls, SystemTime::now()).is_err());
    }

    #[test]
    fn a_certificate_says_who_it_is_by_one_uri() {
        const CHAT: &str = "spiffe://d/ns/default/dc/aws/svc/chat";
        let said = |names: &[&str]| only_uri(issue(names, false).0.der());
        assert_eq!(said(&[CHAT]).as_deref(), Some(CHAT));
        assert_eq!(said(&["dns:chat.example.com", CHAT]).as_deref(), Some(CHAT));
        for names in [&[][..], &["dns:chat"], &[CHAT, "spiffe://d/ns/default/dc/aws/svc/shop"]] {
            assert_eq!(said(names), None, "{names:?}");
        }
        assert_eq!(only_uri(&vec![0x30, 0x80].into()), None);
    }

    #[test]
    fn a_certificate_is_good_until_it_ends_and_while_its_authority_is_trusted() {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (ours, next) = (authority("ours"), authority("next"));
        let now = SystemTime::now();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Whole seconds, as in certificates.
        let seconds = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let last = UNIX_EPOCH + Duration::from_secs(seconds + 3600);
        params.not_after = last.into();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &ours).unwrap();
        let (cert, key) = issue(&["dns:a"], false);
        let tls = |authorities: &str| {
            let files = [cert.pem(), key.serialize_pem(), authorities.to_owned()];
            read(&files.map(String::into_bytes)).unwrap()
        };
        let before = tls(&ours.pem());
        let shown = Certificate::shown(Some(&[leaf.der().clone()]), &before).unwrap();
        assert_eq!(shown.until(), last + Duration::from_secs(1));
        assert_eq!(shown.check(&before, last), Ok(()));
        assert_eq!(shown.check(&before, last + Duration::from_secs(1)), Err(NoMore::Expired));
        let both = tls(&(ours.pem() + &next.pem()));
        assert_eq!(shown.check(&both, now), Ok(()));
        assert_eq!(shown.check(&tls(&next.pem()), now), Err(NoMore::Untrusted));
        assert_eq!(shown.check(&both, now), Ok(()), "it is trusted again");
        let none = read(&[cert.pem(), key.serialize_pem()].map(String::into_bytes)).unwrap();
        assert_eq!(shown.check(&none, now), Err(NoMore::Untrusted));
        assert!(Certificate::shown(None, &before).is_none());
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_their_secrets_are_not() {
        let (cert, key) = issue(&["dns:a"], false);
        let (_, other) = issue(&["dns:a"], false);
        let (old, old_key) = issue(&["dns:a"], true);
        let config = |cert: &str, key: &str, ca: Option<&str>| {
            let files: Vec<_> = [cert, key].into_iter().chain(ca).map(|f| f.as_bytes().to_vec()).collect();
            read(&files).map(drop)
        };
        let (cert, key) = (cert.pem(), key.serialize_pem());
        assert_eq!(config(&cert, &key, None), Ok(()));
        assert_eq!(config(&cert, &key, Some(&cert)), Ok(()));
        for (files, words) in [
            ((cert.as_str(), other.serialize_pem(), None), "the key is not that of the certificate"),
            ((old.pem().as_str(), old_key.serialize_pem(), None), "cert_file: the certificate expired at"),
            (("", key.clone(), None), "cert_file: there is no certificate in it"),
            ((&key, key.clone(), None), "cert_file: there is no certificate in it"),
            ((&cert, cert.clone(), None), "key_file: "),
            ((&cert, key.clone(), Some("x")), "client_ca_file: there is no certificate in it"),
        ] {
            let error = config(files.0, &files.1, files.2).unwrap_err();
            assert!(error.contains(words) && !error.contains("PRIVATE"), "{error}");
        }
    }
}
