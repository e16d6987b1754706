//! The xDS server: versions, subscriptions, order and acknowledgement of what proxies are sent.
//!
//! ```text
//!  request ──► message::Request ──► stream (order of types) ──► subscription + plan (one type) ──► message::Response ──► wire
//!                                   ▲            │
//!                     Snapshot, time            registry ──► status, CSDS, API, metrics
//! ```
//! What is drawn from `stream` to `plan` is pure: values in, values out. `listener` takes connections in, `server` knows
//! the methods, and `session` puts a socket, a clock and snapshots around one stream.

mod bounds;
mod budget;
mod claims;
mod clients;
mod csds;
mod end;
mod gate;
mod generation;
mod grpc;
mod hold;
mod in_flight;
mod interest;
mod keep;
mod listener;
mod message;
mod metrics;
mod name_map;
mod names;
mod node;
mod plan;
mod program;
mod readiness;
mod refusal;
mod registry;
mod request;
mod resource;
mod retry;
mod scope;
mod server;
mod session;
mod snapshot;
mod status;
mod stream;
mod subscription;
#[cfg(test)]
mod tests;
mod wire;

pub use hold::Hold;
pub use keep::Held;
pub(crate) use listener::LAST_WORD;
pub use listener::{Listener, ListenerConfig, ListenerError, MeshDomain, TlsFiles};
pub(crate) use listener::{is_trust_domain, token_line};
pub use metrics::Metrics;
pub use node::{MAX_NODE_LISTENERS, MAX_NODE_NAME_BYTES, NodeError};
pub use program::{NEWEST, OLDEST};
pub use registry::{Progress, Registry};
pub use resource::{Resource, ResourceType, content_hash};
pub use scope::{Ports, Role, Scope, SnapshotSource, TooManyScopes};
pub use server::AdsServer;
pub use snapshot::{ResourceSet, Snapshot};
pub use status::{FilterStatus, ProxyStatus, Rejection, TypeStatus};
pub use stream::SyncState;
