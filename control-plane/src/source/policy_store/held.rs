//! What a store holds, as far as it is known: the policy, the overlay of our datacenter, and what is wrong with either.

use std::sync::Arc;

use super::StoredPolicy;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The policy document.
    pub policy: Slot<Written>,
    /// What our datacenter has differently; `None` = nothing.
    pub overlay: Slot<Option<Arc<OverlayText>>>,
    /// The last version in the history, where none that is good was heard of where the policy belongs.
    pub last: Option<Arc<StoredPolicy>>,
}

/// A document and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot<T> {
    /// Whether the store has ever been heard, in this run or an earlier one. Before, the value is no news.
    pub heard: bool,
    /// The last good value.
    pub value: T,
    /// Why there may be another one.
    pub trouble: Option<Trouble>,
    /// Consul's index of the last change that was seen.
    pub(in crate::source) index: u64,
}

impl<T> Slot<T> {
    /// Takes what the store holds now.
    pub(super) fn hear(&mut self, value: T) {
        (self.heard, self.value, self.trouble) = (true, value, None);
    }
}

/// What is written where the policy belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Written {
    /// Nothing yet.
    #[default]
    Nothing,
    /// A version.
    Version(Arc<StoredPolicy>),
    /// A document that somebody wrote past every control plane; one of them makes a version of it.
    ByHand(Arc<str>),
}

/// An overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayText {
    /// Where it is, for people.
    pub key: String,
    /// The document as it was given.
    pub text: Arc<str>,
}

/// Why what is known may not be what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The store does not answer, or has lost something.
    Lost(String),
    /// What is stored cannot be used.
    Refused {
        /// A stable word for metrics.
        reason: &'static str,
        /// For people: what, where and why.
        text: String,
    },
}

impl Trouble {
    /// In words.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Lost(text) | Self::Refused { text, .. } => text,
        }
    }
}

impl Held {
    /// A store that is always there, with this as its latest version.
    pub(super) fn of(latest: Option<Arc<StoredPolicy>>) -> Self {
        let value = latest.map_or(Written::Nothing, Written::Version);
        Self {
            policy: Slot { heard: true, value, ..Slot::default() },
            overlay: Slot { heard: true, ..Slot::default() },
            last: None,
        }
    }

    /// The latest version.
    #[must_use]
    pub const fn latest(&self) -> Option<&Arc<StoredPolicy>> {
        match &self.policy.value {
            Written::Version(stored) => Some(stored),
            Written::Nothing | Written::ByHand(_) => None,
        }
    }
}
