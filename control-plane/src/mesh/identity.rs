//! Who proxies are to each other: certificates, and whom to believe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use zeroize::Zeroize;

use crate::model::{Policy, ServiceTls};

/// The certificates of our proxies and the authorities of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identities {
    /// What every SPIFFE id begins with, `<uuid>.consul` of a Consul; one for all datacenters.
    pub trust_domain: String,
    /// The datacenter whose leaves these are: ours.
    pub datacenter: String,
    /// Root certificates, PEM, the active one and those that are on their way out.
    pub roots: Arc<[String]>,
    /// By the name of the service that they are for.
    pub leaves: BTreeMap<String, Arc<Leaf>>,
    /// Whether the authority may be another one than proxies know: it was made anew, and nobody said yet that this is meant.
    pub unproven: bool,
}

impl Identities {
    /// Whether an authority was heard of at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.trust_domain.is_empty()
    }

    /// The SPIFFE id of a service in a datacenter.
    #[must_use]
    pub fn uri(&self, datacenter: &str, service: &str) -> String {
        format!("spiffe://{}/ns/default/dc/{datacenter}/svc/{service}", self.trust_domain)
    }

    /// What a proxy that is this service needs of them: of the leaves its own alone.
    #[must_use]
    pub fn of(&self, service: &str) -> Self {
        let leaf = self.leaves.get_key_value(service).map(|(name, leaf)| (name.clone(), Arc::clone(leaf)));
        Self {
            trust_domain: self.trust_domain.clone(),
            datacenter: self.datacenter.clone(),
            roots: Arc::clone(&self.roots),
            leaves: leaf.into_iter().collect(),
            unproven: self.unproven,
        }
    }

    /// The leaf of a service, if it has one that can be used. Without a root nobody can be believed.
    #[must_use]
    pub fn leaf(&self, service: &str) -> Option<&Arc<Leaf>> {
        self.leaves.get(service).filter(|_| !self.roots.is_empty())
    }
}

/// The services whose certificates our proxies need: the edges' own, and those with sidecars.
#[must_use]
pub fn wanted_leaves(policy: &Policy, edge_service: &str) -> BTreeSet<String> {
    let meshed = policy.services.iter().filter(|service| service.tls == ServiceTls::Mesh);
    let mut wanted: BTreeSet<_> = meshed.map(|service| service.mesh_name().to_owned()).collect();
    // Who speaks to nobody needs no certificate, and must not wait for one.
    if !wanted.is_empty() {
        wanted.insert(edge_service.to_owned());
    }
    wanted
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

impl Drop for Leaf {
    /// The key does not stay in memory that others are given.
    fn drop(&mut self) {
        self.key.zeroize();
    }
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
