//! Values by name, as a sorted vector: what streams do to thousands of names at once are linear walks over lists
//! that are in order already, and an empty one costs nothing.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

/// Values by name, in the order of names.
#[derive(Clone, Debug)]
pub(super) struct NameMap<V>(Vec<(Arc<str>, V)>);

impl<V> Default for NameMap<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Names of one resource are mostly one allocation, which spares reading them.
pub(super) fn compare(a: &Arc<str>, b: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) }
}

impl<V> NameMap<V> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(of, _)| (**of).cmp(name))
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.find(name).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        self.find(name).ok().and_then(|at| self.0.get_mut(at)).map(|(_, value)| value)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Arc<str>, &mut V) -> bool) {
        self.0.retain_mut(|(name, value)| keep(name, value));
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Puts entries in; of two with one name the later stays. Entries that come in order cost a walk.
    pub(super) fn extend(&mut self, entries: impl IntoIterator<Item = (Arc<str>, V)>) {
        let before = self.0.len();
        self.0.extend(entries);
        if self.0.len() == before {
            return;
        }
        // Stable, and quick on runs that are in order. Of equals the last is to be first, which is what stays.
        if !self.0.is_sorted_by(|(a, _), (b, _)| compare(a, b).is_lt()) {
            self.0.reverse();
            self.0.sort_by(|(a, _), (b, _)| compare(a, b));
            self.0.dedup_by(|(next, _), (kept, _)| next == kept);
        }
    }
}

impl<V> FromIterator<(Arc<str>, V)> for NameMap<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<V> IntoIterator for NameMap<V> {
    type Item = (Arc<str>, V);
    type IntoIter = std::vec::IntoIter<(Arc<str>, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Walks two sequences that are in the order of names side by side: each name once, with what either has.
pub(super) struct Join<A: Iterator, B: Iterator> {
    left: Peekable<A>,
    right: Peekable<B>,
}

/// A name, and what the left and the right sequence have under it.
pub(super) type Joined<K, X, Y> = (K, Option<X>, Option<Y>);

/// Names may be borrowed: counting references of what all threads share is what costs most.
pub(super) fn join<K, X, Y, A, B>(left: A, right: B) -> Join<A::IntoIter, B::IntoIter>
where
    K: Borrow<Arc<str>>,
    A: IntoIterator<Item = (K, X)>,
    B: IntoIterator<Item = (K, Y)>,
{
    Join { left: left.into_iter().peekable(), right: right.into_iter().peekable() }
}

impl<K, X, Y, A, B> Iterator for Join<A, B>
where
    K: Borrow<Arc<str>>,
    A: Iterator<Item = (K, X)>,
    B: Iterator<Item = (K, Y)>,
{
    type Item = Joined<K, X, Y>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.left.peek(), self.right.peek()) {
            (Some((left, _)), Some((right, _))) => compare(left.borrow(), right.borrow()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let left = if order.is_le() { self.left.next() } else { None };
        let right = if order.is_ge() { self.right.next() } else { None };
        match (left, right) {
            (Some((name, left)), right) => Some((name, Some(left), right.map(|(_, right)| right))),
            (None, right) => right.map(|(name, right)| (name, None, Some(right))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    type Entries = Vec<(String, u8)>;

    fn entries() -> impl Strategy<Value = Entries> {
        proptest::collection::vec(("[a-e]", any::<u8>()), 0..12)
    }

    fn named(entries: &Entries) -> impl Iterator<Item = (Arc<str>, u8)> {
        entries.iter().map(|(name, value)| (name.as_str().into(), *value))
    }

    proptest! {
        #[test]
        fn it_is_a_map(first in entries(), second in entries()) {
            let mut map: NameMap<u8> = named(&first).collect();
            map.extend(named(&second));
            let model: BTreeMap<_, _> = named(&first).chain(named(&second)).collect();
            prop_assert!(map.iter().eq(model.iter()));
            for name in ["a", "b", "c", "d", "e"] {
                prop_assert_eq!(map.get(name), model.get(name));
            }
        }

        #[test]
        fn a_join_has_each_name_once(left in entries(), right in entries()) {
            let (left, right): (NameMap<u8>, NameMap<u8>) = (named(&left).collect(), named(&right).collect());
            let mut joined = BTreeSet::new();
            for (name, a, b) in join(left.clone(), right.clone()) {
                prop_assert_eq!((a, b), (left.get(&name).copied(), right.get(&name).copied()));
                prop_assert!(joined.insert(name));
            }
            let all: BTreeSet<_> = left.into_iter().chain(right).map(|(name, _)| name).collect();
            prop_assert_eq!(joined, all);
        }
    }
}
