//! A sidecar's network RBAC filter: [`Admission`] in Envoy's words.

use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, permission,
    principal::{Authenticated, Identifier, Set},
    rbac::Action,
};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};

use super::admission::Admission;

/// What its statistics begin with; Consul's name for it, so that dashboards fit.
pub(super) const STAT_PREFIX: &str = "connect_authz";

/// The only policy: more than one would be a map, whose order on the wire is not settled.
const POLICY: &str = "intentions";

/// The filter that lets in whom `admission` says, of services of this trust domain. Whoever is of another trust domain,
/// or no service, is in no set and so let in by none.
pub(super) fn filter(admission: &Admission<'_>, trust_domain: &str) -> Rbac {
    let services = |names: &std::collections::BTreeSet<&str>| -> Vec<Principal> {
        names.iter().map(|name| service(trust_domain, &quoted(name))).collect()
    };
    let principal = match admission {
        Admission::Only(names) if names.is_empty() => None,
        Admission::Only(names) => Some(principal(Identifier::OrIds(Set { ids: services(names) }))),
        Admission::AllBut(names) if names.is_empty() => Some(any_service(trust_domain)),
        Admission::AllBut(names) => {
            let denied = principal(Identifier::OrIds(Set { ids: services(names) }));
            let others = principal(Identifier::NotId(Box::new(denied)));
            Some(principal(Identifier::AndIds(Set { ids: vec![any_service(trust_domain), others] })))
        }
    };
    let policy = principal.map(|principal| {
        let any = Permission { rule: Some(permission::Rule::Any(true)) };
        let policy = Policy { permissions: vec![any], principals: vec![principal], ..Policy::default() };
        (POLICY.to_owned(), policy)
    });
    // An action ALLOW lets in nobody whom no policy names.
    let rules =
        Rules { action: Action::Allow.into(), policies: policy.into_iter().collect(), ..Rules::default() };
    Rbac { rules: Some(rules), stat_prefix: STAT_PREFIX.to_owned(), ..Rbac::default() }
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn any_service(trust_domain: &str) -> Principal {
    service(trust_domain, "[^/]+")
}

/// A service in any datacenter; `name` is a regular expression.
fn service(trust_domain: &str, name: &str) -> Principal {
    let regex = format!("spiffe://{}/ns/default/dc/[^/]+/svc/{name}", quoted(trust_domain));
    let matcher = RegexMatcher { regex, ..RegexMatcher::default() };
    let name = StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(matcher)), ignore_case: false };
    principal(Identifier::Authenticated(Authenticated { principal_name: Some(name) }))
}

/// Text as a regular expression that matches itself.
fn quoted(text: &str) -> String {
    let quote = |c: char| c.is_ascii_punctuation().then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(quote).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use regex::Regex;

    use super::*;

    const DOMAIN: &str = "11111111-2222.consul";

    /// Whether Envoy finds this principal in a peer of this SPIFFE id.
    fn is(principal: &Principal, uri: &str) -> bool {
        match principal.identifier.as_ref().unwrap() {
            Identifier::AndIds(set) => set.ids.iter().all(|id| is(id, uri)),
            Identifier::OrIds(set) => set.ids.iter().any(|id| is(id, uri)),
            Identifier::NotId(id) => !is(id, uri),
            Identifier::Authenticated(Authenticated { principal_name: Some(name) }) => {
                let Some(MatchPattern::SafeRegex(matcher)) = &name.match_pattern else { panic!("{name:?}") };
                Regex::new(&format!("^(?:{})$", matcher.regex)).unwrap().is_match(uri)
            }
            other => panic!("{other:?}"),
        }
    }

    fn lets_in(admission: &Admission<'_>, uri: &str) -> bool {
        let rules = filter(admission, DOMAIN).rules.unwrap();
        assert_eq!(rules.action(), Action::Allow);
        assert!(rules.policies.len() < 2, "the order of a map is not settled");
        rules.policies.values().any(|policy| policy.principals.iter().any(|principal| is(principal, uri)))
    }

    fn id(dc: &str, service: &str) -> String {
        format!("spiffe://{DOMAIN}/ns/default/dc/{dc}/svc/{service}")
    }

    #[test]
    fn a_service_is_one_in_every_datacenter_and_under_no_other_name() {
        let only = Admission::Only(BTreeSet::from(["web", "a.b"]));
        for uri in [id("aws", "web"), id("azure", "web"), id("aws", "a.b")] {
            assert!(lets_in(&only, &uri), "{uri}");
        }
        let all_but = Admission::AllBut(BTreeSet::from(["web", "a.b"]));
        for uri in [id("aws", "web"), id("azure", "web"), id("aws", "a.b")] {
            assert!(!lets_in(&all_but, &uri), "{uri}");
        }
        for uri in [id("aws", "web2"), id("aws", "axb"), id("aws", "we")] {
            assert!(!lets_in(&only, &uri) && lets_in(&all_but, &uri), "{uri}");
        }
    }

    #[test]
    fn who_is_no_service_of_the_trust_domain_is_never_let_in() {
        let everyone = Admission::AllBut(BTreeSet::new());
        assert!(lets_in(&everyone, &id("aws", "web")));
        for foreign in [
            "spiffe://99999999.consul/ns/default/dc/aws/svc/web".to_owned(),
            "spiffe://11111111-2222xconsul/ns/default/dc/aws/svc/web".to_owned(),
            format!("spiffe://{DOMAIN}/gateway/mesh/dc/aws"),
            format!("spiffe://{DOMAIN}/ns/other/dc/aws/svc/web"),
            format!("{}/svc/x", id("aws", "web")),
            format!("x{}", id("aws", "web")),
        ] {
            for admission in [
                &everyone,
                &Admission::AllBut(BTreeSet::from(["other"])),
                &Admission::Only(BTreeSet::from(["web"])),
            ] {
                assert!(!lets_in(admission, &foreign), "{foreign} under {admission:?}");
            }
        }
        assert!(!lets_in(&Admission::Only(BTreeSet::new()), &id("aws", "web")));
    }
}
