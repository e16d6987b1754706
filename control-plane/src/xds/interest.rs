//! Which resources of one type a proxy asks for: the wildcard, and names.

use std::sync::Arc;

use super::message::Texts;
use super::name_map::join;
use super::names::{NamePool, Names};
use super::{Resource, ResourceSet, ResourceType};

/// The name that stands for all resources.
const WILDCARD: &str = "*";

/// The names a proxy is subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    asked: bool,
    wildcard: bool,
    /// Whether names were ever given: only before that does an empty list mean everything (7).
    named: bool,
    names: Names,
}

/// What a request changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether it was the first request of its type on this stream.
    pub(crate) first: bool,
    /// Whether everything is asked for from now on.
    pub(crate) everything: bool,
    /// Names that must be answered even if the proxy has them already.
    pub(crate) answer: Vec<Arc<str>>,
    /// Those of them that were not asked for by name before.
    pub(crate) added: Vec<Arc<str>>,
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
    pub(crate) const fn names(&self) -> &Names {
        &self.names
    }

    /// Whether this resource is asked for.
    pub(crate) fn covers(&self, resource: &Resource) -> bool {
        self.wildcard && !resource.is_on_demand() || self.names.contains(resource.name())
    }

    /// Whether a resource of this name would be asked for if it existed.
    pub(crate) fn names_or_all(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// State of the world: the whole list. New names are answered even if unchanged (6).
    pub(crate) fn replace(
        &mut self,
        kind: ResourceType,
        list: &Texts,
        wanted: &ResourceSet,
        pool: &NamePool,
    ) -> Asked {
        let first = !std::mem::replace(&mut self.asked, true);
        let legacy = list.is_empty() && !self.named && has_legacy_wildcard(kind);
        self.named |= !list.is_empty();
        let (names, star) = read(list, wanted);
        let wildcard = star || legacy;
        let everything = wildcard && !self.wildcard;
        let had = self.names.iter().map(|name| (name, ()));
        let (mut answer, mut remove) = (Vec::new(), Vec::new());
        for joined in join(had, names.iter().map(|name| (name, ()))) {
            match joined {
                (name, Some(()), None) => remove.push(Arc::clone(name)),
                (name, None, Some(())) => answer.push(Arc::clone(name)),
                _ => {}
            }
        }
        let dropped = self.wildcard && !wildcard || !remove.is_empty();
        self.wildcard = wildcard;
        self.names.change(&answer, &remove, pool);
        Asked { first, everything, added: answer.clone(), answer, dropped }
    }

    /// Delta: the differences. A name that is asked for again is answered again (10). A name dropped under
    /// the wildcard is answered too, since it is still wanted (12); unknown names are ignored.
    pub(crate) fn change(
        &mut self,
        kind: ResourceType,
        add: &Texts,
        remove: &Texts,
        wanted: &ResourceSet,
        pool: &NamePool,
    ) -> Asked {
        let first = !std::mem::replace(&mut self.asked, true);
        let had_wildcard = self.wildcard;
        let mut asked = Asked { first, ..Asked::default() };
        // Envoy later adds names without `*` and still relies on this wildcard, unlike in state of the world.
        self.wildcard |= first && add.is_empty() && has_legacy_wildcard(kind);
        let (add, star) = read(add, wanted);
        self.wildcard |= star;
        asked.added = add.iter().filter(|name| !self.names.contains(name)).cloned().collect();
        asked.answer = add;
        self.names.change(&asked.added, &[], pool);
        let (mut gone, star) = read(remove, wanted);
        if star {
            asked.dropped |= std::mem::take(&mut self.wildcard);
        }
        gone.retain(|name| self.names.contains(name));
        self.names.change(&[], &gone, pool);
        asked.dropped |= !gone.is_empty();
        if self.wildcard {
            asked.answer.extend(gone);
        }
        asked.everything = self.wildcard && !had_wildcard;
        asked
    }
}

/// Names as they are kept, in order and each once, and whether the wildcard was among them.
fn read(list: &Texts, wanted: &ResourceSet) -> (Vec<Arc<str>>, bool) {
    let mut star = false;
    let names = list.iter().filter(|name| {
        let is_star = *name == WILDCARD;
        star |= is_star;
        !is_star
    });
    (wanted.in_order(names), star)
}

/// CDS and LDS alone are asked for by an empty first request.
const fn has_legacy_wildcard(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Cluster | ResourceType::Listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResourceType::{Cluster, Endpoints};

    fn list(names: &[&str]) -> Texts {
        names.iter().collect()
    }

    fn replace(interest: &mut Interest, kind: ResourceType, names: &[&str]) -> Asked {
        interest.replace(kind, &list(names), &ResourceSet::default(), &NamePool::default())
    }

    fn change(interest: &mut Interest, kind: ResourceType, add: &[&str], remove: &[&str]) -> Asked {
        interest.change(kind, &list(add), &list(remove), &ResourceSet::default(), &NamePool::default())
    }

    #[test]
    fn s07_sotw_empty_first_is_everything_and_empty_after_names_is_nothing() {
        let mut interest = Interest::default();
        assert!(replace(&mut interest, Cluster, &[]).first);
        assert!(interest.wildcard());
        replace(&mut interest, Cluster, &[]);
        assert!(interest.wildcard());
        assert!(replace(&mut interest, Cluster, &["a"]).dropped);
        assert!(interest.names_or_all("a") && !interest.names_or_all("b"));
        replace(&mut interest, Cluster, &[]);
        assert!(!interest.names_or_all("a"));
    }

    #[test]
    fn s07_delta_keeps_the_legacy_wildcard_when_names_follow() {
        let mut interest = Interest::default();
        assert!(change(&mut interest, Cluster, &[], &[]).everything);
        assert!(!change(&mut interest, Cluster, &["a"], &[]).everything);
        assert!(interest.names_or_all("b"));
    }

    #[test]
    fn s07_endpoints_have_no_legacy_wildcard() {
        let mut interest = Interest::default();
        replace(&mut interest, Endpoints, &[]);
        assert!(!interest.names_or_all("a"));
        let mut interest = Interest::default();
        change(&mut interest, Endpoints, &[], &[]);
        assert!(!interest.names_or_all("a"));
    }

    #[test]
    fn s06_only_new_names_are_answered_in_sotw() {
        let mut interest = Interest::default();
        assert_eq!(replace(&mut interest, Endpoints, &["a"]).answer, [Arc::from("a")]);
        assert_eq!(replace(&mut interest, Endpoints, &["a", "b"]).answer, [Arc::from("b")]);
        assert!(replace(&mut interest, Endpoints, &["a", "b"]).answer.is_empty());
    }

    #[test]
    fn s12_a_name_dropped_under_the_wildcard_is_answered_and_unknown_ones_are_ignored() {
        let mut interest = Interest::default();
        change(&mut interest, Cluster, &["*", "a"], &[]);
        let asked = change(&mut interest, Cluster, &[], &["a", "never"]);
        assert_eq!(asked, Asked { answer: vec!["a".into()], dropped: true, ..Asked::default() });
        assert!(interest.names_or_all("a"));
    }

    #[test]
    fn the_wildcard_does_not_cover_what_comes_on_demand() {
        let lazy = Resource::encoded("", "a".into(), "1".into(), b"").on_demand();
        let mut interest = Interest::default();
        change(&mut interest, Cluster, &[], &[]);
        assert!(!interest.covers(&lazy));
        change(&mut interest, Cluster, &["a"], &[]);
        assert!(interest.covers(&lazy));
    }
}
