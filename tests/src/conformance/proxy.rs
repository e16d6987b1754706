//! A client that acts as a proxy does, for scripts about the order of types.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use prost::Message;

use super::client::Client;
use super::response::{Payload, Response};
use super::wire::Variant;
use super::world::{Kind, World};

/// Clusters that were answered, and those of them whose endpoints have to come before the answer to them is
/// acknowledged (14).
#[derive(Debug)]
struct Warming {
    clusters: Response,
    awaited: BTreeSet<String>,
}

/// A client, and the acknowledgement that it keeps back.
pub struct Proxy<'s> {
    /// The client.
    pub client: Client<'s>,
    warming: Option<Warming>,
}

impl<'s> Proxy<'s> {
    /// A proxy that asks for its clusters now, and for the rest when a proxy does.
    pub async fn start(mut client: Client<'s>) -> Self {
        client.ask_all(Kind::Cluster).await;
        Self { client, warming: None }
    }

    /// A proxy that has all of this world and has acknowledged it.
    pub async fn started(client: Client<'s>, world: &World) -> Self {
        let mut proxy = Self::start(client).await;
        proxy.until(|client| has_all(client, world)).await;
        proxy
    }

    /// Takes and answers responses until the client has what is asked for; gives them in the order in which
    /// they came.
    pub async fn until(&mut self, done: impl Fn(&Client<'_>) -> bool) -> Vec<Response> {
        let mut came = Vec::new();
        while !done(&self.client) || self.warming.is_some() {
            let (response, before) = self.next().await;
            self.answer(&response, &before).await;
            came.push(response);
        }
        came
    }

    /// The next response, not answered yet, and what there was of its type before.
    pub async fn next(&mut self) -> (Response, Held) {
        let clusters = self.client.held(Kind::Cluster);
        let response = self.client.expect_any().await;
        (response, Held { clusters })
    }

    /// Answers a response as a proxy does.
    pub async fn answer(&mut self, response: &Response, before: &Held) {
        match response.kind {
            Kind::Cluster => self.warm(response, before).await,
            Kind::Endpoints => {
                self.client.ack(response).await;
                let Some(warming) = &mut self.warming else { return };
                warming.awaited.retain(|name| !response.has(name));
                if warming.awaited.is_empty() {
                    let clusters = warming.clusters.clone();
                    self.warming = None;
                    self.warmed(&clusters).await;
                }
            }
            Kind::Listener => {
                self.client.ack(response).await;
                let named = self.client.held(Kind::Listener);
                self.name(Kind::Extension, named.keys().cloned().collect()).await;
            }
            Kind::Extension | Kind::Secret => self.client.ack(response).await,
        }
    }

    /// Asks for the endpoints of new clusters, and in state of the world again for those of changed ones (8).
    async fn warm(&mut self, response: &Response, before: &Held) {
        let changed = response.resources.iter().filter(|(name, now)| {
            before.clusters.get(*name).is_none_or(|held| held.body != now.body) && by_eds(now)
        });
        let awaited: BTreeSet<String> = changed.map(|(name, _)| name.clone()).collect();
        let held = self.client.held(Kind::Cluster);
        let named = held.iter().filter(|(_, cluster)| by_eds(cluster)).map(|(name, _)| name.clone());
        let asked = self.name(Kind::Endpoints, named.collect()).await;
        if !asked && !awaited.is_empty() && self.client.channel().variant == Variant::Sotw {
            let again = self.client.request(Kind::Endpoints);
            self.client.send(again).await;
        }
        let mut awaited = awaited;
        if let Some(warming) = self.warming.take() {
            awaited.extend(warming.awaited.into_iter().filter(|name| held.contains_key(name)));
        }
        if awaited.is_empty() {
            self.warmed(response).await;
        } else {
            self.warming = Some(Warming { clusters: response.clone(), awaited });
        }
    }

    /// The clusters are there: they are acknowledged, and the first time the listeners are asked for (2).
    async fn warmed(&mut self, clusters: &Response) {
        self.client.ack(clusters).await;
        if !self.client.asks(Kind::Listener) {
            self.client.ask_all(Kind::Listener).await;
        }
    }

    /// Makes these the names that are asked for. Whether that said anything.
    async fn name(&mut self, kind: Kind, wanted: BTreeSet<String>) -> bool {
        let named = self.client.names(kind);
        let new: Vec<&str> = wanted.difference(&named).map(String::as_str).collect();
        let old: Vec<&str> = named.difference(&wanted).map(String::as_str).collect();
        if new.is_empty() && old.is_empty() {
            return false;
        }
        self.client.change(kind, &new, &old).await;
        true
    }
}

/// What a client had before a response.
#[derive(Debug)]
pub struct Held {
    clusters: std::collections::BTreeMap<String, Payload>,
}

/// Whether the client has everything of this world; perhaps more, and perhaps not in the latest version.
pub fn has_all(client: &Client<'_>, world: &World) -> bool {
    Kind::ALL.iter().all(|kind| world.names(*kind).iter().all(|name| client.holds(*kind, name)))
}

fn by_eds(cluster: &Payload) -> bool {
    let cluster = Cluster::decode(cluster.body.as_slice()).expect("checked when it came");
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()))
}
