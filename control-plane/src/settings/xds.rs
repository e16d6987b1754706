//! The settings of the xDS listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::text;
use crate::model::Duration;
use crate::xds::ListenerConfig;

/// The xDS listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Xds {
    /// `address:port` of the xDS server.
    #[serde(with = "text::address")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Allows `xds.listen` to be other than loopback although nobody has to authenticate, or tokens cross the
    /// network in the clear.
    pub insecure: bool,
    /// Most connections at a time; further ones are closed and counted.
    pub max_connections: u32,
    /// Least time between two pushes, at most 10s. A change after a quiet time goes out at once; those that come
    /// within this time after it go out together. Proxies that are slower are sent less often by themselves.
    pub debounce: Duration,
    /// Longest time over which connected proxies are moved on when the process is asked to end: each is told at
    /// a random moment within it, so that they do not all come back at once. 1 ms a proxy is enough, and used.
    pub drain: Duration,
    /// File of tokens, of which a proxy has to show one (`realmgate envoy-bootstrap --token-file`); empty = none. One a line,
    /// or its hash, and behind it what it is good for: `sha256:... role=sidecar service=game` (`realmgate token new` makes
    /// such a line). It is read again when it changes; who shows a token that was taken out is let go within seconds.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub token_file: Option<PathBuf>,
    /// TLS of the listener. The files are read again when they change; connections that are open go on, except those
    /// of certificates that are good no more.
    pub tls: Tls,
}

impl Default for Xds {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 18_000).into(),
            insecure: false,
            max_connections: ListenerConfig::default().max_connections,
            // A tenth of what Envoy needs for a hundred clusters.
            debounce: Duration::from_millis(10),
            drain: Duration::from_secs(2),
            token_file: None,
            tls: Tls::default(),
        }
    }
}

/// TLS of the xDS listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificate, followed by those between it and its authority; empty = no TLS.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub cert_file: Option<PathBuf>,
    /// Key of the certificate.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub key_file: Option<PathBuf>,
    /// Authorities of client certificates. With it a proxy has to show a certificate (or a token, where
    /// `xds.token_file` is set) whose SPIFFE id, `spiffe://<trust domain>/ns/default/dc/aws/svc/chat`, is what its node
    /// claims to be; empty = no client certificates.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub client_ca_file: Option<PathBuf>,
    /// Trust domains of client certificates, with commas between; empty = that of the mesh (`mesh.ca`) alone. Needed with
    /// `xds.tls.client_ca_file` where there is no mesh.
    pub trust_domains: String,
    /// File that says of client certificates what they are good for instead of what their id says, one a line:
    /// `spiffe://... cell=blue`, or `role=operator`; empty = none.
    #[serde(with = "text::optional")]
    #[schemars(with = "String")]
    pub rules_file: Option<PathBuf>,
}

impl Tls {
    /// The trust domains that are listed.
    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        self.trust_domains.split(',').map(str::trim).filter(|name| !name.is_empty())
    }
}
