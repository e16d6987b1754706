//! Whether a document takes more away from what is in force than it confirms. Pure.

use std::sync::Arc;

use crate::model::{Overlay, Policy, mass_removal};
use crate::source::policy_store::{Guard, StoredPolicy, Unconfirmed};

/// What is in force here, and what it is compared with.
#[derive(Clone, Debug, Default)]
pub(super) struct InForce {
    /// Empty = no policy was ever put.
    pub(super) etag: String,
    pub(super) written: Arc<Policy>,
    pub(super) overlay: Option<Arc<Overlay>>,
}

impl InForce {
    /// What is in force where this version is: the one that a put would replace. One that cannot be read never was.
    fn of(self, replaced: Option<&StoredPolicy>) -> Self {
        let Some(stored) = replaced.filter(|stored| stored.info.etag != self.etag) else { return self };
        match crate::model::parse(&stored.text) {
            Ok(written) => Self { etag: stored.info.etag.clone(), written: Arc::new(written), ..self },
            Err(_) => self,
        }
    }

    /// Weighs a policy that would replace what is in force: as it is written, since other datacenters may have another overlay,
    /// and as it would serve here.
    pub(super) fn weigh(&self, after: &Policy) -> Result<(), Unconfirmed> {
        let served = |policy: &Policy| self.overlay.as_ref().and_then(|overlay| overlay.over(policy).ok());
        let here = || served(&self.written).zip(served(after));
        let removal = mass_removal(&self.written, after)
            .or_else(|| here().and_then(|(before, after)| mass_removal(&before, &after)));
        let Some(removal) = removal else { return Ok(()) };
        Unconfirmed { removal, etag: self.etag.clone(), said: None }
            .unless_confirmed_by(after.confirm_removal.as_deref())
    }

    /// Weighs a put at the moment when it is made.
    pub(super) fn guard(self, after: Arc<Policy>) -> Guard {
        Guard::new(move |replaced| self.clone().of(replaced).weigh(&after))
    }
}

/// Weighs an overlay that would serve another policy than the one that serves. `etag` is that of the overlay in force, or of
/// the policy where there is none.
pub(super) fn weigh_overlay(
    served: &Policy,
    after: &Policy,
    etag: String,
    confirm_removal: Option<&str>,
) -> Result<(), Unconfirmed> {
    let Some(removal) = mass_removal(served, after) else { return Ok(()) };
    Unconfirmed { removal, etag, said: None }.unless_confirmed_by(confirm_removal)
}
