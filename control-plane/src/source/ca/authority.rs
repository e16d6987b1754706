//! A root and what it signs.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, string::Ia5String,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::mesh::identity::Leaf;

/// Clocks of proxies may be behind ours by this much.
const BACKDATED: Duration = Duration::from_mins(1);

/// A root certificate and its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authority {
    /// Its common name, distinct from that of every other root.
    pub(super) name: String,
    /// PEM.
    pub(super) certificate: String,
    /// PEM.
    key: String,
    /// When it was made and published.
    pub(super) created: SystemTime,
    /// Until when it is believed.
    pub(super) expires: SystemTime,
}

impl Drop for Authority {
    /// The key does not stay in memory that others are given.
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl std::fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.name)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// A new root, self-signed.
    pub(super) fn create(
        trust_domain: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Self, rcgen::Error> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("Realmgate development CA {}", since.as_millis());
        let expires = whole_seconds(now + lifetime);
        let mut params = params_of(&name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.subject_alt_names = vec![SanType::URI(uri(&format!("spiffe://{trust_domain}"))?)];
        params.not_before = (now - BACKDATED).into();
        params.not_after = expires.into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { name, certificate, key: key.serialize_pem(), created: now, expires })
    }

    /// The certificate of a proxy, which is client and server alike. It does not outlive the root.
    pub(super) fn issue(&self, id: &str, now: SystemTime, lifetime: Duration) -> Result<Leaf, rcgen::Error> {
        let issuer = Issuer::new(params_of(&self.name), KeyPair::from_pem(&self.key)?);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri(id)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let (not_before, not_after) = (now - BACKDATED, whole_seconds(now + lifetime).min(self.expires));
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let chain = params.signed_by(&key, &issuer)?.pem();
        Ok(Leaf { uri: id.to_owned(), chain, key: key.serialize_pem(), not_before, not_after })
    }
}

/// What a root's certificate and its signing of others have to have alike.
fn params_of(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The next whole second: certificates count in seconds, and cut off what is behind the point.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() + u64::from(since.subsec_nanos() > 0))
}

fn uri(text: &str) -> Result<Ia5String, rcgen::Error> {
    Ia5String::try_from(text)
}
