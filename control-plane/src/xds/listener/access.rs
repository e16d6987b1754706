//! Who is let in, as what, and for how long: by certificate, by token, or anyone where neither is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use tokio::sync::watch;
use tonic::Code;

use super::binding::{Binding, Defaults};
use super::identity::{BadId, Shown, SpiffeId};
use super::reload::Reloading;
use super::tls::{Certificate, NoMore, Tls};
use super::tokens::{Rules, Tokens, hash};
use crate::xds::Scope;

/// What the listener asks of those who connect. All of it is asked again while they are connected.
#[derive(Debug)]
pub(crate) struct Access {
    /// Where clients are asked for certificates: what they are checked by.
    pub(super) certificates: Option<Arc<Reloading<Tls>>>,
    /// What certificates are good for other than by their id.
    pub(super) rules: Option<Arc<Reloading<Rules>>>,
    /// The tokens that are good, if any are.
    pub(super) tokens: Option<Arc<Reloading<Tokens>>>,
    /// The trust domains of certificates; none = the mesh's own.
    pub(super) trust_domains: Arc<[String]>,
    /// The mesh, once it is known.
    pub(super) mesh: watch::Sender<Option<Arc<MeshDomain>>>,
    /// The service of edges that claim none.
    pub(super) edge_service: Arc<str>,
    /// Told of whenever one of these is another.
    pub(super) changes: watch::Sender<()>,
}

/// The mesh whose certificates the proxies get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshDomain {
    /// What its SPIFFE ids begin with.
    pub trust_domain: String,
    /// The datacenter in them, which a node is in that names none.
    pub datacenter: String,
}

/// What a stream came with.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Nothing, where nothing is asked for.
    Nothing,
    Certificate(Arc<Certificate>),
    /// The hash of a token.
    Token([u8; 32]),
}

/// Why a stream is not let in, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a client certificate is required")]
    NoCertificate,
    #[error("the client certificate has no SPIFFE id (one URI, spiffe://...) among its names")]
    NoSpiffeId,
    #[error("the client certificate's id {uri} is none of a service here: {why}")]
    Id { uri: String, why: BadId },
    #[error("the client certificate's id {uri} is of another trust domain than {wanted}")]
    TrustDomain { uri: String, wanted: String },
    #[error("the trust domain of certificates is not known yet: the mesh's authority was not heard so far")]
    NoTrustDomain,
    #[error("the client certificate has expired")]
    Expired,
    #[error("the client certificate is of no authority in xds.tls.client_ca_file")]
    Untrusted,
    #[error("a token is required, as `authorization: Bearer ...`")]
    NoToken,
    #[error("a client certificate or a token is required, the latter as `authorization: Bearer ...`")]
    NothingPresented,
    #[error("the token is none of those that are good here")]
    WrongToken,
    #[error("how all proxies are is for who has role=operator in xds.token_file or xds.tls.rules_file")]
    NoOperator,
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

/// A node that claims what its credential is not good for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node.metadata.realmgate.{place} is {claimed}, and {credential} is good for {good_for} only")]
pub(crate) struct Mismatch {
    place: &'static str,
    claimed: String,
    credential: String,
    good_for: String,
}

impl Refusal {
    /// A short name for metrics and logs.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NoSpiffeId => "no_spiffe_id",
            Self::Id { why, .. } => why.label(),
            Self::TrustDomain { .. } => "trust_domain",
            Self::NoTrustDomain => "trust_domain_unknown",
            Self::Expired => "expired_certificate",
            Self::Untrusted => "unknown_ca",
            Self::NoToken => "no_token",
            Self::NothingPresented => "no_credentials",
            Self::WrongToken => "wrong_token",
            Self::NoOperator => "status_permission",
            Self::Mismatch(_) => "identity",
        }
    }

    pub(crate) const fn code(&self) -> Code {
        match self {
            // Not the client's fault, and over soon.
            Self::NoTrustDomain => Code::Unavailable,
            Self::NoOperator | Self::Mismatch(_) => Code::PermissionDenied,
            _ => Code::Unauthenticated,
        }
    }

    /// Of one whom it let in before.
    pub(crate) const fn revoked_label(&self) -> &'static str {
        match self {
            Self::WrongToken => "revoked_token",
            Self::Expired => "revoked_expired",
            Self::Untrusted => "revoked_ca",
            _ => "revoked_identity",
        }
    }
}

impl Access {
    /// Takes note of another mesh.
    pub(super) fn set_mesh(&self, mesh: Option<Arc<MeshDomain>>) {
        if *self.mesh.borrow() != mesh {
            self.mesh.send_replace(mesh);
            self.changes.send_replace(());
        }
    }

    /// Decides on one stream, on a connection with this certificate. A certificate decides alone: a token beside it is not looked
    /// at.
    pub(super) fn admit(
        &self,
        certificate: Option<&Arc<Certificate>>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Proof, Refusal> {
        let proof = match (certificate, &self.tokens) {
            (Some(certificate), _) => Proof::Certificate(Arc::clone(certificate)),
            (None, None) if self.certificates.is_some() => return Err(Refusal::NoCertificate),
            (None, None) => Proof::Nothing,
            (None, Some(_)) => {
                let both = self.certificates.is_some();
                let missing = if both { Refusal::NothingPresented } else { Refusal::NoToken };
                Proof::Token(hash(authorization.and_then(bearer).ok_or(missing)?))
            }
        };
        self.holds(&proof, SystemTime::now()).map(|_| proof)
    }

    /// What a proof is good for at this time; `None` = everything, where nothing is asked for.
    pub(super) fn holds(&self, proof: &Proof, now: SystemTime) -> Result<Option<Arc<[Binding]>>, Refusal> {
        match proof {
            Proof::Nothing => Ok(None),
            Proof::Token(hash) => {
                let tokens = self.tokens.as_ref().ok_or(Refusal::WrongToken)?.current();
                tokens.bindings(hash).map(|bindings| Some(Arc::clone(bindings))).ok_or(Refusal::WrongToken)
            }
            Proof::Certificate(certificate) => {
                let tls = self.certificates.as_ref().ok_or(Refusal::Untrusted)?.current();
                certificate.check(&tls, now).map_err(|why| match why {
                    NoMore::Expired => Refusal::Expired,
                    NoMore::Untrusted => Refusal::Untrusted,
                })?;
                self.proved(certificate.uri.as_deref().ok_or(Refusal::NoSpiffeId)?).map(Some)
            }
        }
    }

    /// What an id is good for: what a rule says of it, or else what it says itself, in a trust domain of ours.
    fn proved(&self, uri: &str) -> Result<Arc<[Binding]>, Refusal> {
        let rules = self.rules.as_ref().map(|rules| rules.current());
        if let Some(bindings) = rules.and_then(|rules| rules.bindings(uri).cloned()) {
            return Ok(bindings);
        }
        let shown = || Shown(uri).to_string();
        let id = SpiffeId::parse(uri).map_err(|why| Refusal::Id { uri: shown(), why })?;
        let wanted = if self.trust_domains.is_empty() {
            let mesh = self.mesh.borrow().clone().ok_or(Refusal::NoTrustDomain)?;
            Arc::from([mesh.trust_domain.clone()])
        } else {
            Arc::clone(&self.trust_domains)
        };
        if !wanted.contains(&id.trust_domain) {
            return Err(Refusal::TrustDomain { uri: shown(), wanted: wanted.join(", ") });
        }
        Ok([Binding::Proxy(id.proves(&self.edge_service))].into())
    }

    /// Whether the owner of a proof may be what `scope` claims, at this time.
    pub(super) fn may_be(&self, proof: &Proof, scope: &Scope, now: SystemTime) -> Result<(), Refusal> {
        let Some(bindings) = self.holds(proof, now)? else { return Ok(()) };
        let mesh = self.mesh.borrow().clone();
        let datacenter = mesh.as_ref().map(|mesh| &*mesh.datacenter);
        let defaults = Defaults { edge_service: &self.edge_service, datacenter };
        let mut exceeded = None;
        for binding in bindings.iter() {
            let Some(claim) = binding.exceeded(scope, defaults) else { return Ok(()) };
            exceeded.get_or_insert(claim);
        }
        // Every credential is good for something.
        let (place, claimed) = exceeded.unwrap_or(("role", scope.role.label()));
        let claimed = if claimed.is_empty() { "not set".to_owned() } else { format!("`{claimed}`") };
        let good_for: Vec<_> = bindings.iter().map(|binding| format!("`{binding}`")).collect();
        Err(Mismatch { place, claimed, credential: proof.to_string(), good_for: good_for.join(" or ") }
            .into())
    }

    /// Whether the owner of a proof may ask how all proxies are; with nothing to prove, `nearby` may.
    pub(super) fn may_ask(&self, proof: &Proof, nearby: bool, now: SystemTime) -> Result<bool, Refusal> {
        let bindings = self.holds(proof, now)?;
        Ok(bindings.map_or(nearby, |bindings| bindings.contains(&Binding::Operator)))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Token(_) => f.write_str("its token"),
            Self::Certificate(certificate) => {
                write!(f, "its certificate, {},", Shown(certificate.uri.as_deref().unwrap_or_default()))
            }
        }
    }
}

/// The token of `Bearer ...`; the scheme's case does not matter (RFC 9110).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::super::tokens;
    use super::*;
    use crate::xds::Role;

    const GOOD: &str = "Bearer good-token-of-16-or-more";
    const FILE: &str = "good-token-of-16-or-more role=sidecar service=game\nthe-next-one-in-turn role=edge\n";

    fn access(tokens: bool) -> Access {
        let tokens =
            tokens.then(|| Arc::new(Reloading::new(tokens::tokens(&[FILE.as_bytes().to_vec()]).unwrap())));
        Access {
            certificates: None,
            rules: None,
            tokens,
            trust_domains: Arc::default(),
            mesh: watch::Sender::new(None),
            edge_service: "realmgate-edge".into(),
            changes: watch::Sender::new(()),
        }
    }

    fn admit(access: &Access, header: Option<&str>) -> Result<Proof, Refusal> {
        let header = header.map(|text| HeaderValue::from_str(text).unwrap());
        access.admit(None, header.as_ref())
    }

    fn scope(role: Role, service: &str) -> Scope {
        Scope { role, service: service.to_owned(), ..Scope::default() }
    }

    #[test]
    fn any_of_the_tokens_is_good_and_nothing_else() {
        let access = access(true);
        for good in [GOOD, "bearer good-token-of-16-or-more", "Bearer the-next-one-in-turn"] {
            assert!(admit(&access, Some(good)).is_ok(), "{good}");
        }
        for (header, refusal) in [
            (None, Refusal::NoToken),
            (Some("Basic good-token-of-16-or-more"), Refusal::NoToken),
            (Some("good-token-of-16-or-more"), Refusal::NoToken),
            (Some("Bearer"), Refusal::NoToken),
            (Some("Bearer good-token-of-16-or-mor"), Refusal::WrongToken),
            (Some("Bearer "), Refusal::WrongToken),
        ] {
            assert_eq!(admit(&access, header).unwrap_err(), refusal, "{header:?}");
        }
    }

    #[test]
    fn a_token_is_good_for_what_its_line_says() {
        let (access, now) = (access(true), SystemTime::now());
        let game = admit(&access, Some(GOOD)).unwrap();
        assert_eq!(access.may_be(&game, &scope(Role::Sidecar, "game"), now), Ok(()));
        let refused = access.may_be(&game, &scope(Role::Sidecar, "shop"), now).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "node.metadata.realmgate.service is `shop`, and its token is good for `role=sidecar service=game` only"
        );
        assert_eq!((refused.label(), refused.code()), ("identity", Code::PermissionDenied));
        let refused = access.may_be(&game, &scope(Role::Edge, ""), now).unwrap_err().to_string();
        assert!(refused.starts_with("node.metadata.realmgate.role is `edge`"), "{refused}");
        assert_eq!(access.may_ask(&game, true, now), Ok(false));
    }

    #[test]
    fn an_id_is_of_the_meshs_trust_domain_or_of_a_listed_one() {
        let mut access = access(false);
        let id = |domain: &str| format!("spiffe://{domain}/ns/default/dc/aws/svc/game");
        assert_eq!(access.proved(&id("a.consul")).unwrap_err(), Refusal::NoTrustDomain);
        let mut changes = access.changes.subscribe();
        let mesh = MeshDomain { trust_domain: "a.consul".to_owned(), datacenter: "aws".to_owned() };
        access.set_mesh(Some(Arc::new(mesh.clone())));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        access.set_mesh(Some(Arc::new(mesh)));
        assert!(!changes.has_changed().unwrap(), "nothing is another");
        assert!(access.proved(&id("a.consul")).is_ok());
        assert_eq!(access.proved(&id("evil.example")).unwrap_err().label(), "trust_domain");
        access.trust_domains = ["b.example".to_owned(), "c.example".to_owned()].into();
        assert!(access.proved(&id("b.example")).is_ok() && access.proved(&id("c.example")).is_ok());
        let refused = access.proved(&id("a.consul")).unwrap_err().to_string();
        assert!(refused.ends_with("is of another trust domain than b.example, c.example"), "{refused}");
    }

    #[test]
    fn a_rule_replaces_what_an_id_says() {
        let rules = "spiffe://evil.example/x role=edge cell=blue\n";
        let rules = tokens::rules(&[rules.as_bytes().to_vec()], "realmgate-edge").unwrap();
        let access = Access { rules: Some(Arc::new(Reloading::new(rules))), ..access(false) };
        let bindings = access.proved("spiffe://evil.example/x").unwrap();
        assert_eq!(bindings.iter().map(ToString::to_string).collect::<Vec<_>>(), ["role=edge cell=blue"]);
        let refused = access.proved("spiffe://evil.example/x/").unwrap_err();
        assert_eq!(refused.label(), "spiffe_id_form");
    }

    #[test]
    fn where_nothing_is_asked_for_anyone_may_come_and_ask_from_here() {
        let (access, now) = (access(false), SystemTime::now());
        let nothing = admit(&access, Some("Bearer x")).unwrap();
        assert_eq!(access.may_be(&nothing, &scope(Role::Sidecar, "game"), now), Ok(()));
        let ask = |nearby| access.may_ask(&nothing, nearby, now);
        assert_eq!((ask(true), ask(false)), (Ok(true), Ok(false)));
    }
}
