//! The policy as a source: what the store tells is validated and published, whoever wrote it. What is put here is validated
//! first, then stored, and comes back by the same way.

mod judge;
mod metrics;
#[cfg(test)]
mod tests;
mod weigh;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::policy_store::{
    BY_HAND, Guard, NewPolicy, OverlayText, PolicyStore, Precondition, PutError, StoreError, StoredPolicy,
    Unconfirmed,
};
use crate::model::{self, EndpointPolicy, Policy, Problem, Unread};
use crate::work::Work;
use judge::{ByHand, Checked, HeldBack, Judge, Refusal, Verdict};
use metrics::Metrics;

pub use crate::work::Unfinished;

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

/// Reads, writes and publishes policies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PolicySource {
    store: PolicyStore,
    /// Kept by nobody for longer than what the store tells takes to be read.
    judge: Arc<Mutex<Judge>>,
    publish: watch::Sender<Arc<LoadedPolicy>>,
    /// One at a time, lest an older one be kept last.
    keeping: Arc<Mutex<()>>,
    work: Arc<Work>,
    metrics: Metrics,
}

/// What a document would do.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// What would serve here.
    pub policy: Arc<Policy>,
    /// Whether that is another policy than the one that serves.
    pub changed: bool,
    /// What would change, in words.
    pub changes: Vec<String>,
    /// Why it would have to be confirmed.
    pub unconfirmed: Option<Unconfirmed>,
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
    /// What it changed of what served when it came, in words.
    pub changes: Vec<String>,
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
    /// Nobody has looked at it.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
}

impl From<Unread> for ApplyError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Invalid(problems) => Self::Invalid(problems),
            // Whoever left does not hear of it.
            Unread::Stopped => Self::Unfinished(Unfinished::TooLong),
        }
    }
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
        let (judge, publish, keeping, work) = Default::default();
        let source = Self { store, judge, publish, keeping, work, metrics };
        source.take().await;
        Ok(source)
    }

    /// Documents that are put are held against this, and not only against what may never be an endpoint.
    #[must_use]
    pub async fn holding_against(self, endpoints: Arc<EndpointPolicy>) -> Self {
        self.judge.lock().await.hold_against(endpoints);
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

    /// What a document would do. Dropped, this ends.
    pub async fn check(&self, text: String) -> Result<DryRun, ApplyError> {
        let basis = self.judge.lock().await.basis();
        let done = self.work.run(move |effort| {
            let checked = basis.check(&text, effort)?;
            effort.check()?;
            let changes = model::diff(&basis.loaded.policy, &checked.policy);
            effort.check()?;
            Ok::<_, Unread>(DryRun {
                changed: basis.loaded.policy != checked.policy,
                unconfirmed: basis.in_force.weigh(&checked.written).err(),
                policy: checked.policy,
                changes,
            })
        });
        Ok(done.await??)
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
        let basis = self.judge.lock().await.basis();
        let text: Arc<str> = new.text.as_str().into();
        let done = self.work.run({
            let text = Arc::clone(&text);
            move |effort| {
                let checked = basis.check(&text, effort)?;
                let differences = model::diff(&basis.loaded.policy, &checked.policy);
                Ok::<_, Unread>((checked, differences, basis.in_force))
            }
        });
        let (checked, differences, in_force) = done.await??;
        self.judge.lock().await.remember(text, &checked);
        let Checked { written, policy } = checked;
        let guard = if forced { Guard::none() } else { in_force.guard(written) };
        let before = self.current();
        let stored = self.store.put_guarded(new, expected, guard).await?;
        self.take().await;
        let changed = before.stored.as_ref().map(|s| s.info.version) != Some(stored.info.version);
        Ok(Applied { stored, policy, changed, changes: differences })
    }

    /// Holds `policy.file` back, which takes too much away: what is in force stays, and this is told until another policy is put.
    pub async fn hold_file_back(&self, file: &str, unconfirmed: &Unconfirmed) {
        let refusal = Refusal::unconfirmed("policy.file", file, unconfirmed);
        self.judge.lock().await.hold_file_back(refusal);
        self.take().await;
    }

    /// The same for a file that was held back by an earlier run and is still the same.
    pub async fn go_on_holding_file_back(&self, file: &str) {
        self.judge.lock().await.hold_file_back(Refusal::held_before(file));
        self.take().await;
    }

    /// Publishes what the store holds now as far as it is good; a document that wants to be made a version. Goes on when the one who
    /// asked has left: what the judge has taken is new only once, and would never be told and kept.
    async fn take(&self) -> Option<ByHand> {
        let source = self.clone();
        let taken = tokio::spawn(async move { source.take_to_the_end().await }).await;
        taken.flatten().unwrap_or_else(|error| {
            // A fault of ours, unless the process ends.
            tracing::error!(%error, "reading the stored policy failed; the one in force stays");
            None
        })
    }

    async fn take_to_the_end(&self) -> Result<Option<ByHand>, JoinError> {
        let mut judge = Arc::clone(&self.judge).lock_owned().await;
        let held = self.store.watch();
        // A document of thousands of routes takes a while to read.
        let taken = spawn_blocking(move || {
            // Under the lock, lest an older one come last.
            let held = held.borrow().clone();
            (judge.take(&held), judge)
        });
        let (verdict, judge) = taken.await?;
        self.tell(&verdict);
        drop(judge);
        if verdict.is_new {
            let _keeping = self.keeping.lock().await;
            let LoadedPolicy { stored, overlay, .. } = &*self.current();
            self.store.keep_good(stored.clone(), overlay.clone()).await;
        }
        Ok(verdict.by_hand)
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
        let mut judge = Arc::clone(&self.judge).lock_owned().await;
        let text = Arc::clone(&document.text);
        let weighed = spawn_blocking(move || Some((judge.check(&text).ok()?.written, judge.in_force())));
        let Some((written, in_force)) = weighed.await.ok().flatten() else { return true };
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
        self.judge.lock().await.hold_back(document, why);
        self.take().await;
        settled
    }
}
