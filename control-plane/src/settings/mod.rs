//! The settings of `realmgate serve`: their types, defaults and meaning. Each stands here once; its key in
//! `realmgate.yaml`, its environment variable, its flag and its line in docs/settings.md follow from the field.

mod check;
pub(crate) mod cleartext;
mod edge;
mod endpoints;
mod hosts;
mod layers;
mod lists;
mod problem;
mod redis_url;
mod reference;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod xds;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use realmgate_filter::config::Framing;

use crate::model::{ClusterDelivery, Duration, Endpoint, Limits};

pub use edge::Edge;
pub use endpoints::{EndpointPreset, EndpointRanges, Endpoints};
pub use hosts::HostNames;
pub use lists::{Ports, Ranges};
pub use problem::{Origin, Problem};
pub use redis_url::RedisUrl;
pub use reference::markdown;
pub use sources::{ConfigFile, Sources};
pub use table::{ENV_PREFIX, Setting, table};
pub use xds::{Tls, Xds};

/// Everything that `realmgate serve` can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where Envoys connect.
    pub xds: Xds,
    /// Where people, scripts and probes connect.
    pub api: Api,
    /// Directory of what outlives a restart: policy versions and the last good value of every source. It is
    /// created when missing, and for its owner alone (0700, files 0600): a wider one is mended with a line in the log, one that
    /// is root's and that we may write to is warned of, and one of another user, or with files of one, is refused, and so is one
    /// that others may write to and that holds other files than ours, or is shared as `/tmp` is.
    pub data_dir: PathBuf,
    /// Where the policy document lives.
    pub policy: Policy,
    /// The Redis that the game-gateway rules are read from.
    pub redis: Redis,
    /// Routing rules that an existing game-gateway keeps in Redis.
    pub game_gateway: GameGateway,
    /// The Consul that services, intentions and certificates are read from; docs/consul.md says what of it.
    pub consul: Consul,
    /// Which addresses may be endpoints. Link-local, unspecified, multicast and broadcast ones never are, nor are our own
    /// listeners; what else is denied is said here. An endpoint that may be none is left out and told (`/readyz`,
    /// `realmgate_endpoints_refused`), and a policy that is put with one is refused.
    pub endpoints: Endpoints,
    /// What every Envoy edge gets beside its game listeners.
    pub edge: Edge,
    /// The certificates by which proxies know each other.
    pub mesh: Mesh,
    /// The wasm filter that Envoys load.
    pub filter: Filter,
    /// What is logged, to the standard error output.
    pub log: Log,
}

/// The API listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// `address:port` of the API, the probes and the metrics.
    #[serde(with = "text::address")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Allows `api.listen` to be other than loopback although nobody has to authenticate.
    pub insecure: bool,
    /// What else the API is called, separated by commas: host names without ports, as clients and proxies in front write
    /// them, and origins of web pages that may use it, as `https://console.example.com`. It always answers to `localhost`,
    /// to `filter.advertise`, and to addresses: of loopback those, and any where `api.listen` is not on loopback. A request
    /// under another name is refused, since a web page could have made it; probes and metrics are not.
    #[schemars(with = "String")]
    pub hosts: HostNames,
    /// Most connections at a time. Of those that ask for nothing the ones that have waited longest make room for others.
    pub max_connections: u32,
}

/// The policy's store and first version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Where policy versions are kept: `embedded` (a file in `data_dir`, for a single replica) or `consul` (the KV store of
    /// the Consul at `consul.address`, which replicas share; docs/policy-store.md).
    #[schemars(with = "String")]
    pub store: PolicyStore,
    /// What every key of the policy in Consul begins with; ends with `/`.
    pub consul_prefix: String,
    /// Policy document to apply at start; empty = none.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub file: Option<PathBuf>,
}

/// A kind of policy store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", rename_all = "snake_case")]
pub enum PolicyStore {
    /// A file in `data_dir`.
    #[default]
    Embedded,
    /// Consul's KV store.
    Consul,
}

impl TryFrom<String> for PolicyStore {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "embedded" => Ok(Self::Embedded),
            "consul" => Ok(Self::Consul),
            "redis" => {
                Err("`redis` is not available in this version; write `embedded` or `consul`".to_owned())
            }
            _ => Err(format!("`{text}` is no policy store; write `embedded` or `consul`")),
        }
    }
}

/// The Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// `redis://[user:password@]host:port/database`, or `rediss://` for TLS. It is never printed with its password; give
    /// one by the file or the environment, since other users of the machine can read flags.
    #[schemars(with = "String")]
    pub url: RedisUrl,
    /// TLS towards Redis, for a `redis.url` that begins with `rediss://`. The files are PEM and read at each connection.
    pub tls: RedisTls,
    /// Put before every key of our own, of which there are none yet: the policy is not kept in Redis.
    pub key_prefix: String,
}

/// TLS towards Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedisTls {
    /// Authorities of Redis' certificate, which has to name the host of `redis.url`.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub ca_file: Option<PathBuf>,
    /// Certificate that is shown to Redis; empty = none.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub cert_file: Option<PathBuf>,
    /// Key of the certificate.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub key_file: Option<PathBuf>,
}

/// The rules of an existing game-gateway as a source of routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GameGateway {
    /// Whether its rules are read and served.
    pub enabled: bool,
    /// Put before its keys, `routing:rules` and `realm:mapping`.
    pub key_prefix: String,
    /// `address:port` of the listener that edges open for its rules.
    #[serde(with = "text::address")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// What the game servers of its rules speak: `server` (20 + 9 bytes in front of each body), `server-traced` (20 +
    /// 33) or `client` (8, as received).
    #[schemars(with = "String")]
    pub framing: Framing,
    /// Whether a load balancer in front of `game_gateway.listen` says the clients' addresses by the PROXY protocol. A
    /// change drains the live connections there.
    pub proxy_protocol: bool,
    /// CIDR ranges of those load balancers, with commas between them: from others no connection is taken. Empty = whoever sends
    /// the PROXY protocol is believed, also a player who claims another's address. A change drains the live connections there.
    #[schemars(with = "String")]
    pub trusted_proxies: Ranges,
    /// How often the rules are read again.
    pub refresh_interval: Duration,
    /// Bounds on the connections to `game_gateway.listen`; 0 = no limit.
    pub limits: Limits,
    /// `eager`: edges have the cluster of every rule before its first player; `on_demand`: with its first
    /// player, as docs/policy.md says of a listener's `clusters`. A change drains the live connections of
    /// `game_gateway.listen`.
    #[schemars(with = "String")]
    pub clusters: ClusterDelivery,
}

/// The Consul agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consul {
    /// `http://host:port` of an agent or server, 1.8 or newer, or `https://` for TLS; empty = no Consul. The agent of the
    /// same machine, `http://127.0.0.1:8500`, is the usual one.
    pub address: String,
    /// File of the ACL token; empty = none. It is read again when it changes.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub token_file: Option<PathBuf>,
    /// Authorities of Consul's own certificate, PEM, needed for `https`. It is read again when it changes.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub ca_file: Option<PathBuf>,
    /// The datacenter that we are in; empty = the agent's, for which the token needs `agent:read`.
    pub datacenter: String,
}

/// The certificates by which proxies know each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// Who makes them: `none`; `consul`: the authority of the Consul at `consul.address`; `embedded`: this process, with
    /// roots that it keeps in `data_dir`, for development and for a single replica.
    #[schemars(with = "String")]
    pub ca: MeshCa,
    /// What every SPIFFE id of the embedded authority begins with.
    pub trust_domain: String,
    /// The datacenter in the SPIFFE ids of the embedded authority.
    pub datacenter: String,
    /// How long a proxy's certificate of the embedded authority is good; it is renewed at 60 to 90 % of that. At
    /// least 2s.
    pub leaf_lifetime: Duration,
    /// How long a root of the embedded authority is good, at least twice `mesh.leaf_lifetime`. The next one is
    /// made at two thirds of it.
    pub root_lifetime: Duration,
}

/// Who makes certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeshCa {
    /// Nobody.
    #[default]
    None,
    /// This process.
    Embedded,
    /// Consul.
    Consul,
}

/// How Envoys come by the filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Path of `realmgate_filter.wasm`: where this process finds it, and with `filter.delivery: path` Envoys too. Made
    /// absolute. Empty = looked for beside the program (where `make build` puts it, and in `../lib/realmgate`), then in
    /// `/usr/local/lib/realmgate` and `/usr/lib/realmgate`.
    pub path: PathBuf,
    /// `path`: Envoys read the file themselves; `http`: they fetch it from the API listener.
    #[schemars(with = "String")]
    pub delivery: Delivery,
    /// `host:port` under which Envoys reach the API listener when `filter.delivery` is `http`;
    /// empty = `api.listen`.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub advertise: Option<Endpoint>,
}

/// How the filter reaches Envoy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// As a file on Envoy's machine.
    #[default]
    Path,
    /// From the API listener at `/v1/filter/<sha256>.wasm`.
    Http,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, also by module, as in
    /// `info,realmgate_control_plane::xds=debug`.
    pub level: String,
    /// `text` for people, `json` for collectors.
    #[schemars(with = "String")]
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            xds: Xds::default(),
            api: Api::default(),
            data_dir: "./realmgate-data".into(),
            policy: Policy::default(),
            redis: Redis::default(),
            game_gateway: GameGateway::default(),
            consul: Consul::default(),
            endpoints: Endpoints::default(),
            edge: Edge::default(),
            mesh: Mesh::default(),
            filter: Filter::default(),
            log: Log::default(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 18_080).into(),
            insecure: false,
            hosts: HostNames::default(),
            max_connections: 1024,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { store: PolicyStore::default(), consul_prefix: "realmgate/".to_owned(), file: None }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Self { url: RedisUrl::default(), tls: RedisTls::default(), key_prefix: "realmgate:".to_owned() }
    }
}

impl Default for GameGateway {
    fn default() -> Self {
        // The port, prefix, framing and interval of the gateway that this source stands in for.
        Self {
            enabled: false,
            key_prefix: "game-gateway:".to_owned(),
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            framing: Framing::Server,
            proxy_protocol: false,
            trusted_proxies: Ranges::default(),
            refresh_interval: Duration::from_secs(10),
            limits: Limits::default(),
            clusters: ClusterDelivery::default(),
        }
    }
}

impl Default for Mesh {
    fn default() -> Self {
        // As Consul has them: datacenter and lifetimes, in hours and years.
        Self {
            ca: MeshCa::None,
            trust_domain: "realmgate.internal".to_owned(),
            datacenter: "dc1".to_owned(),
            leaf_lifetime: Duration::from_secs(72 * 60 * 60),
            root_lifetime: Duration::from_secs(3650 * 24 * 60 * 60),
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self { path: PathBuf::new(), delivery: Delivery::default(), advertise: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::default() }
    }
}
