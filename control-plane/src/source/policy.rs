//! The policy as a source: documents come in by [`PolicySource::apply`], are validated, stored, and then
//! published.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::policy_store::{NewPolicy, PolicyStore, Precondition, PutError, StoreError, StoredPolicy};
use crate::model::{self, Policy, Problem};

/// The policy that is in force.
#[derive(Clone, Debug)]
pub struct LoadedPolicy {
    /// The stored document; `None` before the first one.
    pub stored: Option<Arc<StoredPolicy>>,
    /// What it says.
    pub policy: Arc<Policy>,
}

/// Reads, writes and publishes policies.
pub struct PolicySource {
    store: PolicyStore,
    publish: watch::Sender<Arc<LoadedPolicy>>,
    /// One writer at a time, so that what is published last is what was stored last.
    writing: Mutex<()>,
}

/// What [`PolicySource::apply`] did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The policy now in force.
    pub current: Arc<LoadedPolicy>,
    /// Whether this was a new document.
    pub changed: bool,
}

/// Why a document was not applied. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is not a valid policy.
    #[error("the policy is not valid: {}", list(.0))]
    Invalid(Vec<Problem>),
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] PutError),
}

/// A stored document that this version of Realmgate cannot read.
#[derive(Debug, thiserror::Error)]
#[error("the stored policy (version {version}) is not valid for this version of realmgate: {}", list(.problems))]
pub struct Unreadable {
    version: u64,
    problems: Vec<Problem>,
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl PolicySource {
    /// Starts from what is stored.
    pub fn new(store: PolicyStore) -> Result<Self, Unreadable> {
        let stored = store.latest();
        let policy = match &stored {
            None => Policy::default(),
            Some(stored) => model::parse(&stored.text)
                .map_err(|problems| Unreadable { version: stored.info.version, problems })?,
        };
        let (publish, _) = watch::channel(Arc::new(LoadedPolicy { stored, policy: Arc::new(policy) }));
        Ok(Self { store, publish, writing: Mutex::new(()) })
    }

    /// The policy in force.
    #[must_use]
    pub fn current(&self) -> Arc<LoadedPolicy> {
        self.publish.borrow().clone()
    }

    /// The policy in force and its successors.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<LoadedPolicy>> {
        self.publish.subscribe()
    }

    /// Whether the last document of this author that is still kept says just this.
    pub async fn is_latest_of(&self, author: &str, text: &str) -> Result<bool, StoreError> {
        let history = self.store.history().await?;
        let Some(last) = history.iter().find(|info| info.author == author) else { return Ok(false) };
        Ok(self.store.get(last.version).await?.is_some_and(|stored| &*stored.text == text))
    }

    /// Validates a document, stores it durably, and puts it in force.
    pub async fn apply(&self, new: NewPolicy, expected: Precondition) -> Result<Applied, ApplyError> {
        let policy = Arc::new(model::parse(&new.text).map_err(ApplyError::Invalid)?);
        let _writing = self.writing.lock().await;
        let before = self.current();
        let stored = self.store.put(new, expected).await?;
        let changed = before.stored.as_ref().map(|s| s.info.version) != Some(stored.info.version);
        if !changed {
            return Ok(Applied { current: before, changed });
        }
        let current = Arc::new(LoadedPolicy { stored: Some(stored), policy });
        self.publish.send_replace(Arc::clone(&current));
        Ok(Applied { current, changed })
    }
}
