//! Why a message goes where it goes, in words; the same table that the filter gets answers.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use realmgate_filter::config::{Destination, FilterConfig, RouteConfig};
use realmgate_filter::route::Router;
use realmgate_wire::ServerId;
use serde::Serialize;

use super::clusters::{self, Clusters, Discovery};
use super::priorities::Priorities;
use super::routes::{Entry, Origin, RouteTable};
use super::tls::Client;
use crate::mesh::Mesh;
use crate::mesh::catalog::Instance;
use crate::mesh::failover::{Locality, Members};
use crate::source::gateway_rules::RuleOrigin;
use crate::xds::Scope;

/// The message that is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Server type, world and instance of the header.
    pub server_id: ServerId,
    /// The listener it comes in at.
    pub listener: String,
    /// The client, where a route hashes its address.
    pub source_ip: Option<IpAddr>,
    /// The datacenter of the edge; empty = the control plane's.
    pub datacenter: String,
}

/// Where it goes and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Whether any route takes it.
    pub matched: bool,
    /// The listener that was asked about.
    pub listener: String,
    /// The winning route or rule.
    pub route: Option<String>,
    /// Where that is written.
    pub origin: Option<String>,
    /// The clusters it may go to.
    pub destinations: Vec<PossibleCluster>,
    /// The rule of precedence that decided.
    pub reason: String,
    /// Routes that would match but rank below, best first.
    pub outranked: Vec<String>,
}

/// One cluster it may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PossibleCluster {
    /// The cluster's name.
    pub cluster: String,
    /// Out of the sum of all weights.
    pub weight: u32,
    /// Whether it is this one, as far as the question can tell: a sticky split needs what its key is made
    /// of, a random one is open.
    pub chosen: bool,
    /// Its endpoints, `host:port`.
    pub endpoints: Vec<String>,
    /// Where its players go, the first choice first; empty where there is but one place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<PossibleTarget>,
    /// Places that are none of these, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// Endpoints that stand for each other, as far as the control plane knows: what an edge's own checks found, only the edge knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PossibleTarget {
    /// Its turn: 0 is the first choice.
    pub priority: usize,
    /// Where it is; empty = not known.
    pub datacenter: String,
    /// What it is in the mesh: in Consul, and of fixed endpoints what the service itself is.
    pub service: String,
    /// The subset of it; empty = all.
    pub subset: String,
    /// Percent of the players of its turn; less than 100 while it comes back.
    pub share: u32,
    /// Its endpoints, `host:port`, with a word about those that Consul says are not well.
    pub endpoints: Vec<String>,
    /// Why it is where it is.
    pub why: String,
}

/// Answers from the mesh alone; no proxy is asked.
#[must_use]
pub fn explain(mesh: &Mesh, question: &Question) -> Explanation {
    let table = RouteTable::new(mesh, &question.listener);
    let mut matching = table.matching(question.server_id);
    let Some(winner) = matching.next() else {
        let unheard = [&mesh.unheard.policy, &mesh.unheard.rules].into_iter().flatten();
        let unheard = unheard.fold(String::new(), |told, unheard| told + ". Note: " + unheard);
        return Explanation {
            matched: false,
            listener: question.listener.clone(),
            route: None,
            origin: None,
            destinations: Vec::new(),
            reason: format!(
                "no route of listener `{}` takes server type {}, world {}, instance {}: the connection is closed with `no_route`{unheard}",
                question.listener,
                question.server_id.server_type(),
                question.server_id.world(),
                question.server_id.instance()
            ),
            outranked: Vec::new(),
        };
    };
    let mut specs = Clusters::new();
    // Which endpoints, not how they are spoken to, so any edge there will do.
    let scope = Scope { datacenter: question.datacenter.clone(), ..Scope::default() };
    let client = Client::of(mesh, &scope);
    clusters::collect(&table, winner, &client, &mut specs);
    let destinations = destinations(winner, question)
        .into_iter()
        .map(|(cluster, weight, chosen)| {
            let discovery = specs.get(&cluster).map(|spec| &spec.discovery);
            let (targets, refused) = match discovery {
                Some(Discovery::Places(priorities)) => (targets(priorities), priorities.refused.clone()),
                _ => (Vec::new(), Vec::new()),
            };
            let endpoints = discovery.map(endpoints).unwrap_or_default();
            PossibleCluster { cluster, weight, chosen, endpoints, targets, refused }
        })
        .collect();
    Explanation {
        matched: true,
        listener: question.listener.clone(),
        route: Some(name(winner)),
        origin: Some(origin(winner)),
        destinations,
        reason: format!("{} wins", winner.rank),
        outranked: matching.map(|entry| format!("{} ({})", name(entry), entry.rank)).take(20).collect(),
    }
}

/// What the filter's own router says of each destination: name, weight, and whether it is the one.
fn destinations(entry: &Entry<'_>, question: &Question) -> Vec<(String, u32, bool)> {
    let decide = |to: &[Destination]| {
        let route = RouteConfig { to: to.to_vec(), ..entry.route.clone() };
        let router = Router::new(&FilterConfig { routes: vec![route], ..FilterConfig::default() }).ok()?;
        let source_ip = question.source_ip.map(|ip| ip.to_string());
        let asked = Cell::new(false);
        let random = || {
            asked.set(true);
            0
        };
        let decision = router.decide(question.server_id, source_ip.as_deref(), random)?;
        Some((decision, asked.get()))
    };
    let settled =
        decide(&entry.route.to).filter(|(_, by_chance)| !by_chance).map(|(decision, _)| decision.destination);
    let each = entry.route.to.iter().enumerate().filter_map(|(i, to)| {
        let (decision, _) = decide(std::slice::from_ref(to))?;
        Some((decision.cluster, to.weight, settled == Some(i)))
    });
    each.collect()
}

fn name(entry: &Entry<'_>) -> String {
    match entry.origin {
        Origin::Policy(route) => route.name.clone(),
        Origin::Rule(rule) => rule.key.clone(),
    }
}

fn origin(entry: &Entry<'_>) -> String {
    match entry.origin {
        Origin::Policy(route) => format!("policy route `{}`", route.name),
        Origin::Rule(rule) => match rule.origin {
            RuleOrigin::Rules => {
                format!("game-gateway routing:rules, key `{}`, service `{}`", rule.key, rule.service)
            }
            RuleOrigin::RealmMapping => format!("game-gateway realm:mapping, realm {}", rule.key),
        },
    }
}

fn endpoints(discovery: &Discovery) -> Vec<String> {
    match discovery {
        Discovery::Fixed(endpoints) => endpoints.iter().map(ToString::to_string).collect(),
        Discovery::Dns { endpoint: (host, port), .. } => {
            vec![format!("{host}:{port} (resolved by each Envoy)")]
        }
        Discovery::Places(priorities) => {
            priorities.iter().flat_map(|(_, locality)| members(&locality.members)).collect()
        }
    }
}

fn targets(priorities: &Priorities) -> Vec<PossibleTarget> {
    let target = |(priority, locality): (usize, &Locality)| PossibleTarget {
        priority,
        datacenter: locality.datacenter.clone(),
        service: locality.service.clone(),
        subset: locality.subset.clone(),
        share: locality.share,
        endpoints: members(&locality.members),
        why: locality.why.clone(),
    };
    priorities.iter().map(target).collect()
}

fn members(members: &Members) -> Vec<String> {
    match members {
        Members::Fixed(endpoints) => endpoints.iter().map(ToString::to_string).collect(),
        Members::Instances { all, only_passing } => {
            let shown = |instance: &Instance| {
                let at = SocketAddr::new(instance.address, instance.port);
                if instance.serves(*only_passing) { at.to_string() } else { format!("{at} (not well)") }
            };
            all.iter().map(shown).collect()
        }
    }
}
