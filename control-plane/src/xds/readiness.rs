//! Whether a proxy has what it takes players with: every listener's filter accepted, in whatever version.
//!
//! A proxy that refuses a new configuration serves on with its last good one: it stays ready, and is told of as rejecting.

use std::sync::Arc;

use super::stream::Stream;
use super::subscription::Subscription;
use super::{Resource, ResourceSet, ResourceType};

impl Subscription {
    /// What the proxy has acknowledged under this name, now or on an earlier stream; `None` = it never took any version.
    pub(super) fn in_force<'a>(&'a self, name: &str, wanted: &'a ResourceSet) -> Option<&'a Arc<Resource>> {
        let before = |last_good: &'a Option<Arc<Resource>>, version: &str| {
            last_good.as_ref().filter(|good| good.version() != version)
        };
        if let Some(rejected) = self.rejected.get(name) {
            return before(&rejected.last_good, &rejected.version);
        }
        let sent =
            self.in_flight.iter().flat_map(|sent| &sent.changes).find(|change| &**change.sent.name() == name);
        match sent {
            Some(change) => before(&change.last_good, change.sent.version()),
            None => self.held(name, wanted),
        }
    }
}

impl Stream {
    /// Whether the proxy has some version of everything that needs code, and refuses no listener altogether.
    pub(super) fn filters_are_in_force(&self) -> bool {
        let (extensions, listeners) = (self.of(ResourceType::Extension), self.of(ResourceType::Listener));
        let wanted = self.wanted().of(ResourceType::Extension);
        let has_some = |resource: &Arc<Resource>| extensions.in_force(resource.name(), wanted).is_some();
        listeners.rejected.values().all(|rejected| rejected.last_good.is_some())
            && wanted.iter().filter(|resource| resource.code().is_some()).all(has_some)
    }
}
