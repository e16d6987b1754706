//! Waiting until a policy is in force everywhere: `PUT /v1/policy?wait=applied`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

use super::Context;
use super::error::ApiError;
use crate::model::Policy;
use crate::xds::{Progress, Scope, SnapshotSource, SyncState};

/// How far the connected proxies are.
#[derive(Debug, Default, Serialize)]
pub(super) struct Applied {
    /// Whether every connected proxy has acknowledged everything.
    complete: bool,
    /// How many have.
    synced: usize,
    /// Ids of those that have not answered yet.
    pending: Vec<String>,
    /// Ids of those that refused something, or whose Envoy is not supported; `/v1/proxies` has their words.
    rejecting: Vec<String>,
}

impl Applied {
    /// `latest`: the version of a scope's snapshot; empty while its first is being made, which nobody can have.
    fn of(proxies: Vec<Progress>, compiled: bool, latest: impl Fn(&Scope) -> Arc<str>) -> Self {
        let mut applied = Self::default();
        let mut latest_of = HashMap::new();
        for Progress { id, scope, wanted, applied: has, sync } in proxies {
            let latest = latest_of.entry(scope).or_insert_with_key(|scope| latest(scope));
            let made = compiled && !latest.is_empty();
            if sync == SyncState::Unsupported {
                applied.rejecting.push(id.to_string());
            } else if made && has == *latest {
                applied.synced += 1;
            } else if made && wanted == *latest && sync == SyncState::Rejecting {
                applied.rejecting.push(id.to_string());
            } else {
                applied.pending.push(id.to_string());
            }
        }
        applied.complete = compiled && applied.pending.is_empty() && applied.rejecting.is_empty();
        applied
    }

    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    const fn proxies(&self) -> usize {
        self.synced + self.pending.len() + self.rejecting.len()
    }

    /// Waiting longer changes nothing: all have it, or those that do not have refused it.
    fn is_settled(&self) -> bool {
        self.complete || (self.pending.is_empty() && !self.rejecting.is_empty())
    }
}

/// Thirty times what a look at one takes: 100 ms at ten thousand, nothing one notices at ten.
const PAUSE_PER_PROXY: Duration = Duration::from_micros(10);

/// Those who wait at a time: each keeps a place of the API's connections.
static WAITING: Semaphore = Semaphore::const_new(64);

/// A place among those who wait.
pub(super) struct Waiting {
    _place: SemaphorePermit<'static>,
}

impl Waiting {
    /// Takes one, if there is any.
    pub(super) fn enter() -> Result<Self, ApiError> {
        let place = WAITING.try_acquire();
        place.map(|place| Self { _place: place }).map_err(|_| {
            ApiError::busy(
                "too many wait for policies to be applied; leave out `wait`, or try again in a few seconds",
            )
        })
    }
}

/// Waits until all connected proxies have `policy`, or one refuses it, or the time is over.
pub(super) async fn wait(context: &Context, policy: &Arc<Policy>, patience: Duration) -> Applied {
    let deadline = Instant::now() + patience;
    let mut compiled = context.compiler.compiled();
    let mut proxies = context.proxies.changed();
    loop {
        compiled.mark_unchanged();
        proxies.mark_unchanged();
        let applied = look(context, policy);
        if applied.is_settled() {
            return applied;
        }
        let change = async {
            tokio::select! { _ = compiled.changed() => {}, _ = proxies.changed() => {} }
        };
        if timeout_at(deadline, change).await.is_err() {
            return applied;
        }
        // Looking at thousands of proxies after each of their acknowledgements would hold those up.
        sleep(PAUSE_PER_PROXY * u32::try_from(applied.proxies()).unwrap_or(u32::MAX)).await;
    }
}

fn look(context: &Context, policy: &Arc<Policy>) -> Applied {
    let mesh = context.compiler.compiled().borrow().clone();
    let latest = context.policy.current();
    let refused = context.refused_endpoints.borrow().clone();
    // A policy that was replaced meanwhile may never be compiled: its successor stands for it.
    let compiled = mesh.is_some_and(|mesh| {
        refused.is_left_of(&mesh.policy, policy) || refused.is_left_of(&mesh.policy, &latest.policy)
    });
    let latest = |scope: &Scope| {
        context.compiler.subscribe(scope).map(|of| Arc::clone(of.borrow().version())).unwrap_or_default()
    };
    Applied::of(context.proxies.progress(), compiled, latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(id: &str, wanted: &str, applied: &str, sync: SyncState) -> Progress {
        let scope = Arc::new(Scope { cell: id.to_owned(), ..Scope::default() });
        Progress { id: id.into(), scope, wanted: wanted.into(), applied: applied.into(), sync }
    }

    fn of(proxies: Vec<Progress>) -> (bool, usize, Vec<String>, Vec<String>) {
        let latest = |scope: &Scope| Arc::from(if scope.cell == "new" { "" } else { "2" });
        let Applied { complete, synced, pending, rejecting } = Applied::of(proxies, true, latest);
        (complete, synced, pending, rejecting)
    }

    #[test]
    fn a_proxy_of_a_scope_without_a_snapshot_has_not_applied_it() {
        let there = || proxy("a", "2", "2", SyncState::Synced);
        assert_eq!(of(vec![there()]), (true, 1, vec![], vec![]));
        let new = proxy("new", "", "", SyncState::Pending);
        assert_eq!(of(vec![there(), new]), (false, 1, vec!["new".to_owned()], vec![]));
    }

    #[test]
    fn who_refuses_what_came_before_is_awaited() {
        let refuses = |id, wanted| proxy(id, wanted, "1", SyncState::Rejecting);
        let looked = of(vec![refuses("a", "2"), refuses("b", "1")]);
        assert_eq!(looked, (false, 0, vec!["b".to_owned()], vec!["a".to_owned()]));
    }
}
