//! What a snapshot must not take away: a source that was never heard says nothing by what it leaves out.

use std::sync::Arc;

use super::ResourceType;

/// Holds back from proxies that come with resources of a source which was never heard whatever would take something from
/// them: removals, and changes of the listeners and filters that name what is not known. Others are served what there is.
#[derive(Clone, Debug)]
pub struct Hold {
    reason: Arc<str>,
    is_of_source: fn(ResourceType, &str) -> bool,
    is_told_by_names: bool,
}

impl Hold {
    /// `reason` says what was never heard and what to do about it; `is_of_source` which names that source alone gives.
    pub fn new(reason: impl Into<Arc<str>>, is_of_source: fn(ResourceType, &str) -> bool) -> Self {
        Self { reason: reason.into(), is_of_source, is_told_by_names: true }
    }

    /// The same of a source that may give clusters without endpoints, for which a proxy asks by no name: in state of the world
    /// nothing tells then that it has them.
    #[must_use]
    pub fn with_nameless(mut self) -> Self {
        self.is_told_by_names = false;
        self
    }

    /// Whether the names that a proxy asks for tell whether it has something of the source.
    pub(super) const fn is_told_by_names(&self) -> bool {
        self.is_told_by_names
    }

    /// What was never heard, and what to do about it.
    #[must_use]
    pub const fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// Whether a resource of this name, held by a proxy and unknown here, is of the source that was never heard.
    pub(super) fn is_evidence(&self, kind: ResourceType, name: &str) -> bool {
        (self.is_of_source)(kind, name)
    }
}

impl PartialEq for Hold {
    /// Each reason is of one source.
    fn eq(&self, other: &Self) -> bool {
        self.reason == other.reason
    }
}
impl Eq for Hold {}
