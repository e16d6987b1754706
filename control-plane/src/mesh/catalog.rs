//! Where the instances of services are, in every datacenter, and what else a service mesh says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is known of all datacenters: the latest of each part, and of a part that cannot be heard the last good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// The datacenter that we are in.
    pub local: String,
    /// Every datacenter that Consul lists, by name, the local one among them.
    pub datacenters: BTreeMap<String, Datacenter>,
    /// Datacenters, listed or not, about which the last question to Consul failed. What is known of them is the last that
    /// was told; players may reach them all the same.
    pub unheard: BTreeSet<String>,
    /// The instances of all that was asked for and answered; what is not in it is not known yet, which is not the same as
    /// none.
    pub instances: BTreeMap<Lookup, Arc<[Instance]>>,
    /// What operators say in configuration entries, by service.
    pub entries: Arc<BTreeMap<String, ServiceEntries>>,
}

/// A datacenter, as seen from ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datacenter {
    /// Median time to it and back; `None` = not known.
    pub rtt: Option<Duration>,
}

/// One question to the catalog.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lookup {
    /// The datacenter that is asked about.
    pub datacenter: String,
    /// The service's name there.
    pub service: String,
    /// Whether its sidecars are wanted, which speak mTLS, and not its own instances.
    pub sidecars: bool,
    /// Expression that instances must satisfy; empty = all.
    pub filter: String,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance {
    /// Its id at its node; with the node unique in the datacenter.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Where we reach it: its LAN address, or the WAN address that an instance of another datacenter tells. A
    /// host name is resolved by the source.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// Its weight in its present state of health, 1 to 128.
    pub weight: u32,
    /// What its checks say.
    pub health: InstanceHealth,
}

/// What the checks of an instance say, the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InstanceHealth {
    /// All is well.
    Passing,
    /// Serves, with less weight.
    Warning,
    /// Gets no players.
    Critical,
}

/// The configuration entries of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntries {
    /// `service-resolver`.
    pub resolver: Option<Resolver>,
    /// `service-splitter`: weights in hundredths of a percent, 10,000 in all.
    pub splitter: Vec<(u32, ServiceSubset)>,
}

/// A service, or a subset of it that its resolver defines.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceSubset {
    /// The service; empty = the one whose entry this is.
    pub service: String,
    /// The subset; empty = the default subset.
    pub subset: String,
}

/// How a service's name becomes instances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// The subset where none is named; empty = all instances.
    pub default_subset: String,
    /// Subsets by name.
    pub subsets: BTreeMap<String, Subset>,
    /// All goes elsewhere.
    pub redirect: Option<Redirect>,
    /// By subset, `*` for every other.
    pub failover: BTreeMap<String, Vec<FailoverTarget>>,
}

/// Which instances a subset has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// Expression that they satisfy; empty = all.
    pub filter: String,
    /// Whether those in warning are left out.
    pub only_passing: bool,
}

/// Where a redirected service is; an empty part is as in the service itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// The service, and the subset.
    pub to: ServiceSubset,
    /// The datacenter.
    pub datacenter: String,
}

/// Where players go when a service has no healthy instance; an empty part is as in the service itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverTarget {
    /// The service, and the subset.
    pub to: ServiceSubset,
    /// The datacenter.
    pub datacenter: String,
}
