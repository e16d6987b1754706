//! What the control plane takes from Consul, against real servers.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

mod catalog;
mod files;
mod harness;
mod hostile;
mod loss;
mod policy_store;
mod stage;
mod trust;
