//! Which services may connect to which, from all who say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{ANY_SERVICE, Action, Intention, Policy};
use crate::source::consul;

/// Every service of every namespace, as Consul Enterprise has it beside [`ANY_SERVICE`], which is every one of ours. No name
/// holds a slash, so it is none.
pub const ANY_NAMESPACE: &str = "*/*";

/// All intentions, and what holds where none matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intentions {
    /// In any order, at most one for the same source and destination. Destinations are in lower case.
    pub list: Arc<[Intention]>,
    /// What holds where none of them matches.
    pub default: Action,
}

impl Default for Intentions {
    /// Nobody may do anything.
    fn default() -> Self {
        Self { list: Arc::default(), default: Action::Deny }
    }
}

impl Intentions {
    /// Those of the policy with those of Consul, if there is one. For the same two services the policy's counts, and
    /// its default comes before Consul's. Where one of them says two things of the same two services, deny counts.
    #[must_use]
    pub fn joined(policy: &Policy, consul: Option<&consul::Intentions>) -> Self {
        let theirs = consul.map(|consul| consul.list.as_slice()).unwrap_or_default();
        let mut by_pair = strictest(theirs);
        by_pair.extend(strictest(&policy.intentions));
        let intention = |((source, destination), action): ((&str, String), Action)| Intention {
            source: source.to_owned(),
            destination,
            action,
        };
        let default = policy.default_intention.or(consul.map(|consul| consul.default));
        Self { list: by_pair.into_iter().map(intention).collect(), default: default.unwrap_or(Action::Deny) }
    }

    /// What is said of connections to this service.
    #[must_use]
    pub fn towards(&self, destination: &str) -> Towards<'_> {
        let destination = folded(destination);
        let mut by_source: BTreeMap<&str, (Breadth, Action)> = BTreeMap::new();
        for one in &*self.list {
            let breadth = Breadth::of(&one.destination);
            let known = by_source.get(&*one.source);
            if (breadth > Breadth::One || one.destination == destination)
                && known.is_none_or(|(known, _)| breadth < *known)
            {
                by_source.insert(&one.source, (breadth, one.action));
            }
        }
        Towards { by_source, default: self.default }
    }
}

/// What is said of connections to one service, by their source, with how widely that means its destination.
#[derive(Clone, Debug)]
pub struct Towards<'a> {
    by_source: BTreeMap<&'a str, (Breadth, Action)>,
    default: Action,
}

impl<'a> Towards<'a> {
    /// What happens to a connection from this service: the most specific intention decides. The destination counts
    /// before the source, as Consul documents it.
    #[must_use]
    pub fn decide(&self, source: &str) -> Action {
        let matching =
            [source, ANY_SERVICE, ANY_NAMESPACE].into_iter().filter_map(|source| self.by_source.get(source));
        // The first of equals is the one whose source is most specific.
        matching.min_by_key(|(destination, _)| *destination).map_or(self.default, |(_, action)| *action)
    }

    /// The services that are named as sources.
    pub fn named(&self) -> impl Iterator<Item = &'a str> {
        self.by_source.keys().copied().filter(|source| Breadth::of(source) == Breadth::One)
    }
}

/// How many services are meant, from the most specific on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Breadth {
    One,
    Ours,
    All,
}

impl Breadth {
    fn of(pattern: &str) -> Self {
        match pattern {
            ANY_SERVICE => Self::Ours,
            ANY_NAMESPACE => Self::All,
            _ => Self::One,
        }
    }
}

/// By source and folded destination.
fn strictest(list: &[Intention]) -> BTreeMap<(&str, String), Action> {
    let mut by_pair = BTreeMap::new();
    for one in list {
        let action = by_pair.entry((&*one.source, folded(&one.destination))).or_insert(one.action);
        if one.action == Action::Deny {
            *action = Action::Deny;
        }
    }
    by_pair
}

/// A destination as intentions are looked up by it. Consul does not tell `GAME` from `game` there, while a source is who its
/// certificate says, letter by letter. Letter by letter also here, as Go does it: the rules of languages, such as that of a
/// sigma at a word's end, are not applied.
fn folded(name: &str) -> String {
    name.chars().filter_map(|letter| letter.to_lowercase().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::{Allow, Deny};

    fn intention(source: &str, destination: &str, action: Action) -> Intention {
        Intention { source: source.to_owned(), destination: destination.to_owned(), action }
    }

    #[test]
    fn the_policy_comes_before_consul() {
        let consul = consul::Intentions {
            list: vec![intention("web", "api", Deny), intention("cron", "api", Allow)],
            default: Allow,
        };
        let mut policy = Policy { intentions: vec![intention("web", "api", Allow)], ..Policy::default() };
        let joined = Intentions::joined(&policy, Some(&consul));
        assert_eq!(*joined.list, [intention("cron", "api", Allow), intention("web", "api", Allow)]);
        assert_eq!(joined.default, Allow);
        policy.default_intention = Some(Deny);
        assert_eq!(Intentions::joined(&policy, Some(&consul)).default, Deny);
        assert_eq!(Intentions::joined(&Policy::default(), None), Intentions::default());
    }

    fn both(policy: &[Intention], consul: Vec<Intention>) -> Intentions {
        let policy = Policy { intentions: policy.to_vec(), ..Policy::default() };
        Intentions::joined(&policy, Some(&consul::Intentions { list: consul, default: Deny }))
    }

    #[test]
    fn the_destination_counts_before_the_source() {
        let intentions = both(
            &[],
            vec![intention("*", "api", Deny), intention("web", "*", Allow), intention("*", "*", Allow)],
        );
        for (source, destination, action) in
            [("web", "api", Deny), ("web", "other", Allow), ("cron", "other", Allow)]
        {
            assert_eq!(intentions.towards(destination).decide(source), action, "{source} -> {destination}");
        }
    }

    /// Consul's precedences 9 to 1, each against all that come after it.
    #[test]
    fn what_is_meant_of_every_namespace_counts_last() {
        let by_precedence: Vec<_> = ["api", "*", "*/*"]
            .into_iter()
            .flat_map(|destination| ["web", "*", "*/*"].map(|source| (source, destination)))
            .collect();
        for (first, (source, destination)) in by_precedence.iter().enumerate() {
            for (action, after) in [(Allow, Deny), (Deny, Allow)] {
                let mut list = vec![intention(source, destination, action)];
                list.extend(by_precedence.iter().skip(first + 1).map(|(s, d)| intention(s, d, after)));
                let decided = both(&[], list).towards("api").decide("web");
                assert_eq!(decided, action, "{source} -> {destination}");
            }
        }
    }

    #[test]
    fn a_destination_is_meant_in_any_case_and_a_source_in_its_own() {
        let intentions = both(
            &[intention("cron", "Shop", Allow)],
            vec![
                intention("Web", "GAME", Allow),
                intention("cron", "sHOP", Deny),
                intention("*", "\u{391}\u{3a3}", Allow),
            ],
        );
        for (source, destination, action) in [
            ("Web", "game", Allow),
            ("Web", "Game", Allow),
            ("web", "game", Deny),
            ("cron", "shop", Allow),
            ("x", "\u{3b1}\u{3c3}", Allow),
            ("x", "\u{3b1}\u{3c2}", Deny),
        ] {
            assert_eq!(intentions.towards(destination).decide(source), action, "{source} -> {destination}");
        }
    }

    #[test]
    fn where_two_things_are_said_of_two_services_deny_counts() {
        for order in [[Allow, Deny], [Deny, Allow]] {
            let said =
                ["game", "GAME"].into_iter().zip(order).map(|(to, action)| intention("web", to, action));
            let said: Vec<_> = said.collect();
            assert_eq!(both(&said, Vec::new()).towards("game").decide("web"), Deny);
            assert_eq!(both(&[], said).towards("game").decide("web"), Deny);
        }
    }
}
