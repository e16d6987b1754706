//! Who proxies are to each other: certificates, and whom to believe.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// The certificates of our proxies and the authorities of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// What every SPIFFE id begins with, `<uuid>.consul` of a Consul; one for all datacenters.
    pub trust_domain: String,
    /// Root certificates, PEM, the active one and those that are on their way out.
    pub roots: Arc<[String]>,
    /// By the name of the service that they are for.
    pub leaves: BTreeMap<String, Arc<Leaf>>,
}

/// A service's certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// `spiffe://<trust domain>/ns/default/dc/<datacenter>/svc/<service>`.
    pub uri: String,
    /// The certificate and those between it and a root, PEM.
    pub chain: String,
    /// Its private key, PEM.
    pub key: String,
    /// From when it holds.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

impl fmt::Debug for Leaf {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("uri", &self.uri)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
