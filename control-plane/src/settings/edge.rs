//! The settings of edges.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ports, Ranges, text};
use crate::model::Duration;
use crate::xds::ListenerConfig;

/// Edges in general.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Edge {
    /// `address:port` where every edge answers `/health`, `/ready` and `/metrics`; empty = none.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub health_listen: Option<SocketAddr>,
    /// CIDR ranges from which `/metrics` may be read there, with commas between them; others get 403. Private networks unless
    /// given; empty = nobody, `0.0.0.0/0, ::/0` = everybody.
    #[schemars(with = "String")]
    pub metrics_clients: Ranges,
    /// Ports of edges' admin interfaces, where their bootstraps give them one (`envoy-bootstrap --admin-port`), with commas
    /// between them: no endpoint on loopback may have such a port. Empty = none has one.
    pub admin_ports: Ports,
    /// File on each edge's machine for its access log, a JSON object a line and connection; `/dev/stdout` = its
    /// standard output, empty = none. A change replaces the game listeners: their live connections drain.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub access_log: Option<PathBuf>,
    /// File of the secret, 32 bytes or more, by which edges hash client addresses where the policy's `privacy` wants that.
    /// Replicas share it; empty = one is made and kept in `data_dir`.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub address_key_file: Option<PathBuf>,
    /// How long one key of that hash is used, at least 1m: an address is the same in the log for so long, and another after.
    pub address_key_lifetime: Duration,
    /// The service that an edge is whose node claims none: in the certificate that it shows to the xDS listener, in
    /// the one that it shows to services of `tls: mesh`, and in intentions.
    pub service: String,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            health_listen: Some((Ipv4Addr::UNSPECIFIED, 9090).into()),
            metrics_clients: Ranges::private(),
            // What bootstraps had before there was a socket.
            admin_ports: Ports(vec![9901]),
            access_log: Some("/dev/stdout".into()),
            address_key_file: None,
            address_key_lifetime: Duration::from_secs(24 * 3600),
            service: ListenerConfig::default().edge_service,
        }
    }
}
