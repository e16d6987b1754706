//! Snapshots by scope: compiled once, shared by all proxies of the scope, renewed when the mesh changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::compile;
use crate::mesh::Mesh;
use crate::xds::{Scope, Snapshot, SnapshotSource};

/// Compiles for every scope that some proxy has.
pub struct Compiler {
    state: Mutex<State>,
}

struct State {
    mesh: Arc<Mesh>,
    scopes: HashMap<Scope, watch::Sender<Arc<Snapshot>>>,
}

impl Compiler {
    /// A compiler that serves `mesh` until another comes.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self { state: Mutex::new(State { mesh, scopes: HashMap::new() }) }
    }

    /// Takes a new mesh: recompiles every scope that still has a proxy, forgets the others, and wakes only
    /// those whose resources differ.
    pub fn update(&self, mesh: Arc<Mesh>) {
        let mut state = self.lock();
        state.scopes.retain(|_, sender| sender.receiver_count() > 0);
        for (scope, sender) in &state.scopes {
            let snapshot = compile(&mesh, scope);
            sender.send_if_modified(|current| {
                let changed = **current != snapshot;
                if changed {
                    *current = Arc::new(snapshot);
                }
                changed
            });
        }
        state.mesh = mesh;
    }

    /// A poisoned lock means a panic in between, after which the state is still whole: each step replaces
    /// one value.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotSource for Compiler {
    fn subscribe(&self, scope: &Scope) -> watch::Receiver<Arc<Snapshot>> {
        let mut state = self.lock();
        if let Some(sender) = state.scopes.get(scope) {
            return sender.subscribe();
        }
        let (sender, receiver) = watch::channel(Arc::new(compile(&state.mesh, scope)));
        state.scopes.insert(scope.clone(), sender);
        receiver
    }
}
