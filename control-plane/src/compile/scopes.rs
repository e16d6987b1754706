//! The scopes that some proxy has: what each is served, and what that was made from.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use tokio::sync::watch;

use super::Memory;
use crate::mesh::Mesh;
use crate::xds::{Role, Scope, Snapshot, TooManyScopes};

/// All of them. Edges stand apart from sidecars: there are few of them, and players wait for them.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    edges: HashMap<Scope, Served>,
    sidecars: HashMap<Scope, Served>,
}

#[derive(Debug, Default)]
pub(super) struct Served {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// What the latest is made from.
    mesh: Option<Arc<Mesh>>,
    memory: Memory,
}

/// A scope whose snapshot is of another mesh, with what it was made from.
pub(super) struct Outdated {
    pub(super) scope: Scope,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) memory: Memory,
}

/// Edges of one kind share a scope, so a hundred datacenters have a few hundred. Whoever may connect may claim any cell and any
/// listeners, and each costs a compilation and up to some megabytes.
const MOST_EDGES: usize = 1_000;

/// Every sidecar has a scope of its own, of some kilobytes: as many as the xDS listener takes connections by default.
const MOST_SIDECARS: usize = 20_000;

impl Scopes {
    /// What this scope is served, if it is.
    pub(super) fn get(&mut self, scope: &Scope) -> Option<watch::Receiver<Arc<Snapshot>>> {
        let (of_role, _) = self.of(scope.role);
        of_role.get(scope).map(|served| served.snapshots.subscribe())
    }

    /// Serves this scope from now on, if there is room.
    pub(super) fn enter(&mut self, scope: &Scope) -> Result<watch::Receiver<Arc<Snapshot>>, TooManyScopes> {
        let (of_role, most) = self.of(scope.role);
        if of_role.len() >= most {
            return Err(TooManyScopes { most, of: "in all" });
        }
        Ok(of_role.entry(scope.clone()).or_default().snapshots.subscribe())
    }

    /// Takes out those that no proxy has any more. They are for the caller to drop, who can do so without the lock.
    pub(super) fn take_unused(&mut self) -> Vec<(Scope, Served)> {
        let unused = |_: &Scope, served: &mut Served| served.snapshots.receiver_count() == 0;
        self.edges.extract_if(unused).chain(self.sidecars.extract_if(unused)).collect()
    }

    /// Those that are not of this mesh yet, edges first. Each has to be [`Self::renewed`].
    pub(super) fn outdated(&mut self, mesh: &Arc<Mesh>) -> Vec<Outdated> {
        let is_current = |served: &Served| served.mesh.as_ref().is_some_and(|of| Arc::ptr_eq(of, mesh));
        let all = self.edges.iter_mut().chain(&mut self.sidecars);
        let outdated = all.filter(|(_, served)| !is_current(served)).map(|(scope, served)| Outdated {
            scope: scope.clone(),
            snapshots: served.snapshots.clone(),
            memory: mem::take(&mut served.memory),
        });
        outdated.collect()
    }

    /// Notes that what a scope is served is of this mesh.
    pub(super) fn renewed(&mut self, scope: &Scope, memory: Memory, mesh: &Arc<Mesh>) {
        if let Some(served) = self.of(scope.role).0.get_mut(scope) {
            served.memory = memory;
            served.mesh = Some(Arc::clone(mesh));
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.edges.len() + self.sidecars.len()
    }

    /// Those of a role, and how many there may be.
    const fn of(&mut self, role: Role) -> (&mut HashMap<Scope, Served>, usize) {
        match role {
            Role::Edge => (&mut self.edges, MOST_EDGES),
            Role::Sidecar => (&mut self.sidecars, MOST_SIDECARS),
        }
    }
}
