//! A sidecar's network RBAC filter: [`Admission`] in Envoy's words.
//!
//! As a tree of matchers over the peer's ids, not as principals: those need a regular expression for each service, and Envoy
//! refuses one that has more than some hundred bytes, which is less than ids may have. A sidecar would stay with the
//! intentions that it had before.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::rbac::v3::{Action, Rbac as Rules, rbac::Action as Verdict};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::matching::common_inputs::ssl::v3::UriSanInput;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate::Matcher as Value,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use envoy_types::pb::xds::r#type::matcher::v3::{
    Matcher, RegexMatcher, StringMatcher, regex_matcher::EngineType, regex_matcher::GoogleRe2,
    string_matcher::MatchPattern,
};

use super::admission::Admission;
use super::envoy;
use crate::mesh::identity::in_spiffe_id;

/// What its statistics begin with; Consul's name for it, so that dashboards fit.
pub(super) const STAT_PREFIX: &str = "connect_authz";

/// What the log calls it.
const POLICY: &str = "intentions";

/// A service of our namespace, in any datacenter. Envoy joins the ids of a peer that shows several with commas, so that is none.
const ID: &str = "spiffe://[^/,]+/ns/default/dc/[^/,]+/svc/[^/,]+";

/// An id whose name is not written as `guard::is_name` has it: a byte stands for itself and should not, or the other way
/// round. Who is denied could come under the same name in other words.
const OTHER_WORDS: &str = "(?s).*/svc/.*(?:[^-A-Za-z0-9._~$&+:;=@%]\
     |%(?:[^0-9A-F]|.[^0-9A-F]|2[46B-F]|3[0-9ABD]|4.|5[0-9AF]|6[1-9A-F]|7[0-9AE]|.?$)).*";

/// The filter that lets in whom `admission` says, of services of this trust domain. Whoever is of another trust domain,
/// or no service, is in no set and so let in by none.
pub(super) fn filter(admission: &Admission<'_>, trust_domain: &str) -> Rbac {
    let rbac = Rbac { stat_prefix: STAT_PREFIX.to_owned(), ..Rbac::default() };
    let whom: Option<Vec<_>> = match admission {
        Admission::Only(names) => any_of(names).map(|them| vec![them]),
        Admission::AllBut(names) => Some(any_of(names).map(not).into_iter().collect()),
    };
    let Some(whom) = whom else {
        // Rules that allow let in nobody whom no policy names.
        let rules = Rules { action: Verdict::Allow.into(), ..Rules::default() };
        return Rbac { rules: Some(rules), ..rbac };
    };
    let services = [
        is(MatchPattern::Prefix(format!("spiffe://{trust_domain}/"))),
        is(regex(ID)),
        not(is(regex(OTHER_WORDS))),
    ];
    let all = services.into_iter().chain(whom).collect();
    Rbac { matcher: Some(allow(predicate(MatchType::AndMatcher(PredicateList { predicate: all })))), ..rbac }
}

/// Lets in whom this holds for, and nobody else.
fn allow(whom: Predicate) -> Matcher {
    let action = Action { name: POLICY.to_owned(), action: Verdict::Allow.into() };
    let action = on_match::OnMatch::Action(extension("action", envoy::any(&action)));
    let on_match = Some(OnMatch { on_match: Some(action), ..OnMatch::default() });
    let matchers = vec![FieldMatcher { predicate: Some(whom), on_match }];
    Matcher { matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers })), on_no_match: None }
}

/// Whether it is one of these services; none if nobody can be.
fn any_of(services: &BTreeSet<&str>) -> Option<Predicate> {
    let names = services.iter().filter_map(|service| in_spiffe_id(service));
    let mut predicates: Vec<_> = names.map(|name| is(MatchPattern::Suffix(format!("/svc/{name}")))).collect();
    // Envoy refuses a list of one.
    if predicates.len() > 1 {
        return Some(predicate(MatchType::OrMatcher(PredicateList { predicate: predicates })));
    }
    predicates.pop()
}

fn not(of: Predicate) -> Predicate {
    predicate(MatchType::NotMatcher(Box::new(of)))
}

/// Whether the ids of the peer are like this.
fn is(pattern: MatchPattern) -> Predicate {
    let value = StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
    predicate(MatchType::SinglePredicate(SinglePredicate {
        input: Some(extension("uri_san", envoy::any(&UriSanInput::default()))),
        matcher: Some(Value::ValueMatch(value)),
    }))
}

fn regex(regex: &str) -> MatchPattern {
    let engine_type = Some(EngineType::GoogleRe2(GoogleRe2::default()));
    MatchPattern::SafeRegex(RegexMatcher { regex: regex.to_owned(), engine_type })
}

fn predicate(of: MatchType) -> Predicate {
    Predicate { match_type: Some(of) }
}

fn extension(name: &str, config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(config) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realmgate_filter::guard;
    use regex::Regex;

    use super::*;

    const DOMAIN: &str = "11111111-2222.consul";

    /// Whether Envoy finds this of a peer with these ids.
    fn holds(predicate: &Predicate, uri: &str) -> bool {
        match predicate.match_type.as_ref().unwrap() {
            MatchType::AndMatcher(list) => list.predicate.iter().all(|one| holds(one, uri)),
            MatchType::OrMatcher(list) => list.predicate.iter().any(|one| holds(one, uri)),
            MatchType::NotMatcher(one) => !holds(one, uri),
            MatchType::SinglePredicate(one) => {
                let Some(Value::ValueMatch(value)) = &one.matcher else { panic!("{one:?}") };
                match value.match_pattern.as_ref().unwrap() {
                    MatchPattern::Prefix(prefix) => uri.starts_with(prefix),
                    MatchPattern::Suffix(suffix) => uri.ends_with(suffix),
                    MatchPattern::SafeRegex(regex) => {
                        Regex::new(&format!("^(?:{})$", regex.regex)).unwrap().is_match(uri)
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn lets_in(admission: &Admission<'_>, uri: &str) -> bool {
        let rbac = filter(admission, DOMAIN);
        let Some(Matcher { matcher_type: Some(MatcherType::MatcherList(list)), .. }) = rbac.matcher else {
            assert!(rbac.rules.unwrap().policies.is_empty());
            return false;
        };
        list.matchers.iter().any(|one| holds(one.predicate.as_ref().unwrap(), uri))
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
    fn names_are_those_of_certificates() {
        let names = BTreeSet::from(["my shop", "a%b", "\u{fc}ni", "a/b", "a,b"]);
        let (only, all_but) = (Admission::Only(names.clone()), Admission::AllBut(names));
        for (name, known) in [
            ("my%20shop", Some(true)),
            ("a%25b", Some(true)),
            ("%C3%BCni", Some(true)),
            ("my%2520shop", Some(false)),
            ("a%2525b", Some(false)),
            // The same in other words, or no name.
            ("my shop", None),
            ("my%20s%68op", None),
            ("%c3%bcni", None),
            ("a%2Fb", None),
            ("a/b", None),
            ("a,b", None),
            ("a%2Cb", None),
        ] {
            let uri = id("aws", name);
            let expected = [known == Some(true), known == Some(false)];
            assert_eq!([lets_in(&only, &uri), lets_in(&all_but, &uri)], expected, "{name}");
        }
        // A set of whom nobody can be is as good as none.
        let nobody = BTreeSet::from(["a/b"]);
        assert!(!lets_in(&Admission::Only(nobody.clone()), &id("aws", "web")));
        assert!(lets_in(&Admission::AllBut(nobody), &id("aws", "web")));
    }

    proptest! {
        #[test]
        fn who_is_let_in_is_whom_the_guard_lets_stay(
            names in proptest::collection::btree_set("[a-c% /,\u{fc}.]{1,3}", 0..4),
            peers in proptest::collection::vec(r"([a-c./, \n]|%2[0CF5]|%6[12]|%C3%[bB]C|%[0-9A-Fa-g]{0,2}|%.?){1,3}", 1..20),
            but in any::<bool>(),
        ) {
            let services: BTreeSet<_> = names.iter().map(String::as_str).collect();
            let admission = if but { Admission::AllBut(services) } else { Admission::Only(services) };
            let guard = super::super::guard::config(&admission, DOMAIN);
            for peer in peers {
                let uri = id("aws", &peer);
                prop_assert_eq!(lets_in(&admission, &uri), guard.admits(&uri), "{:?} by {:?}", uri, admission);
            }
        }
    }

    #[test]
    fn the_guard_takes_the_same_for_names() {
        let everyone = Admission::AllBut(BTreeSet::new());
        for byte in 0..=127_u8 {
            let percent = format!("%{byte:02X}");
            for name in [char::from(byte).to_string(), percent.to_ascii_lowercase(), percent] {
                assert_eq!(lets_in(&everyone, &id("aws", &name)), guard::is_name(&name), "{name:?}");
            }
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
            // Several ids, as Envoy gives them.
            format!("{},{}", id("aws", "web"), id("aws", "other")),
            format!("{},urn:x", id("aws", "web")),
            format!("urn:x,{}", id("aws", "web")),
            format!("spiffe://{DOMAIN}/ns/default/dc/aws,x/svc/web"),
            String::new(),
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
