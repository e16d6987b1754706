//! What all proxies of a fleet know in common: each name and each version once, and what a resource brings.

use std::collections::HashMap;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::reader::Resource;

/// A resource type that a proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Clusters, all of them.
    Cds,
    /// Endpoints of the clusters that want them.
    Eds,
    /// Listeners, all of them.
    Lds,
    /// Filter configurations that the listeners name.
    Ecds,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Cds, Self::Eds, Self::Lds, Self::Ecds];

    pub(super) const fn url(self) -> &'static str {
        match self {
            Self::Cds => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Eds => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Lds => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Ecds => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    pub(super) fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The type whose resources this one's resources name.
    pub(super) const fn brings(self) -> Option<Self> {
        match self {
            Self::Cds => Some(Self::Eds),
            Self::Lds => Some(Self::Ecds),
            Self::Eds | Self::Ecds => None,
        }
    }
}

/// The number of a name among those of its type.
pub(super) type NameId = usize;
/// The number of a version among those of its name.
pub(super) type VersionId = u32;

/// One of something for each type.
#[derive(Debug, Default)]
pub(super) struct ByKind<T> {
    cds: T,
    eds: T,
    lds: T,
    ecds: T,
}

impl<T> ByKind<T> {
    pub(super) const fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Cds => &self.cds,
            Kind::Eds => &self.eds,
            Kind::Lds => &self.lds,
            Kind::Ecds => &self.ecds,
        }
    }

    pub(super) const fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Cds => &mut self.cds,
            Kind::Eds => &mut self.eds,
            Kind::Lds => &mut self.lds,
            Kind::Ecds => &mut self.ecds,
        }
    }
}

/// Grows with what a server ever sent.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    names: ByKind<Names>,
    /// The request of a proxy that returns, and what it holds.
    hellos: ByKind<Option<(Box<[u32]>, Bytes)>>,
}

#[derive(Debug, Default)]
struct Names {
    ids: HashMap<Box<str>, NameId>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    versions: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    text: Box<str>,
    /// Names of the next type.
    brings: Box<[NameId]>,
}

impl Catalogue {
    /// The numbers of a resource's name and version; a resource that was not seen before is decoded for what
    /// it brings.
    pub(super) fn resource(&mut self, kind: Kind, resource: &Resource<'_>) -> (NameId, VersionId) {
        let name = self.name(kind, resource.name);
        let known = self.names.of(kind).entries.get(name);
        // The newest is the likeliest.
        let known = known.and_then(|e| e.versions.iter().rposition(|v| &*v.text == resource.version));
        let position = known.unwrap_or_else(|| {
            let brings = brought(kind, resource.body);
            let next = kind.brings().unwrap_or(kind);
            let brings = brings.iter().map(|name| self.name(next, name)).collect();
            let Some(entry) = self.names.of_mut(kind).entries.get_mut(name) else { return 0 };
            entry.versions.push(Version { text: resource.version.into(), brings });
            entry.versions.len() - 1
        });
        (name, VersionId::try_from(position).unwrap_or(VersionId::MAX))
    }

    /// The number of a name.
    pub(super) fn name(&mut self, kind: Kind, name: &str) -> NameId {
        let names = self.names.of_mut(kind);
        if let Some(id) = names.ids.get(name) {
            return *id;
        }
        let id = names.entries.len();
        names.ids.insert(name.into(), id);
        names.entries.push(Entry { name: name.into(), versions: Vec::new() });
        id
    }

    pub(super) fn text_of_name(&self, kind: Kind, name: NameId) -> &str {
        self.names.of(kind).entries.get(name).map_or("", |entry| &entry.name)
    }

    pub(super) fn text_of_version(&self, kind: Kind, name: NameId, version: VersionId) -> &str {
        self.version(kind, name, version).map_or("", |version| &version.text)
    }

    /// The request that was kept for just these holdings.
    pub(super) fn hello(&self, kind: Kind, held: &[u32]) -> Option<Bytes> {
        let kept = self.hellos.of(kind).as_ref();
        kept.filter(|(of, _)| **of == *held).map(|(_, hello)| hello.clone())
    }

    /// Keeps a request for the next proxy that holds the same.
    pub(super) fn keep_hello(&mut self, kind: Kind, held: &[u32], hello: Bytes) {
        *self.hellos.of_mut(kind) = Some((held.into(), hello));
    }

    /// Names of the next type that a resource brings.
    pub(super) fn brings(&self, kind: Kind, name: NameId, version: VersionId) -> &[NameId] {
        self.version(kind, name, version).map_or(&[], |version| &version.brings)
    }

    fn version(&self, kind: Kind, name: NameId, version: VersionId) -> Option<&Version> {
        self.names.of(kind).entries.get(name)?.versions.get(usize::try_from(version).ok()?)
    }
}

/// Endpoints of a cluster that has them by EDS; filter configurations that a listener's network filters leave to
/// ECDS. What cannot be decoded brings nothing: judging resources is not the fleet's business.
fn brought(kind: Kind, body: &[u8]) -> Vec<String> {
    match kind {
        Kind::Cds => Cluster::decode(body).ok().and_then(endpoints_of).into_iter().collect(),
        Kind::Lds => Listener::decode(body).map(filters_of).unwrap_or_default(),
        Kind::Eds | Kind::Ecds => Vec::new(),
    }
}

fn endpoints_of(cluster: Cluster) -> Option<String> {
    if cluster.cluster_discovery_type != Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)) {
        return None;
    }
    let named = cluster.eds_cluster_config.map(|eds| eds.service_name).unwrap_or_default();
    Some(if named.is_empty() { cluster.name } else { named })
}

fn filters_of(listener: Listener) -> Vec<String> {
    let chains = listener.filter_chains.into_iter().chain(listener.default_filter_chain);
    let filters = chains.flat_map(|chain| chain.filters);
    let by_ecds = filters.filter(|filter| matches!(filter.config_type, Some(ConfigType::ConfigDiscovery(_))));
    by_ecds.map(|filter| filter.name).collect()
}
