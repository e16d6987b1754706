//! What a proxy that comes back says it has.

use std::sync::Arc;

use super::ResourceSet;
use super::message::Texts;
use super::name_map::NameMap;

/// Versions by name. Those of wanted names are found by their place in the wanted set: thousands of proxies come
/// back at once with thousands of names each.
pub(super) struct Claims<'a> {
    wanted: Vec<Option<&'a str>>,
    foreign: NameMap<&'a str>,
}

impl<'a> Claims<'a> {
    /// `initial` is pairs of name and version; of two with one name the later counts.
    pub(super) fn of(initial: &'a Texts, wanted: &ResourceSet) -> Self {
        if initial.is_empty() {
            return Self { wanted: Vec::new(), foreign: NameMap::default() };
        }
        let mut versions = vec![None; wanted.len()];
        let mut foreign = Vec::new();
        for (name, version) in initial.pairs() {
            match wanted.position(name).and_then(|at| versions.get_mut(at)) {
                Some(place) => *place = Some(version),
                None => foreign.push((Arc::from(name), version)),
            }
        }
        Self { wanted: versions, foreign: foreign.into_iter().collect() }
    }

    /// Whether it claims the resource at this place.
    pub(super) fn has(&self, at: usize) -> bool {
        self.wanted.get(at).is_some_and(Option::is_some)
    }

    /// Whether it claims something of this name that is not wanted.
    pub(super) fn has_foreign(&self, name: &str) -> bool {
        self.foreign.contains(name)
    }

    /// The version that it claims of the resource at this place, once.
    pub(super) fn take(&mut self, at: usize) -> Option<&'a str> {
        self.wanted.get_mut(at).and_then(Option::take)
    }

    /// What was not taken: names and versions.
    pub(super) fn rest(self, wanted: &ResourceSet) -> impl Iterator<Item = (Arc<str>, &'a str)> {
        let claimed = wanted.iter().zip(self.wanted);
        let claimed = claimed.filter_map(|(resource, version)| Some((Arc::clone(resource.name()), version?)));
        claimed.chain(self.foreign)
    }
}
