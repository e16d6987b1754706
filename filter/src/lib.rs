//! Realmgate's Envoy filter: reads the first 8 bytes of a game connection, chooses the upstream cluster by
//! the realm they name, and stays out of the way from then on, but for exchanging headers where the game servers do
//! not speak the client's framing.
//!
//! ```text
//!   Envoy  <->  plugin   the only part that knows proxy-wasm
//!                  |
//!               gateway  a configuration and its connections     telemetry  what is counted
//!              /   |   \
//!        limits session route -> segments, template
//!                  |       |
//!           translate    config, validate, ranges                host       what the core asks of a proxy
//! ```
//! `guard` is for sidecars: it closes the connections that intentions no longer allow. `ticker` says when time passes for all of them.
//! `capabilities` lists what the module needs of Envoy. Everything but `plugin` also runs natively: in tests, and in the control plane's `explain`.

pub mod access_log;
pub mod capabilities;
pub mod config;
pub mod gateway;
pub mod guard;
pub mod host;
pub mod limits;
#[cfg(target_arch = "wasm32")]
mod plugin;
pub mod privacy;
pub mod ranges;
pub mod route;
pub mod segments;
pub mod session;
pub mod telemetry;
pub mod template;
pub mod ticker;
pub mod translate;
pub mod validate;

pub use config::FilterConfig;
pub use gateway::Gateway;
pub use route::{Decision, Router};
pub use validate::ConfigError;
