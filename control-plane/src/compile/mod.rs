//! From the mesh to named Envoy resources: a pure function of the mesh and a proxy's scope.

mod access_log;
mod admission;
mod capabilities;
mod clusters;
mod compiler;
mod connections;
mod edge;
mod edge_metrics;
mod encoded;
mod envoy;
mod explain;
mod filter;
mod guard;
mod health;
mod hold;
mod listeners;
mod names;
mod player_tls;
mod priorities;
mod rbac;
mod resilience;
mod routes;
mod runtime;
mod scopes;
mod shape;
mod sidecar;
mod tls;

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
pub use runtime::LAYER as RUNTIME_LAYER;

/// Everything that proxies of `scope` should have.
#[must_use]
pub fn compile(mesh: &Mesh, scope: &Scope) -> Snapshot {
    // Without a memory there always is one.
    renew(mesh, scope, &mut Memory::default(), &mut Encoded::default()).unwrap_or_default()
}

/// What one compilation for a scope leaves for the next: what did not change is not made again.
#[derive(Debug, Default)]
struct Memory {
    edge: Option<edge::Base>,
    sidecar: Option<sidecar::Inputs>,
}

/// The same as [`compile`]; `None` = what was made before holds.
fn renew(mesh: &Mesh, scope: &Scope, memory: &mut Memory, encoded: &mut Encoded) -> Option<Snapshot> {
    let Some(ports) = &scope.sidecar else {
        let snapshot = edge::compile(mesh, scope, &mut memory.edge, encoded).holding(hold::hold(mesh));
        return Some(snapshot.holding_secrets(hold::secret_hold(&mesh.identities)));
    };
    let inputs = sidecar::Inputs::of(mesh, scope);
    if memory.sidecar.as_ref() == Some(&inputs) {
        return None;
    }
    let inputs = memory.sidecar.insert(inputs);
    Some(sidecar::compile(inputs, scope, ports))
}

fn resource(name: String, message: &impl Name) -> Arc<Resource> {
    Arc::new(Resource::new(name, message))
}
