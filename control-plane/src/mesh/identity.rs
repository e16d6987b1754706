//! Who proxies are to each other: certificates, and whom to believe.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroize;

use crate::model::{Policy, ServiceTls};

/// What Consul writes as `%` and two digits in the names of a SPIFFE id: it makes the path as Go's `net/url` does, which
/// leaves more as it is than the SPIFFE standard allows.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// A service's or datacenter's name as it stands in SPIFFE ids, the only way to write it there; ids are compared byte by
/// byte. None of a name that cannot be in a certificate: Consul leaves a slash as it is, and then finds that the id is
/// none. A comma it leaves, too, and Envoy joins the ids of a peer with commas: there it could stand for two.
#[must_use]
pub fn in_spiffe_id(name: &str) -> Option<String> {
    let fits = !name.is_empty() && !name.contains(['/', ',']);
    fits.then(|| utf8_percent_encode(name, ENCODED).to_string())
}

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

    /// The SPIFFE id of a service in a datacenter; none where names cannot be in one.
    #[must_use]
    pub fn uri(&self, datacenter: &str, service: &str) -> Option<String> {
        let (datacenter, service) = (in_spiffe_id(datacenter)?, in_spiffe_id(service)?);
        Some(format!("spiffe://{}/ns/default/dc/{datacenter}/svc/{service}", self.trust_domain))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realmgate_filter::guard::is_name;

    use super::*;

    /// What a real Consul 1.8.7 signs for these names.
    #[test]
    fn names_stand_in_ids_as_consul_writes_them() {
        for (name, encoded) in [
            ("shop", "shop"),
            ("GAME", "GAME"),
            ("my shop", "my%20shop"),
            ("a%20b", "a%2520b"),
            ("\u{fc}n\u{ef}", "%C3%BCn%C3%AF"),
            ("a:b@c;d=e&f$g+h", "a:b@c;d=e&f$g+h"),
            ("a~b_c-d.e", "a~b_c-d.e"),
            ("a!b*c'd(e)", "a%21b%2Ac%27d%28e%29"),
            ("a\"b<c>", "a%22b%3Cc%3E"),
            ("a|b^`{}[]", "a%7Cb%5E%60%7B%7D%5B%5D"),
            ("a#b?c\\d", "a%23b%3Fc%5Cd"),
        ] {
            assert_eq!(in_spiffe_id(name).as_deref(), Some(encoded), "{name}");
        }
        assert_eq!(["", "a/b", "a,b"].map(in_spiffe_id), [None, None, None]);
    }

    /// The guard has its own list of what stands for itself, and takes a name in no other words.
    #[test]
    fn the_guard_knows_names_as_they_are_written_and_in_no_other_way() {
        for byte in 0..=127_u8 {
            let plain = char::from(byte).to_string();
            let percent = format!("%{byte:02X}");
            let written = in_spiffe_id(&plain);
            assert_eq!(is_name(&plain), written.as_ref() == Some(&plain), "{plain:?}");
            assert_eq!(is_name(&percent), written.as_ref() == Some(&percent), "{percent}");
        }
        assert!(is_name("%C3%BCn%C3%AF.a%20b"));
        for other in
            ["", "a/b", "%c3%bc", "\u{fc}", "%", "a%2", "%2G", "%G0", "%25%", "a%2Fb", "a,b", "a%2Cb"]
        {
            assert!(!is_name(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_written_so_that_the_guard_knows_it(name in "[^/,]{1,8}") {
            let written = in_spiffe_id(&name).unwrap();
            prop_assert!(is_name(&written), "{}", written);
            let read = percent_encoding::percent_decode_str(&written).decode_utf8().unwrap();
            prop_assert_eq!(read, name);
        }
    }
}
