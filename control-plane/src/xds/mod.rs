//! The xDS server: versions, subscriptions, order and acknowledgement of what proxies are sent.

mod resource;
mod scope;

pub use resource::{Resource, ResourceSet, ResourceType, Snapshot, content_hash};
pub use scope::{Role, Scope, SnapshotSource};
