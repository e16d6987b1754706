//! What the server sends: named, versioned resources, encoded once for both protocol variants.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Name;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use sha2::{Digest, Sha256};

/// The resource types we serve, in the order in which Envoy must learn of them (make before break).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// RTDS: `envoy.service.runtime.v3.Runtime`, switches of Envoy's own and those that stand in listeners.
    Runtime,
    /// SDS: `envoy.extensions.transport_sockets.tls.v3.Secret`, certificates and whom to believe.
    Secret,
    /// CDS: `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// EDS: `envoy.config.endpoint.v3.ClusterLoadAssignment`, named like its cluster.
    Endpoints,
    /// LDS: `envoy.config.listener.v3.Listener`.
    Listener,
    /// ECDS: `envoy.config.core.v3.TypedExtensionConfig`, the filter and its routes.
    Extension,
}

impl ResourceType {
    /// Every type, in sending order.
    pub const ALL: [Self; 6] =
        [Self::Runtime, Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Extension];

    /// The type URL on the wire.
    #[must_use]
    pub const fn url(self) -> &'static str {
        match self {
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The type of a URL; `None` for those we do not serve.
    #[must_use]
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.url() == url)
    }

    /// The short name of metrics and tables: `rtds`, `sds`, `cds`, `eds`, `lds`, `ecds`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Runtime => "rtds",
            Self::Secret => "sds",
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Listener => "lds",
            Self::Extension => "ecds",
        }
    }
}

/// One encoded resource. Encoded once, shared by every stream that sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    name: Arc<str>,
    version: Arc<str>,
    on_demand: bool,
    /// Whether it is sent only when all that needs code is in force.
    last: bool,
    /// Hash of the code that the proxy has to load for it.
    code: Option<Arc<str>>,
    hollow: bool,
    /// As an entry of a delta response.
    entry: Bytes,
    /// Where in it the entry of a state-of-the-world response begins.
    any_at: usize,
    /// Where in it the message begins.
    body_at: usize,
}

/// Field 2 of both responses holds their entries, and field 2 of a delta entry the `Any`. Its tag is thus the
/// same in both places, and the end of a delta entry is a whole state-of-the-world entry.
const ENTRY: u32 = 2;
const NAME: u32 = 3;
const VERSION: u32 = 1;
const ANY_TYPE_URL: u32 = 1;
const ANY_VALUE: u32 = 2;

impl Resource {
    /// Encodes `message`, whose own name field must be `name` (Envoy silently accepts a mismatch). The version
    /// is the hash of the content: the same on every replica and after a restart.
    pub fn new<M: Name>(name: impl Into<Arc<str>>, message: &M) -> Self {
        let body = message.encode_to_vec();
        Self::encoded(&M::type_url(), name.into(), content_hash([body.as_slice()]).into(), &body)
    }

    /// A resource whose message is encoded already.
    pub(crate) fn encoded(type_url: &str, name: Arc<str>, version: Arc<str>, body: &[u8]) -> Self {
        let any = field_len(ANY_TYPE_URL, type_url.len()) + field_len(ANY_VALUE, body.len());
        let head = field_len(NAME, name.len()) + field_len(VERSION, version.len());
        let inner = head + field_len(ENTRY, any);
        let mut entry = Vec::with_capacity(field_len(ENTRY, inner));
        put_head(ENTRY, inner, &mut entry);
        put_field(NAME, name.as_bytes(), &mut entry);
        put_field(VERSION, version.as_bytes(), &mut entry);
        let any_at = entry.len();
        put_head(ENTRY, any, &mut entry);
        put_field(ANY_TYPE_URL, type_url.as_bytes(), &mut entry);
        put_field(ANY_VALUE, body, &mut entry);
        let body_at = entry.len() - body.len();
        Self {
            name,
            version,
            on_demand: false,
            last: false,
            code: None,
            hollow: false,
            entry: entry.into(),
            any_at,
            body_at,
        }
    }

    /// What a proxy says it has from an earlier stream: its content is not known.
    pub(crate) fn claimed(name: Arc<str>, version: &str) -> Self {
        Self {
            name,
            version: version.into(),
            on_demand: false,
            last: false,
            code: None,
            hollow: false,
            entry: Bytes::new(),
            any_at: 0,
            body_at: 0,
        }
    }

    /// Whether it is what a proxy says it has from an earlier stream.
    pub(crate) fn is_claimed(&self) -> bool {
        self.entry.is_empty()
    }

    /// The same resource, sent only to proxies that ask for it by name: the wildcard does not cover it.
    #[must_use]
    pub fn on_demand(mut self) -> Self {
        self.on_demand = true;
        self
    }

    /// The same resource, which is as it is for want of knowing better: a proxy that comes with another version keeps that.
    #[must_use]
    pub fn hollow(mut self) -> Self {
        self.hollow = true;
        self
    }

    /// Whether it is as it is for want of knowing better.
    #[must_use]
    pub const fn is_hollow(&self) -> bool {
        self.hollow
    }

    /// Whether only those get it that ask for it by name.
    #[must_use]
    pub const fn is_on_demand(&self) -> bool {
        self.on_demand
    }

    /// The same resource, sent to a proxy only when all filters that need code are in force there: it says so to others.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.last = true;
        self
    }

    /// Whether it waits for the filters.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.last
    }

    /// Another payload under the same name and version.
    pub(crate) fn with_body(&self, type_url: &str, body: &[u8]) -> Self {
        let (on_demand, last, code) = (self.on_demand, self.last, self.code.clone());
        let other = Self::encoded(type_url, Arc::clone(&self.name), Arc::clone(&self.version), body);
        Self { on_demand, last, code, ..other }
    }

    /// The same resource, which needs code that the proxy loads by itself; `hash` tells one code from another, empty = unknown.
    #[must_use]
    pub fn with_code(mut self, hash: impl Into<Arc<str>>) -> Self {
        self.code = Some(hash.into());
        self
    }

    /// Hash of the code that the proxy has to load for it; `None` = it needs none, or that is not known.
    #[must_use]
    pub const fn code(&self) -> Option<&Arc<str>> {
        self.code.as_ref()
    }

    /// The name on the wire.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The version on the wire.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The encoded message; empty for what a proxy claims.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.entry.get(self.body_at..).unwrap_or_default()
    }

    /// The encoded entry of a `DeltaDiscoveryResponse`.
    pub(crate) fn delta_entry(&self) -> &[u8] {
        &self.entry
    }

    /// The encoded entry of a `DiscoveryResponse`.
    pub(crate) fn sotw_entry(&self) -> &[u8] {
        self.entry.get(self.any_at..).unwrap_or_default()
    }
}

impl fmt::Debug for Resource {
    /// Without its content, which may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Puts a length-delimited field.
pub(super) fn put_field(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_head(field, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_head(field: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// Bytes that a length-delimited field takes.
pub(super) fn field_len(field: u32, len: usize) -> usize {
    key_len(field) + encoded_len_varint(len as u64) + len
}

/// 16 hex digits of SHA-256 over the parts, each with its length so that parts cannot run together.
pub fn content_hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize().get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use prost::Message;

    use super::*;

    #[test]
    fn one_encoding_is_an_entry_of_both_responses() {
        let cluster = Cluster { name: "game".to_owned(), ..Cluster::default() };
        let resource = Resource::new("game", &cluster);
        let delta = DeltaDiscoveryResponse::decode(resource.delta_entry()).unwrap();
        let [entry] = delta.resources.as_slice() else { panic!("one entry") };
        assert_eq!((entry.name.as_str(), entry.version.as_str()), ("game", resource.version()));
        let any = entry.resource.as_ref().unwrap();
        assert_eq!(any.type_url, ResourceType::Cluster.url());
        assert_eq!(Cluster::decode(any.value.as_slice()).unwrap(), cluster);
        assert_eq!(any.value, resource.body());
        let sotw = DiscoveryResponse::decode(resource.sotw_entry()).unwrap();
        assert_eq!(sotw.resources, std::slice::from_ref(any));
    }
}
