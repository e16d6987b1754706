//! A rule of the old gateway, as the rest of the control plane sees it.

use serde::{Deserialize, Serialize};

use crate::model::{Endpoint, Strategy};

/// Everything that Redis said and that can be served, in a settled order (by origin, then key).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRules {
    /// The rules that are served: the last good version of each.
    pub rules: Vec<GatewayRule>,
    /// What was refused at the last reading.
    pub refused: Vec<Refusal>,
    /// Whether the rules key was never there, now or in an earlier run that left a snapshot. No rules are then no news: `{}`
    /// says that there are none.
    pub unheard: bool,
}

/// One rule: these messages go to these endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRule {
    /// Where the rule stands.
    pub origin: RuleOrigin,
    /// The key in the rules object or the field of the realm mapping.
    pub key: String,
    /// Server type of the header.
    pub server_type: u8,
    /// The one world it takes; `None` = any.
    pub world: Option<u16>,
    /// Name of the service; rules may share it.
    pub service: String,
    /// How an endpoint is chosen.
    pub strategy: Strategy,
    /// At least one, in the order that the compatible hashes count.
    pub endpoints: Vec<Endpoint>,
}

/// Which of the two Redis keys a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOrigin {
    /// `routing:rules`.
    Rules,
    /// `realm:mapping`, which ranks below an exact rule and above an any-world rule.
    RealmMapping,
}

impl RuleOrigin {
    /// The Redis key without its prefix.
    #[must_use]
    pub const fn redis_key(self) -> &'static str {
        match self {
            Self::Rules => "routing:rules",
            Self::RealmMapping => "realm:mapping",
        }
    }

    /// The label in metrics, as the old gateway's dashboards know it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rules => "routing_rules",
            Self::RealmMapping => "realm_mapping",
        }
    }
}

/// A rule that cannot be served as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Where it stands.
    pub origin: RuleOrigin,
    /// Its key; empty when the whole document is unreadable.
    pub key: String,
    /// Stable label for metrics: `bad_json`, `wrong_type`, `unknown_strategy`, `bad_endpoint`, ...
    pub reason: String,
    /// What is wrong, for people.
    pub detail: String,
    /// Whether the last good version of it is still served.
    pub last_good_served: bool,
}
