//! Who a proxy has proved to be, and whether that is what its node claims.

use std::fmt;
use std::sync::Arc;

use crate::xds::Scope;

/// What a peer has proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// By its certificate: a service, in a datacenter.
    Spiffe(Arc<SpiffeId>),
    /// By a token: that it is one of our proxies, whichever.
    Token,
}

/// The id of a certificate, as Consul writes it: `spiffe://<trust domain>/ns/<namespace>/dc/<datacenter>/svc/<service>`,
/// in any order and with further pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpiffeId {
    uri: String,
    service: Option<String>,
    datacenter: Option<String>,
}

/// Longest id, as the SPIFFE standard has it.
const MAX_ID_BYTES: usize = 2048;

impl SpiffeId {
    /// Reads a URI; none if it is no SPIFFE id.
    pub(super) fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        // The standard allows few characters, so an id can be put into logs and messages as it is. Consul also
        // percent-encodes.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/%~".contains(&b);
        if trust_domain.is_empty() || uri.len() > MAX_ID_BYTES || !path.bytes().all(plain) {
            return None;
        }
        let segments: Vec<_> = path.split('/').collect();
        let of = |key: &str| {
            let mut found = segments.chunks(2).filter_map(|pair| match pair {
                [name, value] if *name == key && !value.is_empty() => Some((*value).to_owned()),
                _ => None,
            });
            // Named twice it would be up to the reader which one counts.
            let first = found.next();
            first.filter(|_| found.next().is_none())
        };
        Some(Self { service: of("svc"), datacenter: of("dc"), uri: uri.to_owned() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// A node that claims to be what its certificate does not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    /// Another service.
    #[error(
        "node.metadata.realmgate.service is `{claimed}`, which takes a certificate for svc/{claimed}, but the proxy's is {id}"
    )]
    Service {
        /// What the node says.
        claimed: String,
        /// What the certificate says.
        id: Arc<SpiffeId>,
    },
    /// An edge of no service, with the certificate of one.
    #[error("an edge that claims no service takes a certificate for svc/{needed}, but the proxy's is {id}")]
    Edge {
        /// The service of edges.
        needed: Arc<str>,
        /// What the certificate says.
        id: Arc<SpiffeId>,
    },
    /// Another datacenter.
    #[error(
        "node.metadata.realmgate.datacenter is `{claimed}`, which takes a certificate for dc/{claimed}, but the proxy's is {id}"
    )]
    Datacenter {
        /// What the node says.
        claimed: String,
        /// What the certificate says.
        id: Arc<SpiffeId>,
    },
}

impl Identity {
    /// Whether its owner may be what `scope` claims. `edge_service` is the service of edges that claim none. A
    /// token stands for any proxy.
    pub(super) fn may_be(&self, scope: &Scope, edge_service: &Arc<str>) -> Result<(), Mismatch> {
        let Self::Spiffe(id) = self else { return Ok(()) };
        let is = |proved: &Option<String>, claimed: &str| proved.as_deref() == Some(claimed);
        if scope.service.is_empty() {
            if !is(&id.service, edge_service) {
                return Err(Mismatch::Edge { needed: Arc::clone(edge_service), id: Arc::clone(id) });
            }
        } else if !is(&id.service, &scope.service) {
            return Err(Mismatch::Service { claimed: scope.service.clone(), id: Arc::clone(id) });
        }
        if !scope.datacenter.is_empty() && !is(&id.datacenter, &scope.datacenter) {
            return Err(Mismatch::Datacenter { claimed: scope.datacenter.clone(), id: Arc::clone(id) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = "spiffe://11111111-2222.consul/ns/default/dc/aws/svc/chat";

    fn may_be(uri: &str, service: &str, datacenter: &str) -> Result<(), String> {
        let identity = Identity::Spiffe(Arc::new(SpiffeId::parse(uri).unwrap()));
        let scope =
            Scope { service: service.to_owned(), datacenter: datacenter.to_owned(), ..Scope::default() };
        identity.may_be(&scope, &"realmgate-edge".into()).map_err(|mismatch| mismatch.to_string())
    }

    #[test]
    fn a_node_is_the_service_and_in_the_datacenter_of_its_certificate() {
        assert_eq!(may_be(CHAT, "chat", "aws"), Ok(()));
        assert_eq!(may_be(CHAT, "chat", ""), Ok(()));
        assert_eq!(may_be("spiffe://d/ap/p/ns/n/dc/aws/svc/chat", "chat", "aws"), Ok(()));
        for (service, datacenter, named) in
            [("shop", "aws", "svc/shop"), ("chat", "azure", "dc/azure"), ("cha", "", "svc/cha,")]
        {
            let error = may_be(CHAT, service, datacenter).unwrap_err();
            assert!(error.contains(named) && error.contains(CHAT), "{error}");
        }
        assert!(may_be("spiffe://d/ns/n/svc/chat", "chat", "aws").is_err(), "no datacenter is proved");
    }

    #[test]
    fn an_edge_of_no_service_has_a_service_of_its_own() {
        assert_eq!(may_be("spiffe://d/ns/n/dc/aws/svc/realmgate-edge", "", "aws"), Ok(()));
        let error = may_be(CHAT, "", "aws").unwrap_err();
        assert!(error.contains("svc/realmgate-edge") && error.contains(CHAT), "{error}");
        assert!(may_be("spiffe://d/ns/n/dc/aws/svc/realmgate-edge", "chat", "").is_err());
    }

    #[test]
    fn a_token_stands_for_any_proxy() {
        let scope = Scope { service: "chat".to_owned(), ..Scope::default() };
        assert_eq!(Identity::Token.may_be(&scope, &"realmgate-edge".into()), Ok(()));
    }

    #[test]
    fn only_what_is_said_once_and_in_its_place_counts() {
        for uri in [
            "spiffe://d/svc/a/svc/chat",
            "spiffe://d/ns/svc/chat/x",
            "spiffe://d/svc/",
            "spiffe://d/svc",
            "spiffe://d/sa/chat",
            "spiffe://d/ns/svc/dc/svc/chat/svc",
        ] {
            assert!(may_be(uri, "chat", "").is_err(), "{uri}");
        }
        for uri in ["https://d/svc/chat", "spiffe://d", "spiffe:///svc/chat", "spiffe://d/svc/ch\nat", ""] {
            assert_eq!(SpiffeId::parse(uri), None, "{uri:?}");
        }
        assert_eq!(SpiffeId::parse(&format!("spiffe://d/svc/{}", "x".repeat(2048))), None);
    }
}
