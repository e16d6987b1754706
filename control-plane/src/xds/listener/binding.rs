//! What a credential is good for: the role, service, datacenter and cell that its owner may claim.

use std::fmt;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use crate::mesh::identity::ENCODED;
use crate::telemetry::visible::is_visible;
use crate::xds::{Role, Scope};

/// One thing that the owner of a credential may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// A proxy.
    Proxy(Proxy),
    /// Nobody's proxy: who asks how all of them are (CSDS).
    Operator,
}

/// What a proxy may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// None = any.
    pub(super) role: Option<Role>,
    pub(super) service: Name,
    pub(super) datacenter: Name,
    pub(super) cell: Name,
}

/// A name that may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Whatever is claimed.
    Any,
    /// This one alone; empty = none may be.
    Is(String),
    /// The service that edges are which claim none.
    Edge,
}

/// Where names that a node leaves out come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults<'a> {
    /// The service of an edge.
    pub(super) edge_service: &'a str,
    /// The datacenter; none where there is no mesh, whose datacenter it would be.
    pub(super) datacenter: Option<&'a str>,
}

/// What is wrong with the words behind a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadBinding {
    #[error(
        "`role=` is missing: write for which proxy the credential is, such as `role=sidecar service=game`"
    )]
    NoRole,
    #[error("`service=` is missing: a sidecar stands for one, `role=*` for any (`service=*`)")]
    NoService,
    #[error("only role=, service=, datacenter= and cell= stand behind a credential, each once, with a value")]
    Words,
    #[error("`*` stands alone and means all: parts of names cannot be given (a star in a name is `%2A`)")]
    Part,
    #[error("role= is one of: edge, sidecar, operator, *")]
    Role,
    #[error("nothing stands behind role=operator, which is no proxy")]
    Operator,
}

impl Binding {
    /// Reads `role=sidecar service=game datacenter=aws cell=blue`, in any order. `*` stands for all there are; of datacenter and
    /// cell, if left out, none may be claimed. `given` is what a certificate proves, of which only what is said here is
    /// another. In values `%20` is a space, as in SPIFFE ids.
    pub(super) fn parse(words: &str, given: Option<&Proxy>) -> Result<Self, BadBinding> {
        const KEYS: [&str; 4] = ["role", "service", "datacenter", "cell"];
        let mut values: [Option<Name>; 4] = [const { None }; 4];
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or(BadBinding::Words)?;
            let mut places = KEYS.iter().zip(&mut values);
            let (_, place) = places.find(|(name, _)| **name == key).ok_or(BadBinding::Words)?;
            if value.len() > 1 && value.contains('*') {
                return Err(BadBinding::Part);
            }
            let name = percent_decode_str(value).decode_utf8().map_err(|_| BadBinding::Words)?;
            let name = if value == "*" { Name::Any } else { Name::Is(name.into_owned()) };
            if value.is_empty() || !name.is_visible() || place.replace(name).is_some() {
                return Err(BadBinding::Words);
            }
        }
        let [role, service, datacenter, cell] = values;
        let role = match role {
            Some(Name::Any) => None,
            Some(Name::Is(role)) => match role.as_str() {
                "operator" => {
                    let alone = [service, datacenter, cell].iter().all(Option::is_none);
                    return if alone { Ok(Self::Operator) } else { Err(BadBinding::Operator) };
                }
                "edge" => Some(Role::Edge),
                "sidecar" => Some(Role::Sidecar),
                _ => return Err(BadBinding::Role),
            },
            Some(Name::Edge) | None => given.ok_or(BadBinding::NoRole)?.role,
        };
        let edge = (role == Some(Role::Edge)).then_some(&Name::Edge);
        let none = Name::Is(String::new());
        Ok(Self::Proxy(Proxy {
            role,
            service: service.or(given.map(|g| &g.service).or(edge).cloned()).ok_or(BadBinding::NoService)?,
            datacenter: datacenter.unwrap_or_else(|| given.map_or(&none, |g| &g.datacenter).clone()),
            cell: cell.unwrap_or(none),
        }))
    }

    /// Whether its owner may be every proxy that there is, or every service, of which each has a key of its own.
    pub(super) const fn is_fleet(&self) -> bool {
        matches!(self, Self::Proxy(Proxy { service: Name::Any, .. }))
    }

    /// The first thing that `scope` claims and the owner may not: its place in the node, and its value.
    pub(super) fn exceeded<'a>(
        &self,
        scope: &'a Scope,
        defaults: Defaults<'_>,
    ) -> Option<(&'static str, &'a str)> {
        let role = scope.role.label();
        let Self::Proxy(proxy) = self else { return Some(("role", role)) };
        let is_edge = scope.role == Role::Edge;
        let own = |name: &'a str| if is_edge && name.is_empty() { None } else { Some(name) };
        let service = own(&scope.service).unwrap_or(defaults.edge_service);
        let here = |name: &str| match defaults.datacenter {
            Some(here) => (if name.is_empty() { here } else { name }).to_owned(),
            None => name.to_owned(),
        };
        let datacenter = match &proxy.datacenter {
            // Without a mesh there is no datacenter that it would be in unsaid.
            Name::Is(_) if scope.datacenter.is_empty() && defaults.datacenter.is_none() => true,
            Name::Is(name) => here(name) == here(&scope.datacenter),
            name => name.allows(&scope.datacenter, defaults),
        };
        [
            (proxy.role.is_none_or(|role| role == scope.role), "role", role),
            (proxy.service.allows(service, defaults), "service", &scope.service),
            (datacenter, "datacenter", &scope.datacenter),
            (proxy.cell.allows(&scope.cell, defaults), "cell", &scope.cell),
        ]
        .into_iter()
        .find_map(|(allowed, place, claimed)| (!allowed).then_some((place, claimed)))
    }
}

impl Name {
    fn is_visible(&self) -> bool {
        !matches!(self, Self::Is(name) if !name.chars().all(is_visible))
    }

    fn allows(&self, claimed: &str, defaults: Defaults<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Is(name) => name == claimed,
            Self::Edge => claimed == defaults.edge_service,
        }
    }
}

impl fmt::Display for Binding {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Proxy(proxy) = self else { return f.write_str("role=operator") };
        write!(f, "role={}", proxy.role.map_or("*", Role::label))?;
        for (key, name) in
            [("service", &proxy.service), ("datacenter", &proxy.datacenter), ("cell", &proxy.cell)]
        {
            match name {
                Name::Any => write!(f, " {key}=*")?,
                Name::Is(name) if !name.is_empty() => {
                    write!(f, " {key}={}", utf8_percent_encode(name, ENCODED))?;
                }
                Name::Is(_) | Name::Edge => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULTS: Defaults<'_> = Defaults { edge_service: "realmgate-edge", datacenter: Some("aws") };

    fn scope(role: Role, service: &str, datacenter: &str, cell: &str) -> Scope {
        let [service, datacenter, cell] = [service, datacenter, cell].map(str::to_owned);
        Scope { role, service, datacenter, cell, ..Scope::default() }
    }

    /// What of a claim is too much for the words.
    fn exceeded(words: &str, scope: &Scope) -> Option<&'static str> {
        Binding::parse(words, None).unwrap().exceeded(scope, DEFAULTS).map(|(place, _)| place)
    }

    #[test]
    fn a_proxy_is_what_the_words_say_and_nothing_else() {
        use Role::{Edge, Sidecar};
        for (words, claim, too_much) in [
            ("role=sidecar service=game", scope(Sidecar, "game", "", ""), None),
            ("role=sidecar service=game", scope(Sidecar, "game", "aws", ""), None),
            ("role=sidecar service=game", scope(Sidecar, "gam", "", ""), Some("service")),
            ("role=sidecar service=game", scope(Sidecar, "game/", "", ""), Some("service")),
            ("role=sidecar service=game", scope(Sidecar, "GAME", "", ""), Some("service")),
            ("role=sidecar service=game", scope(Edge, "game", "", ""), Some("role")),
            ("role=sidecar service=game", scope(Edge, "", "", ""), Some("role")),
            ("role=sidecar service=game", scope(Sidecar, "game", "azure", ""), Some("datacenter")),
            ("role=sidecar service=game", scope(Sidecar, "game", "", "blue"), Some("cell")),
            ("service=my%20shop role=sidecar", scope(Sidecar, "my shop", "", ""), None),
            ("role=edge", scope(Edge, "", "", ""), None),
            ("role=edge", scope(Edge, "realmgate-edge", "", ""), None),
            ("role=edge", scope(Edge, "game", "", ""), Some("service")),
            ("role=edge service=eu", scope(Edge, "eu", "", ""), None),
            ("role=edge service=eu", scope(Edge, "", "", ""), Some("service")),
            ("role=edge datacenter=azure cell=blue", scope(Edge, "", "azure", "blue"), None),
            ("role=edge datacenter=azure cell=blue", scope(Edge, "", "", "blue"), Some("datacenter")),
            ("role=edge datacenter=azure cell=blue", scope(Edge, "", "azure", ""), Some("cell")),
            ("role=edge datacenter=* cell=*", scope(Edge, "", "azure", "blue"), None),
            ("role=sidecar service=* datacenter=* cell=*", scope(Sidecar, "game", "azure", "blue"), None),
            ("role=* service=*", scope(Edge, "game", "", ""), None),
            ("role=operator", scope(Edge, "", "", ""), Some("role")),
        ] {
            assert_eq!(exceeded(words, &claim), too_much, "{words}: {claim:?}");
        }
        let fleet = |words| Binding::parse(words, None).unwrap().is_fleet();
        assert!(
            fleet("role=* service=*") && fleet("role=edge service=*") && !fleet("role=edge datacenter=*")
        );
    }

    #[test]
    fn without_a_mesh_a_node_may_leave_its_datacenter_out() {
        let nowhere = Defaults { datacenter: None, ..DEFAULTS };
        let binding = Binding::parse("role=edge datacenter=aws", None).unwrap();
        assert_eq!(binding.exceeded(&scope(Role::Edge, "", "", ""), nowhere), None);
        assert_eq!(
            binding.exceeded(&scope(Role::Edge, "", "azure", ""), nowhere),
            Some(("datacenter", "azure"))
        );
    }

    #[test]
    fn what_a_certificate_proves_stays_where_the_words_say_nothing() {
        let given = Proxy {
            role: Some(Role::Sidecar),
            service: Name::Is("game".to_owned()),
            datacenter: Name::Is("aws".to_owned()),
            cell: Name::Is(String::new()),
        };
        let with = |words| Binding::parse(words, Some(&given)).unwrap().to_string();
        assert_eq!(with(""), "role=sidecar service=game datacenter=aws");
        assert_eq!(with("cell=blue"), "role=sidecar service=game datacenter=aws cell=blue");
        assert_eq!(with("role=edge datacenter=*"), "role=edge service=game datacenter=*");
        assert_eq!(with("role=operator"), "role=operator");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            role in prop::sample::select(vec![None, Some(Role::Edge), Some(Role::Sidecar)]),
            service in "[^\\p{C}]{1,6}",
            datacenter in "[^\\p{C}]{0,6}",
            any_cell: bool,
        ) {
            let cell = if any_cell { Name::Any } else { Name::Is(String::new()) };
            let proxy = Proxy { role, service: Name::Is(service), datacenter: Name::Is(datacenter), cell };
            let binding = Binding::Proxy(proxy);
            prop_assert_eq!(Binding::parse(&binding.to_string(), None), Ok(binding));
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(
            words in "((role|service|datacenter|cell|x)=(edge|\\*|%2A|\\PC{0,4}) ?){0,5}",
        ) {
            if let Ok(binding) = Binding::parse(&words, None) {
                prop_assert_eq!(Binding::parse(&binding.to_string(), None), Ok(binding));
            }
        }
    }

    #[test]
    fn words_that_say_something_else_are_refused() {
        for (words, error) in [
            ("", BadBinding::NoRole),
            ("service=game", BadBinding::NoRole),
            ("role=sidecar", BadBinding::NoService),
            ("role=*", BadBinding::NoService),
            ("role=gateway service=game", BadBinding::Role),
            ("role=operator service=*", BadBinding::Operator),
            ("role=edge role=sidecar", BadBinding::Words),
            ("role=edge realm=1", BadBinding::Words),
            ("role=edge cell=", BadBinding::Words),
            ("role=sidecar service=real*", BadBinding::Part),
            ("role=%2A service=%2A", BadBinding::Role),
            ("role=edge cell=%0a", BadBinding::Words),
            ("role=edge cell=%ff", BadBinding::Words),
            ("edge", BadBinding::Words),
            ("role=sidecar service=my shop", BadBinding::Words),
        ] {
            assert_eq!(Binding::parse(words, None), Err(error), "{words}");
        }
    }
}
