//! The join of all sources' latest values: one immutable picture of what should be.

pub mod catalog;
mod endpoints;
pub mod failover;
pub mod identity;
mod intentions;
mod join;
mod wanted;

pub use endpoints::{EndpointScreen, RefusedEndpoint, RefusedEndpoints};
pub use identity::Identities;
pub use intentions::{ANY_NAMESPACE, Intentions};
pub use join::{ConsulLink, ConsulStatus, GatewayStatus, Sources, join};
pub use wanted::Wanted;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use realmgate_filter::config::Framing;
use realmgate_filter::privacy::HashKey;

use catalog::Catalog;
use failover::Placement;

use crate::model::{Backoff, ClusterDelivery, Limits, Listener, Policy};
use crate::source::gateway_rules::GatewayRules;

/// Everything that compiling needs. A change of any source makes a new one; the parts are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The latest valid policy.
    pub policy: Arc<Policy>,
    /// The old gateway's rules that can be served; empty where that source is off.
    pub rules: Arc<GatewayRules>,
    /// Who our proxies are, and whom they believe.
    pub identities: Arc<Identities>,
    /// Which services may connect to which.
    pub intentions: Arc<Intentions>,
    /// The filter module.
    pub module: FilterModule,
    /// What settings say of every edge.
    pub edge: Arc<EdgeSettings>,
    /// What Consul knows; empty where that source is off.
    pub catalog: Arc<Catalog>,
    /// Which targets are near, and which have just come back.
    pub placement: Arc<Placement>,
    /// Which sources were never heard.
    pub unheard: Unheard,
}

/// Sources of which nothing was ever heard, neither in this run nor in an earlier one that left something: what they leave
/// out takes nothing from proxies that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unheard {
    /// That no policy was ever put, where, and what to do.
    pub policy: Option<Arc<str>>,
    /// That the key of the old gateway's rules was never there, where, and what to do.
    pub rules: Option<Arc<str>>,
}

/// What every edge has regardless of policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdgeSettings {
    /// The service that an edge is which claims none.
    pub service: String,
    /// Where an edge answers load balancers; `None` = nowhere.
    pub health_listen: Option<SocketAddr>,
    /// Who may read its metrics there; empty = nobody.
    pub metrics_clients: Vec<IpNet>,
    /// Where edges write their access log; `None` = nowhere.
    pub access_log: Option<String>,
    /// The key of the moment by which they hash client addresses, where the policy wants that.
    pub address_key: Option<HashKey>,
    /// The listener of the old gateway's rules; `None` = that source is off.
    pub gateway: Option<Listener>,
    /// What the game servers of those rules speak.
    pub gateway_framing: Framing,
}

impl EdgeSettings {
    /// The listener that takes the old gateway's place.
    #[must_use]
    pub fn gateway_listener(bind: SocketAddr, limits: Limits) -> Listener {
        Listener {
            name: crate::model::GAME_GATEWAY.to_owned(),
            bind,
            limits,
            connect_attempts: Listener::default_connect_attempts(),
            connect_backoff: Backoff::default(),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            allowed_clients: Vec::new(),
            tls: None,
            clusters: ClusterDelivery::default(),
        }
    }
}

/// The filter's code and how an Envoy gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterModule {
    /// SHA-256 in hex; empty when the control plane cannot read the file that its proxies may have.
    pub sha256: String,
    /// Where it is.
    pub location: ModuleLocation,
}

/// Where an Envoy finds the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleLocation {
    /// A file on the Envoy's machine.
    Path(String),
    /// `host:port` of the API listener, as proxies reach it; it serves the module under its hash.
    Http(String),
    /// There is none that could be used: proxies are told of no filter.
    Nowhere,
}

impl Mesh {
    /// The same without the old gateway's rules.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        let unheard = Unheard { rules: None, ..self.unheard.clone() };
        Self { rules: Arc::default(), unheard, ..self.clone() }
    }

    /// Where a proxy is that says to be in `datacenter`; empty = in ours, where that has a name.
    #[must_use]
    pub fn place<'a>(&'a self, datacenter: &'a str) -> &'a str {
        [datacenter, &self.catalog.local, &self.identities.datacenter]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default()
    }

    /// Whether any listener of an edge that asks for `wanted` has a route. Those of rules are of every listener.
    #[must_use]
    pub fn has_routes(&self, wanted: &[String]) -> bool {
        let routes = &self.policy.routes;
        if !self.rules.rules.is_empty() || routes.iter().any(|route| route.listeners.is_empty()) {
            return self.listeners(wanted).next().is_some();
        }
        let named: HashSet<_> = routes.iter().flat_map(|route| &route.listeners).collect();
        self.listeners(wanted).any(|listener| named.contains(&listener.name))
    }

    /// The listeners of an edge that asks for `wanted`; all for an edge that names none.
    pub fn listeners<'a>(&'a self, wanted: &'a [String]) -> impl Iterator<Item = &'a Listener> {
        let all = self.policy.listeners.iter().chain(&self.edge.gateway);
        all.filter(move |listener| wanted.is_empty() || wanted.contains(&listener.name))
    }
}
