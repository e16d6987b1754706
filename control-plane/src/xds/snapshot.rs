//! All resources that the proxies of one scope should have, and what changed from one such set to the next.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use foldhash::quality::FixedState;

use super::name_map::{Joined, NameMap, join};
use super::{Hold, Resource, ResourceType, content_hash};

/// All resources of one type that a scope needs.
#[derive(Debug, Default)]
pub struct ResourceSet {
    version: Arc<str>,
    /// In the order of their names.
    resources: Vec<Arc<Resource>>,
    /// Where each is. Only names of our own are put in, so nobody can make them clash.
    index: HashMap<Arc<str>, usize, FixedState>,
    /// Changes from the sets before this one, by their version: found once, used by every stream.
    changes: RwLock<Remembered<[Change]>>,
    /// This set with what those before it had besides, by their version.
    keeping: RwLock<Remembered<ResourceSet>>,
}

/// What follows from earlier sets, by their versions.
type Remembered<T> = Vec<(Arc<str>, Arc<T>)>;

/// A resource in which two sets differ.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    pub(crate) before: Option<Arc<Resource>>,
    pub(crate) after: Option<Arc<Resource>>,
}

/// Sets of which the changes are remembered. Streams take up the latest when they are done with what they have: while changes
/// come one after the other, those on slower links come from older sets.
const REMEMBERED: usize = 16;

impl ResourceSet {
    /// The set of these; of two with one name the later stays.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut resources: Vec<_> = resources.into_iter().collect();
        // Stable, and reversed before: of equals the last comes first and is the one kept.
        resources.reverse();
        resources.sort_by(|a, b| a.name().cmp(b.name()));
        resources.dedup_by(|next, kept| next.name() == kept.name());
        let parts = resources.iter().flat_map(|r| {
            let marks: &[u8] = match (r.is_on_demand(), r.is_hollow()) {
                (false, false) => b"",
                (true, _) => b"on demand",
                (false, true) => b"hollow",
            };
            [r.name().as_bytes(), r.version().as_bytes(), marks]
        });
        let version = content_hash(parts).into();
        let index = resources.iter().enumerate().map(|(at, r)| (Arc::clone(r.name()), at)).collect();
        Self { version, resources, index, changes: RwLock::default(), keeping: RwLock::default() }
    }

    /// The set of these, of which the wildcard covers none: a proxy gets what it names.
    pub fn on_demand(resources: impl IntoIterator<Item = Resource>) -> Self {
        Self::new(resources.into_iter().map(|resource| Arc::new(resource.on_demand())))
    }

    /// Hash of all names and versions.
    #[must_use]
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The resource of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.at(self.position(name)?)
    }

    /// Where the resource of this name is among all.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The resource at this place.
    pub(crate) fn at(&self, position: usize) -> Option<&Arc<Resource>> {
        self.resources.get(position)
    }

    /// These names in order and each once; those of resources are the resources' own, not copies.
    pub(crate) fn in_order<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<Arc<str>> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            match self.position(name) {
                Some(at) => known.push(at),
                None => unknown.push((Arc::from(name), ())),
            }
        }
        // Sorted as numbers: thousands of names that begin alike take long to compare.
        known.sort_unstable();
        known.dedup();
        let known = known.into_iter().filter_map(|at| self.at(at)).map(|r| Arc::clone(r.name()));
        if unknown.is_empty() {
            return known.collect();
        }
        let unknown: NameMap<()> = unknown.into_iter().collect();
        join(known.map(|name| (name, ())), unknown).map(|(name, ..)| name).collect()
    }

    /// Whether this exists and is sent only when it is asked for by name.
    #[must_use]
    pub fn is_on_demand(&self, name: &str) -> bool {
        self.get(name).is_some_and(|resource| resource.is_on_demand())
    }

    /// What the wildcard stands for, in the order of names.
    pub fn eager(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter().filter(|resource| !resource.is_on_demand())
    }

    /// The resources in the order of their names.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    fn named(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Resource>)> {
        self.resources.iter().map(|resource| (resource.name(), resource))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// In what this set differs from `before`, in the order of names. Thousands of streams ask for the same
    /// pair: whoever asks first pays.
    pub(crate) fn changes_since(&self, before: &Self) -> Arc<[Change]> {
        found_once(&self.changes, &before.version, || changes(before, self))
    }

    /// This set, and of `before` what is not in it. Found once, as the changes are.
    pub(crate) fn keeping(self: &Arc<Self>, before: &Self) -> Arc<Self> {
        let changes = self.changes_since(before);
        if changes.iter().all(|change| change.after.is_some()) {
            return Arc::clone(self);
        }
        found_once(&self.keeping, &before.version, || {
            let gone = changes.iter().filter(|change| change.after.is_none());
            let gone = gone.filter_map(|change| change.before.clone());
            Self::new(gone.chain(self.iter().cloned())).into()
        })
    }
}

/// What follows from the set of this version before, remembered.
fn found_once<T: ?Sized>(
    remembered: &RwLock<Remembered<T>>,
    before: &Arc<str>,
    find: impl FnOnce() -> Arc<T>,
) -> Arc<T> {
    let known = |list: &Remembered<T>| {
        list.iter().find(|(version, _)| version == before).map(|(_, found)| Arc::clone(found))
    };
    // The list is whole after each step, whatever panicked with the lock held.
    if let Some(found) = known(&remembered.read().unwrap_or_else(PoisonError::into_inner)) {
        return found;
    }
    let mut remembered = remembered.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known(&remembered) {
        return found;
    }
    let found = find();
    if remembered.len() == REMEMBERED {
        remembered.remove(0);
    }
    remembered.push((Arc::clone(before), Arc::clone(&found)));
    found
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}
impl Eq for ResourceSet {}

fn changes(before: &ResourceSet, after: &ResourceSet) -> Arc<[Change]> {
    let joined = join(before.named(), after.named());
    let changed = joined.filter(|(_, before, after)| !same(*before, *after));
    let change = |(name, before, after): Joined<&Arc<str>, &Arc<Resource>, &Arc<Resource>>| Change {
        name: Arc::clone(name),
        before: before.cloned(),
        after: after.cloned(),
    };
    changed.map(change).collect()
}

fn same(before: Option<&Arc<Resource>>, after: Option<&Arc<Resource>>) -> bool {
    before.zip(after).is_some_and(|(before, after)| {
        Arc::ptr_eq(before, after)
            || before.version() == after.version()
                && before.is_on_demand() == after.is_on_demand()
                && before.is_hollow() == after.is_hollow()
    })
}

/// Everything that the proxies of one scope should have. Immutable; a change makes a new one.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: Arc<str>,
    made: Option<Instant>,
    clusters: Arc<ResourceSet>,
    endpoints: Arc<ResourceSet>,
    listeners: Arc<ResourceSet>,
    extensions: Arc<ResourceSet>,
    secrets: Arc<ResourceSet>,
    runtime: Arc<ResourceSet>,
    hold: Option<Hold>,
    secret_hold: Option<Hold>,
    lacks_filters: bool,
}

impl Snapshot {
    /// The snapshot of these sets: CDS, EDS, LDS and ECDS. It has no secrets and no runtime layers.
    #[must_use]
    pub fn new(
        clusters: impl Into<Arc<ResourceSet>>,
        endpoints: impl Into<Arc<ResourceSet>>,
        listeners: impl Into<Arc<ResourceSet>>,
        extensions: impl Into<Arc<ResourceSet>>,
    ) -> Self {
        let snapshot = Self {
            version: Arc::default(),
            made: None,
            clusters: clusters.into(),
            endpoints: endpoints.into(),
            listeners: listeners.into(),
            extensions: extensions.into(),
            secrets: ResourceSet::new([]).into(),
            runtime: ResourceSet::new([]).into(),
            hold: None,
            secret_hold: None,
            lacks_filters: false,
        };
        snapshot.versioned()
    }

    /// The same snapshot with these secrets, [`ResourceSet::on_demand`].
    #[must_use]
    pub fn with_secrets(mut self, secrets: impl Into<Arc<ResourceSet>>) -> Self {
        self.secrets = secrets.into();
        self.versioned()
    }

    /// The same snapshot with these runtime layers, [`ResourceSet::on_demand`].
    #[must_use]
    pub fn with_runtime(mut self, layers: impl Into<Arc<ResourceSet>>) -> Self {
        self.runtime = layers.into();
        self.versioned()
    }

    /// The same snapshot, of which some source was never heard: proxies lose nothing by what it leaves out. One that is pending
    /// takes nothing away as it is.
    #[must_use]
    pub fn holding(mut self, hold: Option<Hold>) -> Self {
        if self.is_pending() {
            return self;
        }
        self.hold = hold;
        self.versioned()
    }

    /// The same snapshot, whose secrets are of an authority that is new: proxies that come with another one keep theirs.
    #[must_use]
    pub fn holding_secrets(mut self, hold: Option<Hold>) -> Self {
        if self.is_pending() {
            return self;
        }
        self.secret_hold = hold;
        self.versioned()
    }

    /// The same snapshot, with or without filters that its listeners name: while some are lacking nobody has all of it, and
    /// proxies go on with those that they have.
    #[must_use]
    pub fn lacking_filters(mut self, lacks: bool) -> Self {
        if self.is_pending() {
            return self;
        }
        self.lacks_filters = lacks;
        self.versioned()
    }

    /// Whether there are no filters for its listeners.
    #[must_use]
    pub const fn lacks_filters(&self) -> bool {
        self.lacks_filters
    }

    /// Which secrets it must not replace.
    #[must_use]
    pub const fn secret_hold(&self) -> Option<&Hold> {
        self.secret_hold.as_ref()
    }

    /// What it must not take away.
    #[must_use]
    pub const fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Whoever has all of it and is not held any more has more to be told, so a hold makes another version, and so do filters that are lacking.
    fn versioned(mut self) -> Self {
        let versions = ResourceType::ALL.map(|kind| self.of(kind).version().as_bytes());
        let hold = self.hold.iter().chain(&self.secret_hold).map(|hold| hold.reason().as_bytes());
        let lacks = self.lacks_filters.then_some(&b"lacks filters"[..]);
        self.version = content_hash(versions.into_iter().chain(hold).chain(lacks)).into();
        self
    }

    /// The same snapshot with the moment of the change that led to it, from which convergence is counted.
    #[must_use]
    pub fn made_at(mut self, moment: Instant) -> Self {
        self.made = Some(moment);
        self
    }

    /// The moment of the change that led to it, if known.
    #[must_use]
    pub const fn made(&self) -> Option<Instant> {
        self.made
    }

    /// The same snapshot with the very sets of `before` where nothing changed, so that streams see at a glance
    /// what does not concern them.
    #[must_use]
    pub fn sharing(mut self, before: &Self) -> Self {
        for kind in ResourceType::ALL {
            if self.of(kind) == before.of(kind) {
                *self.of_mut(kind) = Arc::clone(before.of(kind));
            }
        }
        self
    }

    /// The same snapshot with what `latest` has that waits for no acknowledgement of others: endpoints, of which players must
    /// not wait for the health, secrets, and runtime layers. What `latest` has no more stays, since clusters of this snapshot may be
    /// waiting for it: without their endpoints they would come into force empty.
    pub(crate) fn with_what_never_waits(&self, latest: &Self) -> Self {
        Self {
            endpoints: latest.endpoints.keeping(&self.endpoints),
            secrets: latest.secrets.keeping(&self.secrets),
            runtime: Arc::clone(&latest.runtime),
            ..self.clone()
        }
    }

    /// The same snapshot with these endpoints besides, under the same version.
    pub(crate) fn with_endpoints(&self, more: Vec<Arc<Resource>>) -> Self {
        let endpoints = ResourceSet::new(self.endpoints.iter().cloned().chain(more));
        Self { endpoints: endpoints.into(), ..self.clone() }
    }

    /// Whether this is the default value, which stands for "no snapshot yet": proxies are sent nothing. One
    /// that is empty on purpose is made of `ResourceSet::new([])`.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.version.is_empty()
    }

    /// Hash of the versions of all types.
    #[must_use]
    pub const fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The resources of one type.
    #[must_use]
    pub const fn of(&self, kind: ResourceType) -> &Arc<ResourceSet> {
        match kind {
            ResourceType::Runtime => &self.runtime,
            ResourceType::Secret => &self.secrets,
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoints => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Extension => &self.extensions,
        }
    }

    const fn of_mut(&mut self, kind: ResourceType) -> &mut Arc<ResourceSet> {
        match kind {
            ResourceType::Runtime => &mut self.runtime,
            ResourceType::Secret => &mut self.secrets,
            ResourceType::Cluster => &mut self.clusters,
            ResourceType::Endpoints => &mut self.endpoints,
            ResourceType::Listener => &mut self.listeners,
            ResourceType::Extension => &mut self.extensions,
        }
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}
impl Eq for Snapshot {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(resources: &[(String, u8)]) -> ResourceSet {
        ResourceSet::new(resources.iter().map(|(name, version)| {
            Arc::new(Resource::encoded("", name.as_str().into(), version.to_string().into(), b""))
        }))
    }

    proptest! {
        #[test]
        fn changes_lead_from_one_set_to_the_other(
            before in proptest::collection::btree_map("[a-d]{1,2}", 0..3_u8, 0..8),
            after in proptest::collection::btree_map("[a-d]{1,2}", 0..3_u8, 0..8),
        ) {
            let list = |map: &std::collections::BTreeMap<String, u8>| -> Vec<_> {
                map.iter().map(|(name, version)| (name.clone(), *version)).collect()
            };
            let (old, new) = (set(&list(&before)), set(&list(&after)));
            let mut reached = before.clone();
            for change in new.changes_since(&old).iter() {
                if let Some(gone) = &change.before {
                    reached.remove(&**gone.name());
                }
                if let Some(come) = &change.after {
                    reached.insert(come.name().to_string(), come.version().parse().unwrap());
                }
                prop_assert_ne!(&change.before, &change.after);
            }
            prop_assert_eq!(reached, after);
        }
    }

    #[test]
    fn of_two_with_one_name_the_later_stays() {
        let set = set(&[("a".to_owned(), 1), ("b".to_owned(), 1), ("a".to_owned(), 2)]);
        assert_eq!(set.len(), 2);
        assert_eq!(set.get("a").unwrap().version(), "2");
    }
}
