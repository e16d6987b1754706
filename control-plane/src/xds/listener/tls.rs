//! TLS of the listener: its certificate, whom it trusts, and what a client's certificate says.

use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::Presented;
use super::identity::SpiffeId;

/// Makes a configuration of the contents of PEM files: certificate chain, key and, where clients are to show
/// certificates, the authorities that may sign them. Fails with what is wrong, never with a secret.
pub(super) fn server_config(contents: &[Vec<u8>]) -> Result<ServerConfig, String> {
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
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(authorities).map_err(|e| format!("client_ca_file: {e}"))? {
                roots.add(certificate).map_err(|error| format!("client_ca_file: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // One who has none is told so in words a proxy logs, by a status instead of an alert.
                .allow_unauthenticated()
                .build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("client_ca_file: {error}"))?)
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
    Ok(config)
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

/// What a client's verified certificate says.
pub(super) fn presented(chain: Option<&[CertificateDer<'_>]>) -> Presented {
    let Some(leaf) = chain.and_then(<[_]>::first) else { return Presented::Nothing };
    spiffe_id(leaf).map_or(Presented::Nameless, |id| Presented::Certificate(Arc::new(id)))
}

/// The id of a certificate that has exactly one, as the standard wants it.
fn spiffe_id(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next()?;
    SpiffeId::parse(uri).filter(|_| uris.next().is_none())
}

/// A short name for a client certificate that was refused; none when something else went wrong.
pub(super) fn refused_certificate(error: &io::Error) -> Option<&'static str> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(error) => Some(match error {
            CertificateError::UnknownIssuer => "unknown_ca",
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired_certificate",
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
    fn a_certificate_says_who_it_is_by_one_uri() {
        const CHAT: &str = "spiffe://d/svc/chat";
        let said = |names: &[&str]| presented(Some(&[issue(names, false).0.der().clone()]));
        let chat = Presented::Certificate(Arc::new(SpiffeId::parse(CHAT).unwrap()));
        assert_eq!(said(&[CHAT]), chat);
        assert_eq!(said(&["dns:chat.example.com", CHAT]), chat);
        for names in [&[][..], &["dns:chat"], &["https://d/svc/chat"], &[CHAT, "spiffe://d/svc/shop"]] {
            assert_eq!(said(names), Presented::Nameless, "{names:?}");
        }
        assert_eq!(presented(Some(&[vec![0x30, 0x80].into()])), Presented::Nameless);
        assert_eq!(presented(None), Presented::Nothing);
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_their_secrets_are_not() {
        let (cert, key) = issue(&["dns:a"], false);
        let (_, other) = issue(&["dns:a"], false);
        let (old, old_key) = issue(&["dns:a"], true);
        let config = |cert: &str, key: &str, ca: Option<&str>| {
            let files: Vec<_> = [cert, key].into_iter().chain(ca).map(|f| f.as_bytes().to_vec()).collect();
            server_config(&files).map(drop)
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
