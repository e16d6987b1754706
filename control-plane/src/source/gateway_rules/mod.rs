//! The routing rules of an existing game-gateway fleet, read from its Redis.
//!
//! ```text
//! routing:rules  ──┐             previous good rules
//!                  ├─ connection ──> parse ──> watch of GatewayRules ──> snapshot in data_dir
//! realm:mapping  ──┘      ^            └─────> watch of Health
//!                    notify channels,
//!                    refresh_interval
//! ```

mod connection;
mod entry;
mod metrics;
mod parse;
mod rule;
mod snapshot;
mod task;

pub use rule::{GatewayRule, GatewayRules, Refusal, RuleOrigin};
pub use task::{GatewayRulesConfig, GatewayRulesSource, StartError};
