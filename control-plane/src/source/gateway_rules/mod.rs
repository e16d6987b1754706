//! The routing rules of an existing game-gateway fleet, read from its Redis.
//!
//! ```text
//! routing:rules  ──┐             previous good rules
//!                  ├─ connection ──> parse ──> watch of GatewayRules ──> snapshot in data_dir
//! realm:mapping  ──┘      ^            └─────> watch of Health
//!                    subscription,
//!                    refresh_interval
//! ```

mod connection;
mod entry;
mod lost;
mod mapping;
mod metrics;
mod parse;
mod rule;
mod snapshot;
mod subscription;
mod task;

pub use crate::source::redis_link::RedisTlsFiles;
pub use rule::{GatewayRule, GatewayRules, Refusal, RuleOrigin};
pub use task::{GatewayRulesConfig, GatewayRulesSource, StartError};
