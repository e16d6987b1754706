//! Who a proxy is: the scope its node claims, which decides what it gets.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::Snapshot;

/// What a proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Takes players in.
    #[default]
    Edge,
    /// Stands beside a game server.
    Sidecar,
}

impl Role {
    /// As it is written in a node.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Sidecar => "sidecar",
        }
    }
}

/// Everything of a node that decides its resources; proxies of an equal scope share one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Scope {
    /// What the proxy does.
    pub role: Role,
    /// The service it stands for; empty = none.
    pub service: String,
    /// Its datacenter; empty = the only one.
    pub datacenter: String,
    /// Its cell; empty = the only one.
    pub cell: String,
    /// The listeners it wants; empty = all edge listeners.
    pub listeners: Vec<String>,
    /// The ports of a sidecar, which only its machine knows; none for an edge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Ports>,
    /// Whether it is an Envoy before 1.38, whose load balancers can hash an address and no string.
    pub hashes_addresses: bool,
    /// Whether it speaks state of the world, in which Envoy cannot ask for one cluster and keep all others:
    /// it gets every cluster, whatever its listeners say.
    pub state_of_the_world: bool,
}

/// Where a sidecar is found, and where it finds its game server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Ports {
    /// Where peers connect.
    pub inbound: SocketAddr,
    /// The game server.
    pub app: SocketAddr,
}

/// Where snapshots come from; the server knows nothing of policies.
pub trait SnapshotSource: Send + Sync + 'static {
    /// The latest snapshot of this scope and its successors. Nothing is ever sent for a scope before its
    /// first snapshot is complete: until then the channel holds `Snapshot::default()`.
    ///
    /// # Errors
    /// [`TooManyScopes`]: nothing is served for this one, which no proxy had so far.
    fn subscribe(&self, scope: &Scope) -> Result<watch::Receiver<Arc<Snapshot>>, TooManyScopes>;
}

/// As many scopes are served as there is room for. A proxy's bootstrap is at fault, or there are more proxies than one
/// control plane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{most} scopes of this role {of} are served, and this is another: edges share one that agree in service, datacenter, cell, \
     listeners, protocol variant and whether their Envoy is older than 1.38"
)]
pub struct TooManyScopes {
    /// How many there are room for.
    pub most: usize,
    /// Whose: `in all`, or `of one address`.
    pub of: &'static str,
}
