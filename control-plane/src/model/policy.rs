//! The policy document's types. Its text, with lines, is read by [`super::parse`].

use std::net::SocketAddr;

use ipnet::IpNet;
use realmgate_filter::config::{Framing, HashKey, Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Endpoint;
use super::duration::Duration;
use super::failover::{Consul, Failover};
use super::health::HealthCheck;
use super::intention::{Action, Intention};
use super::numbers::{Instances, Worlds};
use super::player_tls::PlayerTls;
use super::privacy::Privacy;
use super::resilience::{Connections, OutlierDetection};
use super::sidecars::Sidecars;

/// The whole document. Every part may be missing; an empty document routes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Where players connect.
    pub listeners: Vec<Listener>,
    /// Where the game servers are.
    pub services: Vec<Service>,
    /// Which first messages go to which services.
    pub routes: Vec<Route>,
    /// Which services may connect to which services of `tls: mesh`. They come before those of Consul.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub intentions: Vec<Intention>,
    /// What holds where no intention matches. Without, it is what Consul says, and `deny` where there is no Consul.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_intention: Option<Action>,
    /// Whether a change of intentions, the policy's or Consul's, also closes the connections that it no longer allows.
    /// Without, it holds for new ones. Changing this touches no live connection.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub intentions_close: bool,
    /// Bounds on the connections of sidecars.
    #[serde(skip_serializing_if = "Sidecars::is_default")]
    pub sidecars: Sidecars,
    /// What is kept of players.
    #[serde(skip_serializing_if = "Privacy::is_default")]
    pub privacy: Privacy,
    /// Confirms that this document takes much away from the policy with this etag (its first 12 digits suffice), which it
    /// replaces. It says nothing once another one is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_removal: Option<String>,
}

/// A port that players connect to. Changing `limits` (but for `idle_timeout`) or the files of `tls` spares live
/// connections; changing anything else replaces the listener in Envoy, which drains them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Unique name: letters, digits, `-` and `_`.
    pub name: String,
    /// `address:port` to listen on.
    #[schemars(with = "String")]
    pub bind: SocketAddr,
    /// What a connection may do.
    #[serde(default)]
    pub limits: Limits,
    /// How often a backend connection is tried in all; 1 to 10.
    #[serde(default = "Listener::default_connect_attempts")]
    pub connect_attempts: u32,
    /// The pauses between the attempts.
    #[serde(default)]
    pub connect_backoff: Backoff,
    /// Whether a load balancer in front sends the PROXY protocol (v1 or v2); connections without it are
    /// then refused.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// CIDR ranges of those load balancers; connections from elsewhere are refused, whatever they send. Empty = whoever sends the
    /// PROXY protocol is believed, also a player who claims another's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// CIDR ranges that may connect; empty = everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub allowed_clients: Vec<IpNet>,
    /// TLS towards the players; none unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PlayerTls>,
    /// How edges come by the clusters that the listener's routes name.
    #[serde(default)]
    pub clusters: ClusterDelivery,
}

/// Pauses that are drawn at random below a bound; the bound doubles with every pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The bound of the first pause.
    pub base: Duration,
    /// Where the bound stops growing.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        // The old gateway waited 100 ms, then 200 ms, every player at once.
        Self { base: Duration::from_millis(100), max: Duration::from_secs(1) }
    }
}

/// When an edge is sent a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterDelivery {
    /// Before the first player: nobody waits, and players get through without a control plane, but an edge
    /// pays some 60 KB for every cluster.
    #[default]
    Eager,
    /// With its first player, who waits some milliseconds more: an edge pays for the clusters alone that its
    /// players use. Without a control plane, worlds that nobody played at this edge cannot be reached.
    OnDemand,
}

impl Listener {
    /// As the old gateway: two retries.
    #[must_use]
    pub const fn default_connect_attempts() -> u32 {
        3
    }
}

/// Bounds on connections; 0 = no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections of one edge, in all.
    pub connections: u32,
    /// Open connections of one edge from one client address; an IPv6 client counts by its /64.
    pub connections_per_ip: u32,
    /// New connections from one client address in a second: so many at once, and as many again spread over each second.
    pub new_connections_per_ip_per_second: u32,
    /// Time for the first 8 bytes to arrive.
    pub header_timeout: Duration,
    /// Time without a byte in either direction.
    pub idle_timeout: Duration,
    /// Longest body that a message may announce. Towards services whose framing is `client`, only the first message
    /// is read.
    pub max_message_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_ip: 100,
            new_connections_per_ip_per_second: 50,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30 * 60),
            max_message_bytes: 65_535,
        }
    }
}

/// A named group of game servers: one of `endpoints`, `dns` and `consul`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Unique name: letters, digits, `-` and `_`.
    pub name: String,
    /// Fixed addresses, in the order that the compatible hashes count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// A name that is resolved again and again; every address it gives is an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// A service in Consul.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consul: Option<Consul>,
    /// The datacenter that it is in. Empty = of a Consul service the edge's own, of others not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    /// The only datacenters whose instances may serve, whatever else says where players go. Empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datacenters: Vec<String>,
    /// Where players go when its first choice fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
    /// What its game servers speak.
    #[serde(default, skip_serializing_if = "Framing::is_client")]
    #[schemars(with = "schema::Framing")]
    pub framing: Framing,
    /// Whether edges and its game servers' sidecars prove to each other who they are.
    #[serde(default, skip_serializing_if = "ServiceTls::is_none")]
    pub tls: ServiceTls,
    /// Connecting to its endpoints, and how often at one time.
    #[serde(default)]
    pub connections: Connections,
    /// When an endpoint that fails gets no new players for a while.
    #[serde(default)]
    pub outlier_detection: OutlierDetection,
    /// Asking endpoints whether they are well. Unless given nobody asks, or with failover whether they accept a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Below this share of endpoints that are well, in percent, all are tried; 0 to 100, 0 = never: then players are
    /// refused when none is well. Unless given 1, of services with failover 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u32>,
}

/// How edges connect to a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTls {
    /// In the clear.
    #[default]
    None,
    /// By mutual TLS with certificates of the mesh: its endpoints are its game servers' sidecars.
    Mesh,
}

impl ServiceTls {
    /// Whether it is none; serde passes references.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Service {
    /// When not a single endpoint is well it may be the check that is wrong, so all are tried. Envoy's 50 would send
    /// players to servers that are known to be dead while others are well.
    pub const DEFAULT_PANIC_THRESHOLD: u32 = 1;

    /// With failover the dead are those of a whole datacenter: a player who is refused at once comes back sooner.
    #[must_use]
    pub fn panic_threshold(&self) -> u32 {
        let unless_given = if self.failover().is_some() { 0 } else { Self::DEFAULT_PANIC_THRESHOLD };
        self.panic_threshold.unwrap_or(unless_given)
    }
}

/// A DNS name and port. `{world}` in the name stands for the world id and makes a cluster per world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Host name, for instance `world-{world}.game.svc.cluster.local`.
    pub host: String,
    /// TCP port, 1 to 65,535.
    pub port: u16,
    /// How often the name is resolved again.
    #[serde(default = "Dns::default_refresh")]
    pub refresh: Duration,
}

impl Dns {
    /// Whether every world has a name, and so a cluster, of its own.
    #[must_use]
    pub fn is_per_world(&self) -> bool {
        self.host.contains("{world}")
    }

    /// The name that is resolved for `world`.
    #[must_use]
    pub fn host_of(&self, world: u16) -> String {
        self.host.replace("{world}", &world.to_string())
    }

    /// Envoy's own default.
    pub const DEFAULT_REFRESH: Duration = Duration::from_secs(5);

    const fn default_refresh() -> Duration {
        Self::DEFAULT_REFRESH
    }
}

/// One routing rule. Between routes the most specific match wins: a listed world before a range before any
/// world, then listed instances before any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique name: letters, digits, `-` and `_`.
    pub name: String,
    /// Server type in the header: 10 account, 15 version, 200 game, or any other of 0 to 255.
    pub server_type: u8,
    /// Worlds 1 to 32,767: `any`, or a list of numbers and `"low-high"` ranges.
    #[serde(default)]
    pub worlds: Worlds,
    /// Instances 1 to 255, written like worlds.
    #[serde(default)]
    pub instances: Instances,
    /// How one endpoint of the service is chosen.
    #[serde(default)]
    pub strategy: Strategy,
    /// What `ring_hash` and `maglev` hash, and what makes a split sticky. Default for those two: `instance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::HashKey>")]
    pub hash_key: Option<HashKey>,
    /// The services, sharing by weight when there are several.
    pub to: Vec<Target>,
    /// How connections are shared between several services.
    #[serde(default)]
    #[schemars(with = "schema::Split")]
    pub split: Split,
    /// Listeners it applies to; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
}

/// A service and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name of a service of this document.
    pub service: String,
    /// Share in proportion to the sum of the weights, 1 to 1,000,000.
    #[serde(default = "Target::default_weight")]
    pub weight: u32,
}

impl Target {
    const fn default_weight() -> u32 {
        1
    }
}

/// How one endpoint of a service is chosen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest connections of two drawn at random.
    LeastRequest,
    /// Consistent hashing on a ring; few players move when endpoints change.
    RingHash,
    /// Consistent hashing with Maglev tables; fewer players move, even load.
    Maglev,
    /// The old gateway's hash of the instance id, pick for pick.
    ConsistentHash,
    /// The old gateway's hash of world and instance, pick for pick.
    RealmBased,
}

/// The filter's own enums as JSON Schema sees them; the filter itself carries no schema code.
#[allow(dead_code)] // only their shape is used
mod schema {
    use schemars::JsonSchema;

    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    pub(super) enum HashKey {
        Instance,
        WorldInstance,
        SourceIp,
    }

    #[derive(JsonSchema)]
    #[schemars(rename_all = "kebab-case")]
    pub(super) enum Framing {
        /// As the client sends: 8 bytes in front of each body.
        Client,
        /// 20 + 9 bytes in front of each body, both ways.
        Server,
        /// 20 + 33 bytes in front of each body, the last 24 a trace; 20 + 9 in replies.
        ServerTraced,
    }

    #[derive(JsonSchema)]
    #[schemars(rename_all = "snake_case")]
    pub(super) enum Split {
        Sticky,
        Random,
    }
}
