//! Whom a service lets in: intentions by their precedence, turned into one set of services.

use std::collections::BTreeSet;

use crate::mesh::Intentions;
use crate::model::{ANY_SERVICE, Action};

/// The services that may connect. Precedence is settled here, service by service, so that whoever enforces it needs no
/// order of rules: Consul keeps one, and its Envoys let in what `/v1/connect/intentions/check` denies where an
/// intention of higher precedence is less specific in its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission<'a> {
    /// These and no others.
    Only(BTreeSet<&'a str>),
    /// Every service of the trust domain but these.
    AllBut(BTreeSet<&'a str>),
}

impl<'a> Admission<'a> {
    /// Whom `destination` lets in.
    pub(super) fn of(intentions: &'a Intentions, destination: &str) -> Self {
        let towards = intentions.towards(destination);
        // What holds for every service that no intention names as its source.
        let others = towards.decide(ANY_SERVICE);
        let exceptions = towards.named().filter(|source| towards.decide(source) != others);
        match others {
            Action::Deny => Self::Only(exceptions.collect()),
            Action::Allow => Self::AllBut(exceptions.collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Intention;
    use Action::{Allow, Deny};

    fn intentions(list: &[(&str, &str, Action)], default: Action) -> Intentions {
        let intention = |(source, destination, action): &(&str, &str, Action)| Intention {
            source: (*source).to_owned(),
            destination: (*destination).to_owned(),
            action: *action,
        };
        Intentions { list: list.iter().map(intention).collect(), default }
    }

    fn admits(admission: &Admission<'_>, source: &str) -> bool {
        match admission {
            Admission::Only(services) => services.contains(source),
            Admission::AllBut(services) => !services.contains(source),
        }
    }

    /// The outcomes that Consul documents for these intentions.
    #[test]
    fn every_row_of_the_documented_outcomes() {
        for (list, default, outcome) in [
            (&[("web", "api", Allow), ("*", "api", Deny), ("web", "*", Deny)][..], Deny, "ADDD"),
            (&[("*", "api", Allow)], Deny, "AAAA"),
            (&[("*", "api", Deny)], Allow, "DDDD"),
            (&[("web", "api", Allow)], Deny, "ADDD"),
            (&[("web", "api", Deny)], Allow, "DAAA"),
            (&[("web", "api", Deny), ("*", "api", Allow)], Deny, "DAAA"),
            (
                &[
                    ("web", "api", Allow),
                    ("cron", "api", Allow),
                    ("*", "api", Allow),
                    ("unsafe", "api", Deny),
                ],
                Deny,
                "AADA",
            ),
            (
                &[("web", "api", Deny), ("cron", "api", Deny), ("*", "api", Deny), ("unsafe", "api", Allow)],
                Allow,
                "DDAD",
            ),
        ] {
            let intentions = intentions(list, default);
            let admission = Admission::of(&intentions, "api");
            let peers = ["web", "cron", "unsafe", "other"];
            let came: String =
                peers.map(|peer| if admits(&admission, peer) { 'A' } else { 'D' }).iter().collect();
            assert_eq!(came, outcome, "{list:?}, default {default:?}");
        }
    }

    /// Where we differ from the RBAC that Consul 1.8 makes for its own Envoys, which lets `web` in.
    #[test]
    fn unlike_consuls_own_rbac_a_denied_destination_stays_denied_for_a_source_that_may_go_anywhere() {
        let intentions = intentions(&[("*", "api", Deny), ("web", "*", Allow)], Deny);
        assert_eq!(intentions.towards("api").decide("web"), Deny);
        assert_eq!(Admission::of(&intentions, "api"), Admission::Only(BTreeSet::new()));
        assert_eq!(Admission::of(&intentions, "shop"), Admission::Only(BTreeSet::from(["web"])));
    }

    fn service() -> impl Strategy<Value = String> {
        prop_oneof![Just("*".to_owned()), "[a-d]"]
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![Just(Allow), Just(Deny)]
    }

    /// Precedence as it is documented: 9, 8, 6, 5, default.
    fn by_precedence(intentions: &Intentions, source: &str, destination: &str) -> Action {
        let pairs = [(source, destination), ("*", destination), (source, "*"), ("*", "*")];
        let find = |(source, destination): (&str, &str)| {
            intentions.list.iter().find(|one| one.source == source && one.destination == destination)
        };
        pairs.into_iter().find_map(find).map_or(intentions.default, |one| one.action)
    }

    proptest! {
        #[test]
        fn who_is_let_in_is_whom_precedence_allows(
            pairs in proptest::collection::btree_map((service(), service()), action(), 0..12),
            default in action(),
        ) {
            let list = pairs.into_iter().map(|((source, destination), action)| Intention { source, destination, action });
            let intentions = Intentions { list: list.collect(), default };
            for destination in ["a", "b", "e"] {
                let admission = Admission::of(&intentions, destination);
                for source in ["a", "b", "c", "d", "e"] {
                    let expected = by_precedence(&intentions, source, destination);
                    prop_assert_eq!(intentions.towards(destination).decide(source), expected);
                    prop_assert_eq!(admits(&admission, source), expected == Allow, "{} to {}", source, destination);
                }
            }
        }
    }
}
