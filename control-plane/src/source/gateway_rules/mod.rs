//! The routing rules of an existing game-gateway fleet, read from its Redis.

mod rule;

pub use rule::{GatewayRule, GatewayRules, Refusal, RuleOrigin};
