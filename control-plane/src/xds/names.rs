//! Sets of names, shared by all streams that ask for the same: ten thousand proxies of one scope keep one
//! list of their thousand clusters, not ten thousand.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::name_map::{NameMap, join};

/// In order.
type Set = Vec<Arc<str>>;

/// A set of names. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    set: Arc<Set>,
    /// Sum of the names' hashes: finds an equal set without building it.
    mark: u128,
}

/// The sets in use.
#[derive(Debug, Default)]
pub(crate) struct NamePool {
    /// Two keyed hashes: 128 bits that no proxy can aim at.
    keys: [RandomState; 2],
    sets: Mutex<HashMap<u128, Weak<Set>>>,
}

/// Below this a set is not worth looking for.
const SMALL: usize = 8;

impl Names {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.set.binary_search_by(|of| (**of).cmp(name)).is_ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.set.iter()
    }

    /// Takes these names out of `map`; gives them.
    pub(super) fn take_from<V>(&self, map: &mut NameMap<V>) -> Vec<Arc<str>> {
        let mut taken = Vec::new();
        // A walk, unless a few are looked for among very many.
        if map.len() < self.len() / 16 {
            map.retain(|name, _| {
                let asked = self.contains(name);
                taken.extend(asked.then(|| Arc::clone(name)));
                !asked
            });
            return taken;
        }
        let names = self.set.iter().map(|name| (Arc::clone(name), ()));
        let rest = join(map.take(), names).filter_map(|(name, value, asked)| match (value, asked) {
            (Some(value), None) => Some((name, value)),
            (Some(_), Some(())) => {
                taken.push(name);
                None
            }
            (None, _) => None,
        });
        *map = rest.collect();
        taken
    }

    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }

    /// Takes `add` in (none of which it has) and `remove` out (all of which it has), each in order and without
    /// repetition.
    pub(crate) fn change(&mut self, add: &[Arc<str>], remove: &[Arc<str>], pool: &NamePool) {
        if add.is_empty() && remove.is_empty() {
            return;
        }
        let mut mark = self.mark;
        for name in add {
            mark = mark.wrapping_add(pool.hash(name));
        }
        for name in remove {
            mark = mark.wrapping_sub(pool.hash(name));
        }
        self.mark = mark;
        let small = self.set.len() + add.len() < SMALL;
        if !small && let Some(shared) = pool.find(mark) {
            self.set = shared;
            return;
        }
        let set = Arc::make_mut(&mut self.set);
        if let [name] = add {
            // Worlds on demand come one by one.
            let at = set.partition_point(|of| of < name);
            set.insert(at, Arc::clone(name));
        } else if !add.is_empty() {
            let named =
                |names: &[Arc<str>]| names.iter().map(|name| (Arc::clone(name), ())).collect::<Vec<_>>();
            *set = join(named(set), named(add)).map(|(name, ..)| name).collect();
        }
        if !remove.is_empty() {
            set.retain(|name| remove.binary_search(name).is_err());
        }
        if !small {
            pool.keep(mark, &self.set);
        }
    }
}

impl NamePool {
    fn hash(&self, name: &str) -> u128 {
        let [high, low] = &self.keys;
        u128::from(high.hash_one(name)) << 64 | u128::from(low.hash_one(name))
    }

    fn find(&self, mark: u128) -> Option<Arc<Set>> {
        self.lock().get(&mark).and_then(Weak::upgrade)
    }

    fn keep(&self, mark: u128, set: &Arc<Set>) {
        let mut sets = self.lock();
        // Before it would grow: what it takes is bounded by the sets that are alive.
        if sets.len() == sets.capacity() {
            sets.retain(|_, set| set.strong_count() > 0);
        }
        sets.insert(mark, Arc::downgrade(set));
    }

    /// The map is whole after each step, whatever panicked with the lock held.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u128, Weak<Set>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<Arc<str>> {
        range.map(|i| format!("world-{i:05}").into()).collect()
    }

    #[test]
    fn equal_sets_are_one_whatever_the_way_to_them() {
        let pool = NamePool::default();
        let (mut one, mut two) = (Names::default(), Names::default());
        one.change(&names(0..100), &[], &pool);
        two.change(&names(50..120), &[], &pool);
        two.change(&names(0..50), &names(100..120), &pool);
        assert!(Arc::ptr_eq(&one.set, &two.set));
        two.change(&[], &names(0..1), &pool);
        assert!(one.contains("world-00000") && !two.contains("world-00000"));
        assert_eq!((one.len(), two.len()), (100, 99));
    }

    #[test]
    fn sets_that_nobody_has_are_forgotten() {
        let pool = NamePool::default();
        for i in 0..10_000 {
            Names::default().change(&names(i..i + 20), &[], &pool);
        }
        assert!(pool.lock().len() < 16);
    }
}
