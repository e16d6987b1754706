//! What a Consul mesh knows: instances and their health in every datacenter, configuration entries, intentions,
//! roots and leaf certificates.
//!
//! ```text
//!                ┌─ datacenter (each) ─ two blocking queries say that something changed, then what may have
//!                │                      changed is read, 16 requests at a time   ──┐
//! Consul agent ──┤─ topology, entries ─────────────────────────────────────────────┴─> watch of Catalog ──┐
//!   (client)     ├─ intentions ──────────────────────────────────────────────────────> watch of Intentions ├─> snapshot
//!                ├─ roots, leaves ───────────────────────────────────────────────────> watch of Identities ┘  in data_dir
//!                └─ all of them ─────────────────────────────────────────────────────> watch of Health
//! ```
//! Connections are bounded however many services there are, and the last good value of each part outlives its loss.

mod answer;
mod catalog;
mod certificates;
mod client;
mod credentials;
mod datacenter;
mod entries;
mod error;
mod follow;
mod index;
mod intentions;
mod metrics;
mod parts;
mod renewal;
mod resolve;
mod rights;
mod snapshot;
mod start;
mod topology;

pub use error::ConsulError;
pub use intentions::Intentions;
pub use start::{ConsulConfig, ConsulSource, StartError};

// The policy store may be in the same Consul.
pub(in crate::source) use client::{Answer, Client};
pub(in crate::source) use follow::{Query, WAIT};
pub(in crate::source) use metrics::Requests;
pub(in crate::source) use start::agents_datacenter;
