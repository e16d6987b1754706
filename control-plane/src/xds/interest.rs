//! Which resources of one type a proxy asks for: the wildcard, and names.

use std::collections::BTreeSet;

use super::ResourceType;

/// The name that stands for all resources.
const WILDCARD: &str = "*";

/// The names a proxy is subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    asked: bool,
    wildcard: bool,
    /// Whether names were ever given: only before that does an empty list mean everything (7).
    named: bool,
    names: BTreeSet<String>,
}

/// What a request changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether it was the first request of its type on this stream.
    pub(crate) first: bool,
    /// Names that must be answered even if the proxy has them already.
    pub(crate) answer: Vec<String>,
    /// Whether names or the wildcard were dropped.
    pub(crate) dropped: bool,
}

impl Interest {
    /// Whether this type was ever asked for on this stream.
    pub(crate) const fn asked(&self) -> bool {
        self.asked
    }

    /// Whether every resource is asked for.
    pub(crate) const fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names asked for besides the wildcard.
    pub(crate) const fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Whether the resource of this name is asked for.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// State of the world: the whole list. New names are answered even if unchanged (6).
    pub(crate) fn replace(&mut self, kind: ResourceType, list: Vec<String>) -> Asked {
        let first = !std::mem::replace(&mut self.asked, true);
        let legacy = list.is_empty() && !self.named && has_legacy_wildcard(kind);
        self.named |= !list.is_empty();
        let mut names: BTreeSet<String> = list.into_iter().collect();
        let wildcard = names.remove(WILDCARD) || legacy;
        let answer = names.difference(&self.names).cloned().collect();
        let dropped = self.wildcard && !wildcard || self.names.iter().any(|n| !names.contains(n));
        self.wildcard = wildcard;
        self.names = names;
        Asked { first, answer, dropped }
    }

    /// Delta: the differences. A name that is asked for again is answered again (10). A name dropped under
    /// the wildcard is answered too, since it is still wanted (12); unknown names are ignored.
    pub(crate) fn change(&mut self, kind: ResourceType, add: Vec<String>, remove: Vec<String>) -> Asked {
        let first = !std::mem::replace(&mut self.asked, true);
        let mut asked = Asked { first, ..Asked::default() };
        // Envoy later adds names without `*` and still relies on this wildcard, unlike in state of the world.
        self.wildcard |= first && add.is_empty() && has_legacy_wildcard(kind);
        for name in add {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                self.names.insert(name.clone());
                asked.answer.push(name);
            }
        }
        for name in remove {
            if name == WILDCARD {
                asked.dropped |= std::mem::take(&mut self.wildcard);
            } else if self.names.remove(&name) {
                if self.wildcard {
                    asked.answer.push(name);
                } else {
                    asked.dropped = true;
                }
            }
        }
        asked
    }
}

/// CDS and LDS alone are asked for by an empty first request.
const fn has_legacy_wildcard(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Cluster | ResourceType::Listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResourceType::{Cluster, Endpoints};

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn s07_sotw_empty_first_is_everything_and_empty_after_names_is_nothing() {
        let mut interest = Interest::default();
        assert!(interest.replace(Cluster, vec![]).first);
        assert!(interest.wildcard());
        interest.replace(Cluster, vec![]);
        assert!(interest.wildcard());
        assert!(interest.replace(Cluster, list(&["a"])).dropped);
        assert!(interest.covers("a") && !interest.covers("b"));
        interest.replace(Cluster, vec![]);
        assert!(!interest.covers("a"));
    }

    #[test]
    fn s07_delta_keeps_the_legacy_wildcard_when_names_follow() {
        let mut interest = Interest::default();
        interest.change(Cluster, vec![], vec![]);
        interest.change(Cluster, list(&["a"]), vec![]);
        assert!(interest.covers("b"));
    }

    #[test]
    fn s07_endpoints_have_no_legacy_wildcard() {
        let mut interest = Interest::default();
        interest.replace(Endpoints, vec![]);
        assert!(!interest.covers("a"));
        let mut interest = Interest::default();
        interest.change(Endpoints, vec![], vec![]);
        assert!(!interest.covers("a"));
    }

    #[test]
    fn s06_only_new_names_are_answered_in_sotw() {
        let mut interest = Interest::default();
        assert_eq!(interest.replace(Endpoints, list(&["a"])).answer, ["a"]);
        assert_eq!(interest.replace(Endpoints, list(&["a", "b"])).answer, ["b"]);
        assert!(interest.replace(Endpoints, list(&["a", "b"])).answer.is_empty());
    }

    #[test]
    fn s12_a_name_dropped_under_the_wildcard_is_answered_and_unknown_ones_are_ignored() {
        let mut interest = Interest::default();
        interest.change(Cluster, list(&["*", "a"]), vec![]);
        let asked = interest.change(Cluster, vec![], list(&["a", "never"]));
        assert_eq!(asked, Asked { first: false, answer: list(&["a"]), dropped: false });
        assert!(interest.covers("a"));
    }
}
