//! Which services may connect to which, from all who say so.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{ANY_SERVICE, Action, Intention, Policy};
use crate::source::consul;

/// All intentions, and what holds where none matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intentions {
    /// In any order, at most one for the same source and destination.
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
    /// its default comes before Consul's.
    #[must_use]
    pub fn joined(policy: &Policy, consul: Option<&consul::Intentions>) -> Self {
        let theirs = consul.map(|consul| consul.list.as_slice()).unwrap_or_default();
        let all = theirs.iter().chain(&policy.intentions);
        let by_pair: BTreeMap<_, _> = all.map(|one| ((&one.source, &one.destination), one.action)).collect();
        let intention = |((source, destination), action): ((&String, &String), Action)| Intention {
            source: source.clone(),
            destination: destination.clone(),
            action,
        };
        let default = policy.default_intention.or(consul.map(|consul| consul.default));
        Self { list: by_pair.into_iter().map(intention).collect(), default: default.unwrap_or(Action::Deny) }
    }

    /// What happens to a connection between these two services: the most specific intention decides. The destination
    /// counts before the source, as Consul documents it.
    #[must_use]
    pub fn decide(&self, source: &str, destination: &str) -> Action {
        let matches = |pattern: &str, name: &str| pattern == ANY_SERVICE || pattern == name;
        let matching = self
            .list
            .iter()
            .filter(|one| matches(&one.source, source) && matches(&one.destination, destination));
        let most_specific =
            matching.max_by_key(|one| (one.destination != ANY_SERVICE, one.source != ANY_SERVICE));
        most_specific.map_or(self.default, |one| one.action)
    }
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

    #[test]
    fn the_destination_counts_before_the_source() {
        let list = [intention("*", "api", Deny), intention("web", "*", Allow), intention("*", "*", Allow)];
        let intentions = Intentions { list: list.into(), default: Deny };
        assert_eq!(intentions.decide("web", "api"), Deny);
        assert_eq!(intentions.decide("web", "other"), Allow);
        assert_eq!(intentions.decide("cron", "other"), Allow);
    }
}
