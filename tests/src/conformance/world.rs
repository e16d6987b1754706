//! What a server is made to serve, in the scripts' own names: four kinds of resources, each with a few settings.
//! Secrets are the server's own: who may have which is no matter of the protocol.

use std::collections::BTreeMap;
use std::fmt;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as EnvoyCluster;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener as EnvoyListener;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use prost::Message;

/// A resource type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// ECDS.
    Extension,
    /// SDS; not part of any world.
    Secret,
}

impl Kind {
    /// Every type of a world, in the order of make before break.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Extension];
    /// The types whose responses in state of the world are complete, and which have the legacy wildcard (5, 7).
    pub const WHOLE: [Self; 2] = [Self::Cluster, Self::Listener];
    /// The types that are asked for by name, and whose absence means nothing (5, 15, 16).
    pub const NAMED: [Self; 2] = [Self::Endpoints, Self::Extension];

    /// The type's URL.
    pub const fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type of a URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().chain([Self::Secret]).find(|kind| kind.url() == url)
    }

    /// Whether responses in state of the world are complete.
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The name inside a resource of this type.
    pub fn name_inside(self, body: &[u8]) -> Result<String, prost::DecodeError> {
        Ok(match self {
            Self::Cluster => EnvoyCluster::decode(body)?.name,
            Self::Endpoints => ClusterLoadAssignment::decode(body)?.cluster_name,
            Self::Listener => EnvoyListener::decode(body)?.name,
            Self::Extension => TypedExtensionConfig::decode(body)?.name,
            Self::Secret => Secret::decode(body)?.name,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::Listener => "lds",
            Self::Extension => "ecds",
            Self::Secret => "sds",
        })
    }
}

/// Why a script cannot make or change a secret.
const NO_SECRETS: &str = "secrets are the server's own";

/// Resources that are there in every world and that no script looks at: an answer about them, which must come,
/// shows that nothing else came before it.
pub const FENCES: [&str; 2] = ["fence-1", "fence-2"];

/// A cluster; its endpoints are an EDS resource of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Any setting of the cluster itself: another number, another CDS resource and no other.
    pub setting: u32,
    /// Ports of its endpoints, all on one address: other ports, another EDS resource and no other.
    pub endpoints: Vec<u16>,
    /// Whether the proxy resolves the endpoints itself, so that there is no EDS resource.
    pub resolved: bool,
}

/// A listener with one filter, whose configuration is an ECDS resource of the same name and names all clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Any setting of the listener itself: another number, another LDS resource and no other.
    pub setting: u32,
    /// Any setting of the filter: another number, another ECDS resource and no other.
    pub filter: u32,
}

/// Everything that a server should serve, and nothing besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The clusters by name.
    pub clusters: BTreeMap<String, Cluster>,
    /// The listeners by name.
    pub listeners: BTreeMap<String, Listener>,
}

impl World {
    /// The fences alone.
    pub fn empty() -> Self {
        let mut world = Self { clusters: BTreeMap::new(), listeners: BTreeMap::new() };
        for fence in FENCES {
            world.add(Kind::Cluster, fence);
            world.add(Kind::Listener, fence);
        }
        world
    }

    /// The resources of these names, of one type and of what comes with it.
    pub fn of(kind: Kind, names: &[&str]) -> Self {
        let mut world = Self::empty();
        for name in names {
            world.add(kind, name);
        }
        world
    }

    /// A resource of this name: a cluster with endpoints, or a listener with its filter.
    pub fn add(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Cluster | Kind::Endpoints => {
                let cluster = Cluster { setting: 0, endpoints: vec![1], resolved: false };
                self.clusters.insert(name.to_owned(), cluster);
            }
            Kind::Listener | Kind::Extension => {
                self.listeners.insert(name.to_owned(), Listener { setting: 0, filter: 0 });
            }
            Kind::Secret => panic!("{NO_SECRETS}"),
        }
    }

    /// Takes the resource away, and with it what comes with it.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Cluster | Kind::Endpoints => drop(self.clusters.remove(name)),
            Kind::Listener | Kind::Extension => drop(self.listeners.remove(name)),
            Kind::Secret => panic!("{NO_SECRETS}"),
        }
    }

    /// Changes this resource and no other.
    #[track_caller]
    pub fn change(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Cluster => self.cluster(name).setting += 1,
            Kind::Endpoints => {
                let ports = &mut self.cluster(name).endpoints;
                ports.push(ports.last().map_or(1, |last| last + 1));
                // One endpoint more on the first change, as many from then on.
                if ports.len() > 2 {
                    ports.remove(0);
                }
            }
            Kind::Listener => self.listener(name).setting += 1,
            Kind::Extension => self.listener(name).filter += 1,
            Kind::Secret => panic!("{NO_SECRETS}"),
        }
    }

    /// The cluster of this name.
    #[track_caller]
    pub fn cluster(&mut self, name: &str) -> &mut Cluster {
        self.clusters.get_mut(name).expect("the script added this cluster")
    }

    /// The listener of this name.
    #[track_caller]
    pub fn listener(&mut self, name: &str) -> &mut Listener {
        self.listeners.get_mut(name).expect("the script added this listener")
    }

    /// The names of all resources of a type, fences included.
    pub fn names(&self, kind: Kind) -> Vec<&str> {
        match kind {
            Kind::Cluster => self.clusters.keys().map(String::as_str).collect(),
            Kind::Endpoints => {
                let by_eds = self.clusters.iter().filter(|(_, cluster)| !cluster.resolved);
                by_eds.map(|(name, _)| name.as_str()).collect()
            }
            Kind::Listener | Kind::Extension => self.listeners.keys().map(String::as_str).collect(),
            Kind::Secret => Vec::new(),
        }
    }
}
