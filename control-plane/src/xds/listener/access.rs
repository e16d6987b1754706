//! Who is let in: by certificate, by token, or anyone where neither is asked for.

use std::sync::Arc;

use http::HeaderValue;
use tonic::Status;

use super::identity::{Identity, SpiffeId};
use super::reload::Reloading;
use super::tokens::Tokens;

/// What the listener asks of those who connect.
#[derive(Debug)]
pub(crate) struct Access {
    /// Whether a client's certificate is asked for.
    pub(super) certificates: bool,
    /// The tokens that are good, if any are.
    pub(super) tokens: Option<Arc<Reloading<Tokens>>>,
    /// The service of edges that claim none.
    pub(super) edge_service: Arc<str>,
}

/// What came with a connection: a certificate is valid, or the handshake would have failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presented {
    Nothing,
    Certificate(Arc<SpiffeId>),
    /// A certificate that says nothing we understand.
    Nameless,
}

/// Why a stream is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a client certificate is required")]
    NoCertificate,
    #[error("the client certificate has no SPIFFE id (one URI, spiffe://...) among its names")]
    NoSpiffeId,
    #[error("a token is required, as `authorization: Bearer ...`")]
    NoToken,
    #[error("a client certificate or a token is required, the latter as `authorization: Bearer ...`")]
    NothingPresented,
    #[error("the token is none of those that are good here")]
    WrongToken,
}

impl Refusal {
    /// A short name for metrics and logs.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NoSpiffeId => "no_spiffe_id",
            Self::NoToken => "no_token",
            Self::NothingPresented => "no_credentials",
            Self::WrongToken => "wrong_token",
        }
    }

    pub(super) fn status(self) -> Status {
        Status::unauthenticated(self.to_string())
    }
}

impl Access {
    /// Decides on one stream. A certificate decides alone: a token beside it is not looked at.
    pub(super) fn admit(
        &self,
        presented: &Presented,
        authorization: Option<&HeaderValue>,
    ) -> Result<Option<Identity>, Refusal> {
        match presented {
            Presented::Certificate(id) => return Ok(Some(Identity::Spiffe(Arc::clone(id)))),
            Presented::Nameless => return Err(Refusal::NoSpiffeId),
            Presented::Nothing => {}
        }
        let Some(tokens) = &self.tokens else {
            return if self.certificates { Err(Refusal::NoCertificate) } else { Ok(None) };
        };
        let missing = if self.certificates { Refusal::NothingPresented } else { Refusal::NoToken };
        let token = authorization.and_then(bearer).ok_or(missing)?;
        if tokens.current().has(token) { Ok(Some(Identity::Token)) } else { Err(Refusal::WrongToken) }
    }
}

/// The token of `Bearer ...`; the scheme's case does not matter (RFC 9110).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Bearer good-token-of-16-or-more";

    fn access(certificates: bool, tokens: bool) -> Access {
        let tokens = tokens.then(|| {
            Arc::new(Reloading::new(
                Tokens::parse("good-token-of-16-or-more\nthe-next-one-in-turn\n").unwrap(),
            ))
        });
        Access { certificates, tokens, edge_service: "realmgate-edge".into() }
    }

    fn admit(
        access: &Access,
        presented: &Presented,
        header: Option<&str>,
    ) -> Result<Option<Identity>, Refusal> {
        let header = header.map(|text| HeaderValue::from_str(text).unwrap());
        access.admit(presented, header.as_ref())
    }

    #[test]
    fn any_of_the_tokens_is_good_and_nothing_else() {
        let access = access(false, true);
        for good in [GOOD, "bearer good-token-of-16-or-more", "Bearer the-next-one-in-turn"] {
            assert_eq!(admit(&access, &Presented::Nothing, Some(good)), Ok(Some(Identity::Token)), "{good}");
        }
        for (header, refusal) in [
            (None, Refusal::NoToken),
            (Some("Basic good-token-of-16-or-more"), Refusal::NoToken),
            (Some("good-token-of-16-or-more"), Refusal::NoToken),
            (Some("Bearer"), Refusal::NoToken),
            (Some("Bearer good-token-of-16-or-mor"), Refusal::WrongToken),
            (Some("Bearer "), Refusal::WrongToken),
        ] {
            assert_eq!(admit(&access, &Presented::Nothing, header), Err(refusal), "{header:?}");
        }
    }

    #[test]
    fn a_certificate_decides_alone() {
        let id = Arc::new(SpiffeId::parse("spiffe://d/svc/chat").unwrap());
        let certificate = Presented::Certificate(Arc::clone(&id));
        for access in [access(true, false), access(true, true)] {
            let identity = Ok(Some(Identity::Spiffe(Arc::clone(&id))));
            assert_eq!(admit(&access, &certificate, None), identity);
            assert_eq!(admit(&access, &certificate, Some("Bearer wrong")), identity);
            assert_eq!(admit(&access, &Presented::Nameless, Some(GOOD)), Err(Refusal::NoSpiffeId));
        }
        assert_eq!(admit(&access(true, false), &Presented::Nothing, Some(GOOD)), Err(Refusal::NoCertificate));
        assert_eq!(admit(&access(true, true), &Presented::Nothing, None), Err(Refusal::NothingPresented));
        assert_eq!(admit(&access(true, true), &Presented::Nothing, Some(GOOD)), Ok(Some(Identity::Token)));
    }

    #[test]
    fn where_nothing_is_asked_for_anyone_may_come() {
        assert_eq!(admit(&access(false, false), &Presented::Nothing, Some("Bearer x")), Ok(None));
    }
}
