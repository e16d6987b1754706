//! The policy as a source: what the store tells is validated and published, whoever wrote it. What is put here is validated
//! first, then stored, and comes back by the same way.

mod judge;
mod metrics;
#[cfg(test)]
mod tests;
mod weigh;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::policy_store::{
    BY_HAND, Guard, NewPolicy, OverlayText, PolicyStore, Precondition, PutError, StoreError, StoredPolicy,
    Unconfirmed,
};
use crate::model::{self, EndpointPolicy, Policy, Problem};
use judge::{ByHand, Checked, HeldBack, Judge, Refusal, Verdict};
use metrics::Metrics;

/// The policy that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedPolicy {
    /// Whether anything is: before the store was heard, now or in an earlier run, nothing is to be served.
    pub known: bool,
    /// The stored document; `None` before the first one.
    pub stored: Option<Arc<StoredPolicy>>,
    /// What it says.
    pub written: Arc<Policy>,
    /// What our datacenter has differently.
    pub overlay: Option<Arc<OverlayText>>,
    /// What serves: the one put over the other.
    pub policy: Arc<Policy>,
    /// Why something else may be stored than is in force, and what is wrong with it.
    pub problem: Option<String>,
}

impl LoadedPolicy {
    /// Whether the store was heard and no policy was ever put in it: it may be new, or have lost what it had. That is no
    /// empty policy, which somebody would have put as `{}`.
    #[must_use]
    pub const fn never_put(&self) -> bool {
        self.known && self.stored.is_none()
    }
}

/// Reads, writes and publishes policies.
#[derive(Debug)]
pub struct PolicySource {
    store: PolicyStore,
    judge: Mutex<Judge>,
    publish: watch::Sender<Arc<LoadedPolicy>>,
    /// One at a time, lest an older one be kept last.
    keeping: tokio::sync::Mutex<()>,
    metrics: Metrics,
}

/// What [`PolicySource::apply`] did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The version that says so.
    pub stored: Arc<StoredPolicy>,
    /// What it makes of the services here.
    pub policy: Arc<Policy>,
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

/// Problems that are named in one line; a document of thousands of routes can have as many.
const MAX_LISTED: usize = 10;

fn list(problems: &[Problem]) -> String {
    let shown = problems.iter().take(MAX_LISTED).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

impl PolicySource {
    /// Starts from what is known of the store without asking.
    pub async fn new(store: PolicyStore, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let (judge, publish, keeping) = Default::default();
        let source = Self { store, judge, publish, keeping, metrics };
        source.take().await;
        Ok(source)
    }

    /// Documents that are put are held against this, and not only against what may never be an endpoint.
    #[must_use]
    pub fn holding_against(self, endpoints: Arc<EndpointPolicy>) -> Self {
        self.judging(|judge| judge.hold_against(endpoints));
        self
    }

    /// Follows the store for ever.
    pub async fn follow(&self) {
        tokio::join!(self.store.follow(), self.take_changes());
    }

    async fn take_changes(&self) {
        let mut held = self.store.watch();
        let mut backoff = Backoff::new();
        loop {
            held.mark_unchanged();
            let by_hand = self.take().await;
            let again = match by_hand {
                Some(document) => !self.take_over(document).await,
                None => false,
            };
            let later = async {
                if again {
                    sleep(backoff.wait()).await;
                } else {
                    backoff.reset();
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                result = held.changed() => if result.is_err() { return },
                () = later => {}
            }
        }
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

    /// The kind of store, as settings call it.
    #[must_use]
    pub const fn store(&self) -> &'static str {
        self.store.name()
    }

    /// What is said where no policy was ever put: where that is, and what to do.
    #[must_use]
    pub fn never_put(&self) -> String {
        self.store.never_put()
    }

    /// Waits until a policy is known, but not longer than this.
    pub async fn known_within(&self, patience: Duration) {
        let mut policies = self.subscribe();
        // Neither matters: who serves waits for it anyway.
        let _ = timeout(patience, policies.wait_for(|loaded| loaded.known)).await;
    }

    /// Whether the last document of this author that is still kept says just this.
    pub async fn is_latest_of(&self, author: &str, text: &str) -> Result<bool, StoreError> {
        let history = self.store.history().await?;
        let Some(last) = history.iter().find(|info| info.author == author) else { return Ok(false) };
        Ok(self.store.get(last.version).await?.is_some_and(|stored| &*stored.text == text))
    }

    /// What a document would be in force as, and why it would have to be confirmed.
    pub fn check(&self, text: &str) -> Result<(Arc<Policy>, Option<Unconfirmed>), Vec<Problem>> {
        self.judging(|judge| {
            let checked = judge.check(text)?;
            Ok((checked.policy, judge.in_force().weigh(&checked.written).err()))
        })
    }

    /// Validates a document, stores it durably, and puts it in force. One that takes too much away from what it replaces has to
    /// confirm that itself.
    pub async fn apply(&self, new: NewPolicy, expected: Precondition) -> Result<Applied, ApplyError> {
        self.put_in_force(new, expected, false).await
    }

    /// The same, whatever it takes away.
    pub async fn force(&self, new: NewPolicy, expected: Precondition) -> Result<Applied, ApplyError> {
        self.put_in_force(new, expected, true).await
    }

    async fn put_in_force(
        &self,
        new: NewPolicy,
        expected: Precondition,
        forced: bool,
    ) -> Result<Applied, ApplyError> {
        let checked = self.judging(|judge| Ok((judge.check(&new.text)?, judge.in_force())));
        let (Checked { written, policy }, in_force) = checked.map_err(ApplyError::Invalid)?;
        let guard = if forced { Guard::none() } else { in_force.guard(written) };
        let before = self.current();
        let stored = self.store.put_guarded(new, expected, guard).await?;
        self.take().await;
        let changed = before.stored.as_ref().map(|s| s.info.version) != Some(stored.info.version);
        Ok(Applied { stored, policy, changed })
    }

    /// Holds `policy.file` back, which takes too much away: what is in force stays, and this is told until another policy is put.
    pub async fn hold_file_back(&self, file: &str, unconfirmed: &Unconfirmed) {
        let refusal = Refusal::unconfirmed("policy.file", file, unconfirmed);
        self.judging(|judge| judge.hold_file_back(refusal));
        self.take().await;
    }

    /// The same for a file that was held back by an earlier run and is still the same.
    pub async fn go_on_holding_file_back(&self, file: &str) {
        self.judging(|judge| judge.hold_file_back(Refusal::held_before(file)));
        self.take().await;
    }

    fn judging<T>(&self, judge: impl FnOnce(&mut Judge) -> T) -> T {
        judge(&mut self.judge.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes what the store holds now as far as it is good; a document that wants to be made a version.
    async fn take(&self) -> Option<ByHand> {
        let verdict = self.judging(|judge| {
            // Under the lock, lest an older one come last.
            let held = self.store.watch().borrow().clone();
            let verdict = judge.take(&held);
            self.tell(&verdict);
            verdict
        });
        if verdict.is_new {
            let _keeping = self.keeping.lock().await;
            let LoadedPolicy { stored, overlay, .. } = &*self.current();
            self.store.keep_good(stored.clone(), overlay.clone()).await;
        }
        verdict.by_hand
    }

    fn tell(&self, verdict: &Verdict) {
        for refusal in &verdict.refusals {
            self.metrics.refused(refusal.document, refusal.reason);
        }
        let before = self.current();
        if Arc::ptr_eq(&before, &verdict.loaded) {
            return;
        }
        let version = verdict.loaded.stored.as_ref().map_or(0, |stored| stored.info.version);
        self.metrics.in_force(version, verdict.loaded.known && verdict.loaded.problem.is_none());
        self.metrics.never_put(verdict.loaded.never_put());
        match &verdict.loaded.problem {
            Some(problem) if before.problem.as_ref() != Some(problem) => {
                tracing::warn!(
                    version,
                    problem,
                    "the stored policy may be another one than the one in force"
                );
            }
            None if before.problem.is_some() && !verdict.is_new => {
                tracing::info!(version, "the stored policy is the one in force");
            }
            _ if verdict.is_new && verdict.loaded.never_put() => {
                tracing::warn!("{}. Proxies that come with a policy keep it", self.store.never_put());
            }
            _ if verdict.is_new => tracing::info!(version, "policy in force"),
            _ => {}
        }
        if verdict.is_new {
            for warning in model::warnings(&verdict.loaded.policy) {
                tracing::warn!(version, "{warning}");
            }
        }
        self.publish.send_replace(Arc::clone(&verdict.loaded));
    }

    /// Makes a version of a document that was written past every control plane; whether nothing is left to do.
    async fn take_over(&self, document: ByHand) -> bool {
        let expected = Precondition::Etag(document.etag());
        let new = NewPolicy {
            text: document.text.to_string(),
            author: BY_HAND.to_owned(),
            message: "written by hand".to_owned(),
        };
        let weighed = self.judging(|judge| Ok((judge.check(&new.text)?.written, judge.in_force())));
        let Ok((written, in_force)) = weighed.map_err(|_: Vec<Problem>| ()) else { return true };
        let (why, settled) = match self.store.put_guarded(new, expected, in_force.guard(written)).await {
            Ok(_) => {
                self.take().await;
                return true;
            }
            // Others were quicker, with this or another one; the store tells.
            Err(PutError::Conflict { .. }) => return true,
            Err(PutError::Unconfirmed(unconfirmed)) => (HeldBack::Unconfirmed(unconfirmed), true),
            Err(error) => {
                let problem = format!("the policy that was written by hand cannot be taken over: {error}");
                (HeldBack::Failed(problem), false)
            }
        };
        self.judging(|judge| judge.hold_back(document, why));
        self.take().await;
        settled
    }
}
