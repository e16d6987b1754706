//! What the server sends: named, versioned, encoded resources, and the snapshot of all that one scope needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

/// The resource types we serve, in the order in which Envoy must learn of them (make before break).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
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
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Extension];

    /// The type URL on the wire.
    #[must_use]
    pub const fn url(self) -> &'static str {
        match self {
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

    /// The short name of metrics and tables: `cds`, `eds`, `lds`, `ecds`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Listener => "lds",
            Self::Extension => "ecds",
        }
    }
}

/// One encoded resource. Encoded once, shared by every stream that sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The name on the wire; equals the name inside the message (Envoy silently accepts a mismatch).
    pub name: String,
    /// Hash of the content: the same on every replica and after a restart.
    pub version: String,
    /// The message, encoded.
    pub body: Bytes,
}

impl Resource {
    /// Encodes `message`, whose own name field must be `name`.
    pub fn new(name: impl Into<String>, message: &impl Message) -> Self {
        let body = Bytes::from(message.encode_to_vec());
        Self { name: name.into(), version: content_hash([body.as_ref()]), body }
    }
}

/// All resources of one type that a scope needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceSet {
    version: String,
    /// What the wildcard stands for.
    eager: BTreeMap<String, Arc<Resource>>,
    /// What is sent to those alone who ask for it by its name.
    on_demand: BTreeMap<String, Arc<Resource>>,
}

impl ResourceSet {
    /// The set of these; of two with one name the later stays.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        Self::with_on_demand(resources, [])
    }

    /// The set of these, of which the wildcard covers `eager`: those `on_demand` are sent only when they are
    /// asked for by name. A name in both is eager.
    pub fn with_on_demand(
        eager: impl IntoIterator<Item = Arc<Resource>>,
        on_demand: impl IntoIterator<Item = Arc<Resource>>,
    ) -> Self {
        let eager: BTreeMap<_, _> = eager.into_iter().map(|r| (r.name.clone(), r)).collect();
        let on_demand = on_demand.into_iter().filter(|r| !eager.contains_key(&r.name));
        let on_demand: BTreeMap<_, _> = on_demand.map(|r| (r.name.clone(), r)).collect();
        let mut version = hash_of(&eager);
        if !on_demand.is_empty() {
            // Hashed apart: what only moves from one side to the other changes the set.
            version = content_hash([version.as_bytes(), hash_of(&on_demand).as_bytes()]);
        }
        Self { version, eager, on_demand }
    }

    /// Hash of all names and versions.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The resource of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.eager.get(name).or_else(|| self.on_demand.get(name))
    }

    /// Whether this exists and is sent only when it is asked for by name.
    #[must_use]
    pub fn is_on_demand(&self, name: &str) -> bool {
        self.on_demand.contains_key(name)
    }

    /// What the wildcard stands for, in the order of names.
    #[must_use]
    pub fn eager(&self) -> impl ExactSizeIterator<Item = &Arc<Resource>> {
        self.eager.values()
    }

    /// All resources, those on demand last, each part in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.eager.values().chain(self.on_demand.values())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.eager.len() + self.on_demand.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.eager.is_empty() && self.on_demand.is_empty()
    }
}

fn hash_of(resources: &BTreeMap<String, Arc<Resource>>) -> String {
    content_hash(resources.values().flat_map(|r| [r.name.as_bytes(), r.version.as_bytes()]))
}

/// Everything that the proxies of one scope should have. Immutable; a change makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// CDS.
    pub clusters: ResourceSet,
    /// EDS.
    pub endpoints: ResourceSet,
    /// LDS.
    pub listeners: ResourceSet,
    /// ECDS.
    pub extensions: ResourceSet,
}

impl Snapshot {
    /// Whether this is the default value, which stands for "no snapshot yet": proxies are sent nothing. One
    /// that is empty on purpose is made of `ResourceSet::new([])`.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        ResourceType::ALL.into_iter().all(|kind| self.of(kind).version.is_empty())
    }

    /// Hash of the versions of all types.
    #[must_use]
    pub fn version(&self) -> String {
        content_hash(ResourceType::ALL.into_iter().map(|kind| self.of(kind).version().as_bytes()))
    }

    /// The resources of one type.
    #[must_use]
    pub const fn of(&self, kind: ResourceType) -> &ResourceSet {
        match kind {
            ResourceType::Cluster => &self.clusters,
            ResourceType::Endpoints => &self.endpoints,
            ResourceType::Listener => &self.listeners,
            ResourceType::Extension => &self.extensions,
        }
    }
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
