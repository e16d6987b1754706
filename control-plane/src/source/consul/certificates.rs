//! Roots, and the leaf certificates of the services that are wanted.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::answer::certificates;
use super::error::ConsulError;
use super::follow::Context;
use super::index::Index;
use super::metrics::Metrics;
use super::parts::Part;
use super::renewal;
use crate::mesh::Wanted;
use crate::mesh::identity::{Identities, Leaf};
use crate::source::backoff::Backoff;

/// Most leaves whose successors are waited for at a time, however many there are. A leaf is asked for when its time has
/// come, so a connection each is not needed.
const AT_ONCE: usize = 16;
/// How long such a question waits; a first one does not. The agent replaces a leaf up to 30 s after its root was replaced.
const LEAF_WAIT: Duration = Duration::from_mins(1);

/// Where roots and leaves are published together.
#[derive(Clone, Debug)]
pub(super) struct Keyring {
    context: Context,
    identities: watch::Sender<Arc<Identities>>,
    metrics: Arc<Metrics>,
    at_once: Arc<Semaphore>,
}

impl Keyring {
    pub(super) fn new(
        context: Context,
        identities: watch::Sender<Arc<Identities>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { context, identities, metrics, at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Follows the roots for ever.
    pub(super) async fn follow_roots(self) {
        let take = |answer: &_| {
            let roots = certificates::roots(answer, SystemTime::now())?;
            self.change(|identities| {
                identities.trust_domain.clone_from(&roots.trust_domain);
                if *identities.roots != *roots.roots {
                    identities.roots = roots.roots.into();
                }
            });
            Ok(())
        };
        self.context.follow(Part::Roots, "/v1/connect/ca/roots", |_| Ok(Vec::new()), take).await;
    }

    /// Keeps a leaf of every service that is wanted, for ever.
    pub(super) async fn follow_leaves(self, mut wanted: watch::Receiver<Wanted>) {
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<String, AbortHandle> = BTreeMap::new();
        loop {
            let leaves = wanted.borrow_and_update().leaves.clone();
            running.retain(|service, task| {
                let keep = leaves.contains(service);
                if !keep {
                    task.abort();
                    self.context.parts.forget(&Part::Leaf(service.clone()));
                }
                keep
            });
            self.change(|identities| identities.leaves.retain(|service, _| leaves.contains(service)));
            self.count(false);
            for service in leaves {
                if let Entry::Vacant(new) = running.entry(service) {
                    self.context.parts.expect(Part::Leaf(new.key().clone()));
                    let task = tasks.spawn(self.clone().follow_leaf(new.key().clone()));
                    new.insert(task);
                }
            }
            while tasks.try_join_next().is_some() {}
            if wanted.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn follow_leaf(self, service: String) {
        let part = Part::Leaf(service.clone());
        let path = format!("/v1/agent/connect/ca/leaf/{}", utf8_percent_encode(&service, NON_ALPHANUMERIC));
        let mut backoff = Backoff::new();
        let mut index = Index::default();
        let mut identities = self.identities.subscribe();
        loop {
            // Of no use without a root; and the first root is no other one.
            let known = identities.wait_for(|identities| identities.is_known()).await;
            let Ok(roots) = known.map(|identities| Arc::clone(&identities.roots)) else { return };
            match self.ask(&path, &service, &mut index).await {
                Ok(leaf) => {
                    backoff.reset();
                    let (born, dies) = (leaf.not_before, leaf.not_after);
                    let replaced = self.publish(&service, leaf);
                    self.context.parts.ok(&part);
                    let (now, dice) = (SystemTime::now(), fastrand::f64());
                    let due = if replaced {
                        renewal::moment(born, dies, dice).max(renewal::soonest(now))
                    } else {
                        now + renewal::again(dies, now, dice)
                    };
                    let other_root = async {
                        // The guard of the value must not be held while sleeping.
                        let _ = identities.wait_for(|identities| identities.roots != roots).await.map(drop);
                        sleep(renewal::SPREAD.mul_f64(fastrand::f64())).await;
                    };
                    tokio::select! { () = until(due) => {}, () = other_root => {} }
                }
                Err(error) => {
                    if error.is_answer() {
                        self.context.parts.partly(&part, &error);
                    } else {
                        self.context.parts.lost(&part, &error);
                    }
                    index = Index::default();
                    sleep(backoff.wait()).await;
                }
            }
        }
    }

    async fn ask(&self, path: &str, service: &str, index: &mut Index) -> Result<Leaf, ConsulError> {
        let answer = if *index == Index::default() {
            self.context.client.get(path).await?
        } else {
            // Never closed.
            let _permit = self.at_once.acquire().await;
            self.context.client.wait(path, *index, LEAF_WAIT).await?
        };
        index.take(answer.index());
        let trust_domain = self.identities.borrow().trust_domain.clone();
        certificates::leaf(&answer, &trust_domain, service, SystemTime::now())
    }

    /// Publishes a leaf; false if it is the one that was there.
    fn publish(&self, service: &str, leaf: Leaf) -> bool {
        let mut replaced = false;
        self.change(|identities| {
            if identities.leaves.get(service).is_none_or(|known| **known != leaf) {
                replaced = true;
                identities.leaves.insert(service.to_owned(), Arc::new(leaf));
            }
        });
        self.count(replaced);
        replaced
    }

    /// Shows in metrics what is held.
    fn count(&self, replaced: bool) {
        let identities = Arc::clone(&self.identities.borrow());
        let first = identities.leaves.values().map(|leaf| leaf.not_after).min();
        let first = first.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        self.metrics.leaves(identities.leaves.len(), first.as_secs(), replaced);
    }

    fn change(&self, change: impl FnOnce(&mut Identities)) {
        self.identities.send_if_modified(|current| {
            let mut next = (**current).clone();
            change(&mut next);
            let changed = **current != next;
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
    }
}

/// Sleeps until a moment of the clock on the wall, which may be set.
async fn until(moment: SystemTime) {
    loop {
        let sleep_for = renewal::sleep_for(moment, SystemTime::now());
        if sleep_for.is_zero() {
            return;
        }
        sleep(sleep_for).await;
    }
}
