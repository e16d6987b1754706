//! Proxies that keep what they came with while a source was never heard: which they are, and what they keep of one type.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::message::Variant;
use super::plan::Gate;
use super::stream::Stream;
use super::subscription::{PATIENCE, Subscription};
use super::{Hold, Resource, ResourceSet, ResourceType, Snapshot};

impl Subscription {
    /// Whether the proxy came with something that only the source could have given it which was never heard.
    fn shows(&self, hold: &Hold, wanted: &ResourceSet) -> bool {
        self.unknown(wanted).any(|name| hold.is_evidence(self.kind, name))
    }

    /// Whether it asks for something that only that source could have named.
    fn asks_for_more(&self, hold: &Hold, wanted: &ResourceSet) -> bool {
        let mut unknown = self.interest.names().iter().filter(|name| wanted.get(name).is_none());
        unknown.any(|name| hold.is_evidence(self.kind, name))
    }

    /// Whether the proxy came with another version of what this is about.
    pub(super) fn claims_another(&self, hold: &Hold) -> bool {
        self.claimed_otherwise().any(|name| hold.is_evidence(self.kind, name))
    }

    /// In state of the world a proxy says of its list no more than the version: of another one nobody knows what is in it,
    /// and so it cannot be sent back in full.
    fn claims_another_list(&self, wanted: &ResourceSet) -> bool {
        self.full_state() && self.claimed.as_ref().is_some_and(|version| **version != **wanted.version())
    }

    /// Names of what it came with and is not wanted so.
    fn claimed_otherwise(&self) -> impl Iterator<Item = &Arc<str>> {
        let claimed = self.behind.iter().filter(|(_, has)| has.as_ref().is_some_and(|has| has.is_claimed()));
        claimed.map(|(name, _)| name)
    }

    /// Those that nobody here knows.
    fn unknown<'a>(&'a self, wanted: &'a ResourceSet) -> impl Iterator<Item = &'a Arc<str>> {
        self.claimed_otherwise().filter(|name| self.covered(name, wanted).is_none())
    }

    /// Whether the proxy came with something better than this, which is as it is for want of knowing. Where Envoy waits for it,
    /// as behind a changed cluster, it gets it all the same.
    pub(super) fn is_kept_from(&self, resource: &Resource) -> bool {
        let has = || self.behind.get(resource.name()).and_then(Option::as_ref);
        resource.is_hollow() && has().is_some_and(|has| has.is_claimed())
    }

    /// Lets the proxy keep what it came with, or no longer.
    pub(super) fn keep(&mut self, keeps: bool) {
        self.dirty |= self.keeps != keeps;
        self.keeps = keeps;
    }

    /// How many resources it keeps that nobody here knows; `None` = a list of which not even that is known.
    pub(crate) fn kept(&self, wanted: &ResourceSet) -> Option<usize> {
        match self.keeps {
            false => Some(0),
            true if self.claims_another_list(wanted) => None,
            true => Some(self.unknown(wanted).count()),
        }
    }

    /// Whether everything of this type is held back: what the proxy has is not known well enough to send less.
    pub(super) fn is_unknown(&self) -> bool {
        let names_others = self.full_state() || self.kind == ResourceType::Extension;
        self.keeps && self.variant == Variant::Sotw && names_others && self.claimed.is_some()
    }
}

/// What a proxy keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// What was never heard, and what to do about it.
    pub reason: String,
    /// How many resources it has that are not known here; `None` = not even that is.
    pub resources: Option<usize>,
}

impl Stream {
    /// Whether the proxy keeps what it came with, because it shows that it had a source which was never heard here.
    pub(super) fn note_hold(&mut self, wanted: &Snapshot, now: Instant) -> bool {
        let any = |of: &dyn Fn(&Subscription, &ResourceSet) -> bool| {
            ResourceType::ALL.iter().any(|kind| of(self.of(*kind), wanted.of(*kind)))
        };
        let has_lists = any(&Subscription::claims_another_list);
        // Of lists that are not known the names tell for which the proxy asks, where they do. It asks at once.
        let told = self.endpoints.asked() && self.extensions.asked() || now >= self.last_asked + PATIENCE;
        let keeps = wanted.hold().is_some_and(|hold| {
            any(&|of, wanted| of.shows(hold, wanted))
                || has_lists
                    && (!told
                        || !hold.is_told_by_names()
                        || any(&|of, wanted| of.asks_for_more(hold, wanted)))
        });
        let keeps_secrets = wanted.secret_hold().is_some_and(|hold| self.secrets.claims_another(hold));
        for kind in ResourceType::ALL {
            self.of_mut(kind).keep(keeps || kind == ResourceType::Secret && keeps_secrets);
        }
        keeps
    }

    /// Whether the proxy keeps what it came with, or at least its secrets.
    pub(super) const fn keeps(&self) -> bool {
        self.of(ResourceType::Secret).keeps
    }

    /// What the proxy keeps, if it does.
    pub(super) fn held(&self) -> Option<Held> {
        let wanted = self.wanted();
        let secrets = self.of(ResourceType::Secret);
        let told = |hold: &Hold, resources| Held { reason: hold.reason().to_string(), resources };
        if self.of(ResourceType::Cluster).keeps {
            let kept = |kind: ResourceType| self.of(kind).kept(wanted.of(kind));
            return Some(told(wanted.hold()?, ResourceType::ALL.into_iter().map(kept).sum()));
        }
        let hold = wanted.secret_hold().filter(|_| secrets.keeps)?;
        Some(told(hold, Some(secrets.claimed_otherwise().count())))
    }
}

impl Gate {
    /// For listeners and filters of a proxy that keeps what it came with: those that it has name what is not known here.
    pub(super) const fn keeping(self, keeps: bool) -> Self {
        match self {
            Self::Open if keeps => Self::NewOnly,
            gate => gate,
        }
    }
}
