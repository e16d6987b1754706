//! `/v1/connect/ca/roots` and `/v1/agent/connect/ca/leaf/:service`.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::super::client::Answer;
use super::super::error::ConsulError;
use super::or_default;
use crate::mesh::identity::{Leaf, in_spiffe_id};

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
}

/// The roots. A Consul whose CA is not ready yet has none, which is an error: it must not take away those that we have.
/// Nor must an active one that nobody believes any more.
pub(in super::super) fn roots(answer: &Answer, now: SystemTime) -> Result<Roots, ConsulError> {
    let malformed =
        |problem: &str| ConsulError::Malformed { path: answer.path.clone(), problem: problem.to_owned() };
    let mut stated: StatedRoots = answer.json()?;
    stated.roots.sort_by_key(|root| !root.active);
    if stated.trust_domain.is_empty() || !stated.roots.first().is_some_and(|root| root.active) {
        return Err(malformed("there is no active root: Connect is off, or its CA not ready"));
    }
    for root in &stated.roots {
        let stated = certificate(&root.root_cert).ok_or_else(|| malformed("a root is no certificate"))?;
        if root.active && stated.not_after <= now {
            return Err(unusable(answer, "the active root has expired"));
        }
    }
    let pem = |root: StatedRoot| with_newline(&root.root_cert);
    Ok(Roots { trust_domain: stated.trust_domain, roots: stated.roots.into_iter().map(pem).collect() })
}

/// A leaf of this service in this trust domain (empty = not known yet). What it holds is checked, never printed. One that
/// does not hold yet is taken: clocks differ, and those who will look at it have their own.
pub(in super::super) fn leaf(
    answer: &Answer,
    trust_domain: &str,
    service: &str,
    now: SystemTime,
) -> Result<Leaf, ConsulError> {
    let malformed =
        |problem: &str| ConsulError::Malformed { path: answer.path.clone(), problem: problem.to_owned() };
    // The words of a parser may repeat what they could not read.
    let stated: StatedLeaf = answer.json().map_err(|_| malformed("it is no leaf certificate"))?;
    let leaf = certificate(&stated.cert).ok_or_else(|| malformed("its certificate cannot be read"))?;
    if !stated.key.contains("PRIVATE KEY-----") {
        return Err(malformed("it lacks a key"));
    }
    let Certificate { uri: Some(uri), not_before, not_after } = leaf else {
        return Err(unusable(answer, "it has no SPIFFE id"));
    };
    if not_after <= now {
        return Err(unusable(answer, "it has expired"));
    }
    let of_domain = trust_domain.is_empty() || uri.starts_with(&format!("spiffe://{trust_domain}/"));
    let of_service = in_spiffe_id(service).is_some_and(|service| uri.ends_with(&format!("/svc/{service}")));
    if !of_domain || !of_service {
        return Err(unusable(answer, &format!("it is for {uri}")));
    }
    Ok(Leaf { uri, chain: with_newline(&stated.cert), key: with_newline(&stated.key), not_before, not_after })
}

fn unusable(answer: &Answer, problem: &str) -> ConsulError {
    ConsulError::Certificate { path: answer.path.clone(), problem: problem.to_owned() }
}

/// What a certificate says of itself; Consul says the same beside it.
struct Certificate {
    /// Its SPIFFE id.
    uri: Option<String>,
    not_before: SystemTime,
    not_after: SystemTime,
}

fn certificate(pem: &str) -> Option<Certificate> {
    let first = Pem::iter_from_buffer(pem.as_bytes()).next()?.ok()?;
    let certificate = first.parse_x509().ok()?;
    let time =
        |seconds: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    let names = certificate.subject_alternative_name().ok()?;
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
            _ => None,
        })
    });
    let (not_before, not_after) =
        (time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?);
    Some(Certificate { uri, not_before, not_after })
}

fn with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};
    use serde_json::json;

    use super::*;
    use crate::source::consul::answer::tests::answer;

    const URI: &str = "spiffe://x.consul/ns/default/dc/a/svc/b";
    const DAY: Duration = Duration::from_hours(24);

    fn signed(uri: &str, not_before: SystemTime, not_after: SystemTime) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        (params.not_before, params.not_after) = (not_before.into(), not_after.into());
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn good(uri: &str) -> (String, String) {
        signed(uri, SystemTime::now() - DAY, SystemTime::now() + DAY)
    }

    #[test]
    fn the_active_root_comes_first_and_none_is_an_error() {
        let now = SystemTime::now();
        let ((old, _), (new, _)) = (signed(URI, now - 9 * DAY, now - DAY), good(URI));
        let said = json!({"TrustDomain": "x.consul", "Roots": [{"RootCert": old}, {"RootCert": new, "Active": true}]});
        let read = roots(&answer(&said.to_string()), now).unwrap();
        assert_eq!(
            (read.trust_domain.as_str(), read.roots),
            ("x.consul", vec![with_newline(&new), with_newline(&old)])
        );
        for (odd, label) in [
            (json!({"TrustDomain": "x.consul", "Roots": null}), "malformed"),
            (json!({"TrustDomain": "", "Roots": [{"RootCert": new, "Active": true}]}), "malformed"),
            (json!({"TrustDomain": "x.consul", "Roots": [{"RootCert": "no", "Active": true}]}), "malformed"),
            (json!({"TrustDomain": "x.consul", "Roots": [{"RootCert": old, "Active": true}]}), "certificate"),
        ] {
            assert_eq!(roots(&answer(&odd.to_string()), now).unwrap_err().label(), label, "{odd}");
        }
    }

    #[test]
    fn a_leaf_is_read_and_its_key_never_told() {
        let now = SystemTime::now();
        let read = |(certificate, key): &(String, String)| {
            leaf(
                &answer(&json!({"CertPEM": certificate, "PrivateKeyPEM": key}).to_string()),
                "x.consul",
                "b",
                now,
            )
        };
        let certificate = good(URI);
        let good_one = read(&certificate).unwrap();
        assert!(good_one.not_before < good_one.not_after && good_one.key == with_newline(&certificate.1));
        assert_eq!(good_one.uri, URI);
        // Another datacenter's clock may be ahead of ours.
        read(&signed(URI, now + DAY, now + 2 * DAY)).unwrap();
        let key = || certificate.1.clone();
        for (odd, label) in [
            (("no".to_owned(), key()), "malformed"),
            ((certificate.0.clone(), "none".to_owned()), "malformed"),
            (signed(URI, now - 2 * DAY, now), "certificate"),
            (good("spiffe://y.consul/ns/default/dc/a/svc/b"), "certificate"),
            (good("spiffe://x.consul/ns/default/dc/a/svc/c"), "certificate"),
            (good("http://x.consul/svc/b"), "certificate"),
        ] {
            let error = read(&odd).unwrap_err();
            assert!(error.label() == label && !format!("{error:?}").contains("BEGIN"), "{error}");
        }
        let secret = json!({"CertPEM": certificate.0, "PrivateKeyPEM": {"secret": key()}}).to_string();
        let error = leaf(&answer(&secret), "x.consul", "b", now).unwrap_err();
        assert!(error.label() == "malformed" && !format!("{error:?}").contains("BEGIN"), "{error}");
    }
}
