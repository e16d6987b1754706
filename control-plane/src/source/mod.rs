//! Where the truth comes from: each source is one task that publishes its latest value and survives loss.

pub mod address_key;
mod backoff;
pub mod ca;
pub mod consul;
pub mod filter_module;
pub mod gateway_rules;
pub mod policy;
pub mod policy_store;
mod redis_link;
pub(crate) mod saved;

use serde::Serialize;

/// How a source is doing, for `/readyz` and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Health {
    /// Not yet heard from; nothing of it is served, or what the last run left in `data_dir`.
    Starting,
    /// Up to date.
    Ok,
    /// Serving the last good value.
    Degraded {
        /// What is wrong and what is done about it.
        reason: String,
    },
}
