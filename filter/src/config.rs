//! The filter's plugin configuration: small JSON that people read in Envoy's `config_dump`.
//!
//! ```json
//! {
//!   "header_timeout_ms": 5000,
//!   "max_message_bytes": 65535,
//!   "connections_per_ip": 100,
//!   "new_connections_per_ip_per_second": 50,
//!   "routes": [
//!     {"server_type": 200, "worlds": "17", "to": [{"cluster": "game/{world}"}]},
//!     {"server_type": 200, "worlds": "1-20000", "hash_key": "instance",
//!      "to": [{"cluster": "game-blue", "weight": 90}, {"cluster": "game-green", "weight": 10}]},
//!     {"server_type": 200, "to": [{"cluster": "lobby", "framing": "server"}]}
//!   ]
//! }
//! ```
//! **The first route that matches wins**, as in Envoy's own route tables. The control plane writes them most
//! specific first, so its precedence is settled before the filter sees it.

use serde::{Deserialize, Serialize};

use crate::privacy::ClientAddress;
use crate::ranges::NumberSet;

/// The whole plugin configuration. Unknown keys are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// A connection whose first header is not whole after this many milliseconds is closed; 0 = never.
    pub header_timeout_ms: u32,
    /// A message whose header announces a longer body is refused; 0 = no limit. Where the framing is `client`
    /// only the first message is read.
    pub max_message_bytes: u32,
    /// Open connections from one address (IPv6: from one /64); 0 = no limit.
    pub connections_per_ip: u32,
    /// New connections from one address in a second: so many at once, and as many again spread over each second; 0
    /// = no limit.
    pub new_connections_per_ip_per_second: u32,
    /// Whether anybody reads what is told of each connection at its end.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub access_log: bool,
    /// How the access log writes client addresses; `None` = the proxy writes them, whole, and not this filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_address: Option<ClientAddress>,
    /// Routes in order; the first that matches wins.
    pub routes: Vec<RouteConfig>,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            header_timeout_ms: 5000,
            max_message_bytes: 65_535,
            connections_per_ip: 0,
            new_connections_per_ip_per_second: 0,
            access_log: true,
            client_address: None,
            routes: Vec::new(),
        }
    }
}

impl FilterConfig {
    /// Whether any destination speaks another framing than the client's: only then the filter has to see what game
    /// servers send.
    #[must_use]
    pub fn translates(&self) -> bool {
        self.routes.iter().flat_map(|route| &route.to).any(|to| !to.framing.is_client())
    }
}

/// One route: which first messages it takes, and the clusters they go to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// Server type of the header, 0 to 255.
    pub server_type: u8,
    /// Worlds 1 to 32,767; `any` (the default) also takes world 0.
    #[serde(default, skip_serializing_if = "is_any")]
    pub worlds: NumberSet,
    /// Instances 1 to 255; `any` (the default) also takes instance 0.
    #[serde(default, skip_serializing_if = "is_any")]
    pub instances: NumberSet,
    /// What the cluster's load balancer hashes and what makes a split sticky. Without one, Envoy's balancer
    /// gets no key and a split is random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_key: Option<HashKey>,
    /// At least one cluster; several share the connections by weight.
    pub to: Vec<Destination>,
    /// How a split decides; means nothing with a single destination.
    #[serde(default, skip_serializing_if = "Split::is_default")]
    pub split: Split,
    /// What the access log calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// One weighted target of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Cluster name; `{server_type}`, `{world}` and `{instance}` stand for the header's numbers.
    pub cluster: String,
    /// Share of the connections, in proportion to the sum of the weights; 1 to 1,000,000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// A hash of the old gateway that names one endpoint's own cluster instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    /// What the game servers of the cluster speak.
    #[serde(default, skip_serializing_if = "Framing::is_client")]
    pub framing: Framing,
}

/// How messages are framed on the way to the game servers and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// As the client sends them; bytes pass unread.
    #[default]
    Client,
    /// 20 + 9 bytes in front of each body, both ways.
    Server,
    /// 20 + 33 bytes, the last 24 a trace; replies as in `server`.
    ServerTraced,
}

impl Framing {
    /// Whether nothing is translated.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde hands a reference
    pub fn is_client(&self) -> bool {
        *self == Self::Client
    }
}

/// The endpoint choice of the old gateway: `hash % of`, or the destination's own cluster (round robin)
/// where the header gives the hash nothing to work on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    /// Which of the two hashes.
    pub strategy: PickStrategy,
    /// Number of endpoints, at least 1.
    pub of: u32,
    /// Name of the cluster of one endpoint; `{pick}` stands for its index, from 0.
    pub cluster: String,
}

/// The compatible hashes, see [`realmgate_wire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PickStrategy {
    /// CRC-32 of the instance id in decimal.
    ConsistentHash,
    /// CRC-32 of `world:W:inst:I`.
    RealmBased,
}

/// What a hash key is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The instance id.
    Instance,
    /// World and instance id.
    WorldInstance,
    /// The client's IP address, without the port.
    SourceIp,
}

/// How a route with several destinations shares them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The same hash key always goes to the same destination while the weights stay; random without a key.
    #[default]
    Sticky,
    /// Each connection draws anew.
    Random,
}

impl Split {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde hands a reference
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn is_any(set: &NumberSet) -> bool {
    *set == NumberSet::Any
}

const fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands a reference
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}
