//! Waiting until a policy is in force everywhere: `PUT /v1/policy?wait=applied`.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::Context;
use crate::model::Policy;
use crate::xds::{SnapshotSource, SyncState};

/// How far the connected proxies are.
#[derive(Debug, Default, Serialize)]
pub(super) struct Applied {
    /// Whether every connected proxy has acknowledged everything.
    complete: bool,
    /// How many have.
    synced: usize,
    /// Ids of those that have not answered yet.
    pending: Vec<String>,
    /// Ids of those that refused something; `/v1/proxies` has their words.
    rejecting: Vec<String>,
}

impl Applied {
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Waiting longer changes nothing: all have it, or those that do not have refused it.
    fn is_settled(&self) -> bool {
        self.complete || (self.pending.is_empty() && !self.rejecting.is_empty())
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
    }
}

fn look(context: &Context, policy: &Arc<Policy>) -> Applied {
    let mesh = context.compiler.compiled().borrow().clone();
    let latest = context.policy.current();
    // A policy that was replaced meanwhile may never be compiled: its successor stands for it.
    let compiled = mesh
        .is_some_and(|mesh| Arc::ptr_eq(&mesh.policy, policy) || Arc::ptr_eq(&mesh.policy, &latest.policy));
    let mut applied = Applied::default();
    for proxy in context.proxies.proxies() {
        let wanted = context.compiler.subscribe(&proxy.scope).borrow().version();
        if compiled && proxy.applied == wanted {
            applied.synced += 1;
        } else if compiled && proxy.wanted == wanted && proxy.sync == SyncState::Rejecting {
            applied.rejecting.push(proxy.id);
        } else {
            applied.pending.push(proxy.id);
        }
    }
    applied.complete = compiled && applied.pending.is_empty() && applied.rejecting.is_empty();
    applied
}
