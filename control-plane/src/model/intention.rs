//! Which services may talk to which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Every service, as source or destination of an intention.
pub const ANY_SERVICE: &str = "*";

/// One rule about who may connect to whom. The most specific of those that match decides: exact to exact, then any
/// to exact, then exact to any, then any to any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Intention {
    /// The service that connects; `*` = every one.
    pub source: String,
    /// The service that is connected to; `*` = every one.
    pub destination: String,
    /// What happens.
    pub action: Action,
}

/// What an intention does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets it in.
    Allow,
    /// Closes it.
    Deny,
}
