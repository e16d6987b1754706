//! SPIFFE ids of certificates, in Consul's form and in no other.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::binding::{Name, Proxy};
use crate::mesh::identity::in_spiffe_id;
use crate::telemetry::visible::{escaped, is_visible};
use crate::xds::Role;

/// Longest id, as the SPIFFE standard has it.
const MAX_ID_BYTES: usize = 2048;

/// The id of a service: `spiffe://<trust domain>/ns/default/dc/<datacenter>/svc/<service>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpiffeId {
    pub(super) trust_domain: String,
    /// Decoded, as is the service.
    pub(super) datacenter: String,
    pub(super) service: String,
}

/// Why an id is none of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadId {
    #[error("it is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    #[error("it does not begin with `spiffe://`")]
    Scheme,
    #[error("its trust domain is not of lower-case letters, digits, `.`, `-` and `_`")]
    TrustDomain,
    #[error("its namespace is not `default`, the only one that is served")]
    Namespace,
    #[error("its path is not /ns/default/dc/<datacenter>/svc/<service>")]
    Path,
    #[error("its datacenter or service is not written as Consul writes it")]
    Encoding,
}

impl BadId {
    /// A short name for metrics and logs.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::TooLong | Self::Scheme | Self::Path | Self::Encoding => "spiffe_id_form",
            Self::TrustDomain => "trust_domain",
            Self::Namespace => "namespace",
        }
    }
}

impl SpiffeId {
    /// Reads an id. One name has one id: of several ways to write it, all but one are refused.
    pub(super) fn parse(uri: &str) -> Result<Self, BadId> {
        if uri.len() > MAX_ID_BYTES {
            return Err(BadId::TooLong);
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(BadId::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(BadId::Path)?;
        if !is_trust_domain(trust_domain) {
            return Err(BadId::TrustDomain);
        }
        let segments: Vec<_> = path.split('/').collect();
        match segments.as_slice() {
            ["ns", "default", "dc", datacenter, "svc", service] => Ok(Self {
                trust_domain: trust_domain.to_owned(),
                datacenter: decode(datacenter).ok_or(BadId::Encoding)?,
                service: decode(service).ok_or(BadId::Encoding)?,
            }),
            ["ap", ..] | ["ns", _, "dc", _, "svc", _] => Err(BadId::Namespace),
            _ => Err(BadId::Path),
        }
    }

    /// What it proves by itself: an edge if it is the edges' service, and else a sidecar of its own; no cell.
    pub(super) fn proves(&self, edge_service: &str) -> Proxy {
        let role = if self.service == edge_service { Role::Edge } else { Role::Sidecar };
        Proxy {
            role: Some(role),
            service: Name::Is(self.service.clone()),
            datacenter: Name::Is(self.datacenter.clone()),
            cell: Name::Is(String::new()),
        }
    }
}

/// A trust domain as the SPIFFE standard has it.
pub(crate) fn is_trust_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    (1..=255).contains(&text.len()) && text.bytes().all(plain)
}

/// The name that is written so, if it is written as Consul would.
fn decode(segment: &str) -> Option<String> {
    let name = percent_decode_str(segment).decode_utf8().ok()?;
    let is_name = name != "*" && name.chars().all(is_visible);
    (is_name && in_spiffe_id(&name).as_deref() == Some(segment)).then(|| name.into_owned())
}

/// Text of a certificate as it is shown: on one line, and not all of it if it is long.
pub(super) struct Shown<'a>(pub(super) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 300;
        let cut = self.0.char_indices().nth(MOST).map(|(at, _)| at);
        f.write_str(&escaped(cut.and_then(|at| self.0.get(..at)).unwrap_or(self.0)))?;
        if cut.is_some() { f.write_str("...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHAT: &str = "spiffe://11111111-2222.consul/ns/default/dc/aws/svc/chat";

    #[test]
    fn an_id_in_consuls_form_is_read() {
        let id = SpiffeId::parse(CHAT).unwrap();
        let parts = (&*id.trust_domain, &*id.datacenter, &*id.service);
        assert_eq!(parts, ("11111111-2222.consul", "aws", "chat"));
        let id = SpiffeId::parse("spiffe://d.consul/ns/default/dc/dc1/svc/my%20shop").unwrap();
        assert_eq!(id.service, "my shop");
        assert_eq!(id.proves("my shop").role, Some(Role::Edge));
        assert_eq!(id.proves("realmgate-edge").role, Some(Role::Sidecar));
    }

    #[test]
    fn every_other_form_is_refused_with_its_reason() {
        use BadId::{Encoding, Namespace, Path, Scheme, TooLong, TrustDomain};
        let svc = |service: &str| format!("spiffe://d/ns/default/dc/aws/svc/{service}");
        let long = svc(&"x".repeat(2048));
        for (uri, error) in [
            ("https://d/ns/default/dc/aws/svc/chat", Scheme),
            ("SPIFFE://d/ns/default/dc/aws/svc/chat", Scheme),
            ("", Scheme),
            ("spiffe://d", Path),
            ("spiffe:///ns/default/dc/aws/svc/chat", TrustDomain),
            ("spiffe://*/ns/default/dc/aws/svc/chat", TrustDomain),
            ("spiffe://D/ns/default/dc/aws/svc/chat", TrustDomain),
            ("spiffe://td@evil/ns/default/dc/aws/svc/chat", TrustDomain),
            ("spiffe://td:80/ns/default/dc/aws/svc/chat", TrustDomain),
            ("spiffe://d%2e/ns/default/dc/aws/svc/chat", TrustDomain),
            ("spiffe://d/svc/chat", Path),
            ("spiffe://d/ns/default/dc/aws/svc/chat/", Path),
            ("spiffe://d//ns/default/dc/aws/svc/chat", Path),
            ("spiffe://d/ns/default/dc/aws/svc/chat/svc/shop", Path),
            ("spiffe://d/dc/aws/ns/default/svc/chat", Path),
            ("spiffe://d/ns/default/dc/aws/sa/chat", Path),
            ("spiffe://d/gateway/mesh/dc/aws", Path),
            ("spiffe://d/ns/prod/dc/aws/svc/chat", Namespace),
            ("spiffe://d/ns//dc/aws/svc/chat", Namespace),
            ("spiffe://d/ap/other/ns/default/dc/aws/svc/chat", Namespace),
            ("spiffe://d/ns/default/dc//svc/chat", Encoding),
            ("spiffe://d/ns/default/dc/%2a/svc/chat", Encoding),
            (&long, TooLong),
        ] {
            assert_eq!(SpiffeId::parse(uri), Err(error), "{uri}");
        }
        for service in [
            "",
            "*",
            "chat?x",
            "chat#x",
            "ch%61t",
            "a,b",
            "a%2Cb",
            "my%2Fshop",
            "%2f",
            "my shop",
            "%",
            "%zz",
            "ch\nat",
            "%0a",
            "%ff",
            "%E2%80%AE",
        ] {
            assert_eq!(SpiffeId::parse(&svc(service)), Err(Encoding), "{service:?}");
        }
    }

    #[test]
    fn what_is_shown_is_one_short_line() {
        assert_eq!(Shown("a\nb").to_string(), "a\\nb");
        assert_eq!(Shown(&"é".repeat(301)).to_string(), format!("{}...", "é".repeat(300)));
    }

    proptest! {
        #[test]
        fn one_name_has_one_id(service in "[^*,/\\p{C}\\p{Z}]{1,8}", other in "\\PC{1,12}") {
            let id = |segment: &str| format!("spiffe://d/ns/default/dc/aws/svc/{segment}");
            let segment = in_spiffe_id(&service).unwrap();
            let read = SpiffeId::parse(&id(&segment)).map(|id| id.service);
            prop_assert_eq!(read.as_deref(), Ok(&*service));
            // Whatever else is taken for this service is the same text.
            if SpiffeId::parse(&id(&other)).is_ok_and(|id| id.service == service) {
                prop_assert_eq!(other, segment);
            }
        }
    }
}
