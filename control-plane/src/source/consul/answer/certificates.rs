//! `/v1/connect/ca/roots` and `/v1/agent/connect/ca/leaf/:service`.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use x509_parser::pem::Pem;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;
use crate::mesh::identity::Leaf;

/// Whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Roots {
    pub(in super::super) trust_domain: String,
    /// PEM, the active one first.
    pub(in super::super) roots: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedRoots {
    #[serde(default)]
    trust_domain: String,
    #[serde(default, deserialize_with = "or_default")]
    roots: Vec<StatedRoot>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedRoot {
    root_cert: String,
    #[serde(default)]
    active: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatedLeaf {
    #[serde(rename = "CertPEM")]
    cert: String,
    #[serde(rename = "PrivateKeyPEM")]
    key: String,
    #[serde(rename = "ServiceURI")]
    uri: String,
}

/// The roots. A Consul whose CA is not ready yet has none, which is an error: it must not take away those that we have.
pub(in super::super) fn roots(answer: &Answer) -> Result<Roots, ConsulError> {
    let malformed =
        |problem: &str| ConsulError::Malformed { path: answer.path.clone(), problem: problem.to_owned() };
    let mut stated: StatedRoots = answer.json()?;
    stated.roots.sort_by_key(|root| !root.active);
    if stated.trust_domain.is_empty() || !stated.roots.first().is_some_and(|root| root.active) {
        return Err(malformed("there is no active root: Connect is off, or its CA not ready"));
    }
    for root in &stated.roots {
        validity(&root.root_cert).ok_or_else(|| malformed("a root is no certificate"))?;
    }
    let pem = |root: StatedRoot| with_newline(&root.root_cert);
    Ok(Roots { trust_domain: stated.trust_domain, roots: stated.roots.into_iter().map(pem).collect() })
}

/// A leaf. What it holds is checked, never printed.
pub(in super::super) fn leaf(answer: &Answer) -> Result<Leaf, ConsulError> {
    let malformed =
        |problem: &str| ConsulError::Malformed { path: answer.path.clone(), problem: problem.to_owned() };
    // The words of a parser may repeat what they could not read.
    let stated: StatedLeaf = answer.json().map_err(|_| malformed("it is no leaf certificate"))?;
    let (not_before, not_after) =
        validity(&stated.cert).ok_or_else(|| malformed("its certificate cannot be read"))?;
    if !stated.key.contains("PRIVATE KEY-----") || !stated.uri.starts_with("spiffe://") {
        return Err(malformed("it lacks a key or a SPIFFE id"));
    }
    Ok(Leaf {
        uri: stated.uri,
        chain: with_newline(&stated.cert),
        key: with_newline(&stated.key),
        not_before,
        not_after,
    })
}

/// Consul's own `ValidAfter` and `ValidBefore` say the same; the certificate decides.
fn validity(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    let certificate = first.parse_x509().ok()?;
    let time =
        |seconds: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

fn with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    use super::*;
    use crate::source::consul::answer::tests::answer;

    fn certificate() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn the_active_root_comes_first_and_none_is_an_error() {
        let ((old, _), (new, _)) = (certificate(), certificate());
        let said = json!({"TrustDomain": "x.consul", "Roots": [{"RootCert": old}, {"RootCert": new, "Active": true}]});
        let read = roots(&answer(&said.to_string())).unwrap();
        assert_eq!(
            (read.trust_domain.as_str(), read.roots),
            ("x.consul", vec![with_newline(&new), with_newline(&old)])
        );
        for odd in [
            json!({"TrustDomain": "x.consul", "Roots": null}),
            json!({"TrustDomain": "", "Roots": [{"RootCert": new, "Active": true}]}),
            json!({"TrustDomain": "x.consul", "Roots": [{"RootCert": "no", "Active": true}]}),
        ] {
            assert_eq!(roots(&answer(&odd.to_string())).unwrap_err().label(), "malformed");
        }
    }

    #[test]
    fn a_leaf_is_read_and_its_key_never_told() {
        let (certificate, key) = certificate();
        let said = json!({"CertPEM": certificate, "PrivateKeyPEM": key, "ServiceURI": "spiffe://x/ns/default/dc/a/svc/b"});
        let read = leaf(&answer(&said.to_string())).unwrap();
        assert!(read.not_before < read.not_after && read.key == with_newline(&key));
        for odd in [
            json!({"CertPEM": "no", "PrivateKeyPEM": key, "ServiceURI": "spiffe://x"}),
            json!({"CertPEM": certificate, "PrivateKeyPEM": {"secret": key}, "ServiceURI": "spiffe://x"}),
            json!({"CertPEM": certificate, "PrivateKeyPEM": key, "ServiceURI": "http://x"}),
        ] {
            let error = leaf(&answer(&odd.to_string())).unwrap_err();
            assert!(error.label() == "malformed" && !format!("{error:?}").contains("BEGIN"), "{error}");
        }
    }
}
