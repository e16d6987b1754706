//! Snapshots by scope: compiled once, shared by all proxies of the scope, renewed when the mesh changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::compile;
use crate::mesh::Mesh;
use crate::xds::{Scope, Snapshot, SnapshotSource};

/// Compiles for every scope that some proxy has.
pub struct Compiler {
    scopes: Mutex<HashMap<Scope, watch::Sender<Arc<Snapshot>>>>,
    compiled: watch::Sender<Option<Arc<Mesh>>>,
}

impl Compiler {
    /// A compiler without a mesh yet: what it serves is pending, and proxies are sent nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { scopes: Mutex::default(), compiled: watch::channel(None).0 }
    }

    /// Takes a new mesh: recompiles every scope that still has a proxy, forgets the others, and wakes only
    /// those whose resources differ.
    pub fn update(&self, mesh: Arc<Mesh>, changed_at: Instant) {
        let mut scopes = self.lock();
        scopes.retain(|_, sender| sender.receiver_count() > 0);
        for (scope, sender) in scopes.iter() {
            let snapshot = compile(&mesh, scope);
            sender.send_if_modified(|current| {
                let changed = **current != snapshot;
                if changed {
                    *current = Arc::new(snapshot.sharing(current).made_at(changed_at));
                }
                changed
            });
        }
        // Under the lock, so that a scope that is new just now is compiled from this mesh or a later one.
        self.compiled.send_replace(Some(mesh));
    }

    /// The mesh that all snapshots are compiled from, and its successors.
    #[must_use]
    pub fn compiled(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.compiled.subscribe()
    }

    /// A poisoned lock means a panic in between, after which the map is still whole: each step replaces one
    /// value.
    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, watch::Sender<Arc<Snapshot>>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotSource for Compiler {
    fn subscribe(&self, scope: &Scope) -> watch::Receiver<Arc<Snapshot>> {
        let mut scopes = self.lock();
        if let Some(sender) = scopes.get(scope) {
            return sender.subscribe();
        }
        let first = self.compiled.borrow().as_ref().map(|mesh| compile(mesh, scope)).unwrap_or_default();
        let (sender, receiver) = watch::channel(Arc::new(first));
        scopes.insert(scope.clone(), sender);
        receiver
    }
}
