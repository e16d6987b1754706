//! The settings that say which addresses may be endpoints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Ranges;

/// Which addresses may be endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Endpoints {
    /// `open`: all that are not denied below. `hardened`: loopback and the addresses at which clouds answer for the secrets of
    /// their machines are denied too, and host names in rules of a game-gateway (docs/security.md).
    #[schemars(with = "String")]
    pub preset: EndpointPreset,
    /// Endpoints of the policy document.
    pub policy: EndpointRanges,
    /// Endpoints of a game-gateway's rules in Redis.
    pub game_gateway: EndpointRanges,
    /// Instances in Consul.
    pub consul: EndpointRanges,
}

/// What a source of endpoints may name: CIDR ranges with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointRanges {
    /// Only addresses in these ranges; empty = all. Host names, which Envoy resolves unchecked, are then refused.
    #[schemars(with = "String")]
    pub allow: Ranges,
    /// No addresses in these ranges, whatever is allowed.
    #[schemars(with = "String")]
    pub deny: Ranges,
}

/// What is denied to all sources of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointPreset {
    /// Nothing more.
    #[default]
    Open,
    /// What no production needs.
    Hardened,
}
