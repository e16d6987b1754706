//! From the mesh to named Envoy resources: a pure function of the mesh and a proxy's scope.

mod access_log;
mod admission;
mod capabilities;
mod clusters;
mod compiler;
mod connections;
mod edge;
mod encoded;
mod envoy;
mod explain;
mod filter;
mod guard;
mod health;
mod listeners;
mod names;
mod player_tls;
mod priorities;
mod rbac;
mod resilience;
mod routes;
mod sidecar;
mod tls;

use std::collections::HashMap;
use std::sync::Arc;

use prost::Name;

use crate::mesh::Mesh;
use crate::xds::{Resource, Scope, Snapshot};

pub use compiler::Compiler;
use encoded::Encoded;
pub use explain::{Explanation, PossibleCluster, PossibleTarget, Question, explain};
pub use filter::config as filter_config;
pub use health::NAME as HEALTH_LISTENER;
pub use routes::{Entry, Origin, Rank, RouteTable};

/// Everything that proxies of `scope` should have.
#[must_use]
pub fn compile(mesh: &Mesh, scope: &Scope) -> Snapshot {
    Memory::default().compile(mesh, scope)
}

/// What one compilation leaves for the next: what did not change is not made again.
#[derive(Debug, Default)]
struct Memory {
    encoded: Encoded,
    bases: HashMap<Scope, Option<edge::Base>>,
}

impl Memory {
    fn compile(&mut self, mesh: &Mesh, scope: &Scope) -> Snapshot {
        if let Some(ports) = &scope.sidecar {
            return sidecar::compile(mesh, scope, ports);
        }
        let base = self.bases.entry(scope.clone()).or_default();
        edge::compile(mesh, scope, base, &mut self.encoded)
    }

    /// Forgets the scopes that are not among these, and what no snapshot has any more.
    fn sweep(&mut self, is_served: impl Fn(&Scope) -> bool) {
        self.bases.retain(|scope, _| is_served(scope));
        self.encoded.sweep();
    }
}

fn resource(name: String, message: &impl Name) -> Arc<Resource> {
    Arc::new(Resource::new(name, message))
}
