//! One simulated proxy: what it holds, and what it asks when a response is complete. Knows no network.
//!
//! As an Envoy does: clusters first, all of them; the endpoints of those that want them as they come; listeners
//! only when clusters and endpoints are there; then the filter configurations that the listeners name. On a new
//! stream it says what it has. Every response is acknowledged.

use std::mem::take;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use prost::Message;

use super::catalogue::{ByKind, Catalogue, Kind, NameId, VersionId};
use super::reader::Piece;

/// What a proxy has of a name, in one number, since there are tens of millions of them: not asked for.
const UNASKED: u32 = 0;
/// Asked for, not answered.
const ASKED: u32 = 1;
/// Answered: there is none.
const ABSENT: u32 = 2;
/// Version 0; the others follow.
const FIRST: u32 = 3;

/// Which change is waited for: of this resource, of any of a type, or any at all.
#[derive(Clone, Copy, Debug)]
pub(super) enum Watched {
    Any,
    Kind(Kind),
    Resource(Kind, NameId),
}

impl Watched {
    fn is(self, kind: Kind, name: NameId) -> bool {
        match self {
            Self::Any => true,
            Self::Kind(of) => of == kind,
            Self::Resource(of, only) => of == kind && only == name,
        }
    }
}

/// A proxy.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    types: ByKind<OfType>,
    response: Response,
}

#[derive(Debug, Default)]
struct OfType {
    /// By number of the name.
    held: Vec<u32>,
    asked: bool,
    answered: bool,
    /// Names that are asked for and not answered.
    waiting: usize,
}

/// A response as far as it has arrived.
#[derive(Debug, Default)]
struct Response {
    kind: Option<Kind>,
    nonce: String,
    removed: Vec<String>,
    /// Names of the next type that are needed from now on, and those that may not be any longer.
    brought: Vec<NameId>,
    dropped: Vec<NameId>,
    /// Whether the change that is waited for is in it.
    watched: bool,
}

/// What comes of a complete response.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The acknowledgement, then what is asked next.
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
    /// Whether the change that is waited for was in it.
    pub(super) watched: bool,
}

impl Proxy {
    /// What it sends on a new stream: requests in two parts each, the first with the node of the first request.
    pub(super) fn hello(&mut self, node: Node, catalogue: &mut Catalogue) -> Vec<[Bytes; 2]> {
        self.response = Response::default();
        self.types.of_mut(Kind::Cds).asked = true;
        let mut node = Some(node);
        let asked = Kind::ALL.into_iter().filter(|kind| self.types.of(*kind).asked);
        asked
            .map(|kind| {
                let first = DeltaDiscoveryRequest { node: node.take(), ..Default::default() };
                [first.encode_to_vec().into(), self.types.of(kind).hello(kind, catalogue)]
            })
            .collect()
    }

    /// Takes a piece of a response; the last gives an outcome.
    pub(super) fn take(
        &mut self,
        piece: Piece<'_>,
        catalogue: &mut Catalogue,
        watched: Option<Watched>,
    ) -> Option<Outcome> {
        match piece {
            Piece::Resource(resource) => {
                if let Some(kind) = Kind::of_url(resource.type_url) {
                    let (name, version) = catalogue.resource(kind, &resource);
                    self.holds(kind, name, version + FIRST, catalogue, watched);
                }
            }
            Piece::Type(url) => self.response.kind = Kind::of_url(url),
            Piece::Nonce(nonce) => nonce.clone_into(&mut self.response.nonce),
            Piece::Removed(name) => self.response.removed.push(name.to_owned()),
            Piece::End => return Some(self.complete(catalogue, watched)),
        }
        None
    }

    /// Whether it has been told all that it asked for.
    pub(super) fn is_synced(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.types.of(kind).waiting == 0)
            && self.types.of(Kind::Cds).answered
            && self.types.of(Kind::Lds).answered
    }

    fn complete(&mut self, catalogue: &mut Catalogue, watched: Option<Watched>) -> Outcome {
        let mut response = take(&mut self.response);
        // A type that nobody asked for is not acknowledged: the server shows a fault.
        let Some(kind) = response.kind else { return Outcome::default() };
        self.types.of_mut(kind).answered = true;
        self.response.brought = take(&mut response.brought);
        self.response.dropped = take(&mut response.dropped);
        self.response.watched = response.watched;
        for name in &response.removed {
            let name = catalogue.name(kind, name);
            let now = if kind.brings().is_some() { UNASKED } else { ABSENT };
            self.holds(kind, name, now, catalogue, watched);
        }
        let Response { brought, dropped, watched, .. } = take(&mut self.response);
        let ack = DeltaDiscoveryRequest { response_nonce: response.nonce, ..request(kind) };
        let mut outcome = Outcome { requests: vec![ack], watched };
        if let Some(next) = kind.brings() {
            outcome.requests.extend(self.subscribe(kind, next, &brought, &dropped, catalogue));
        }
        let clusters_ready = self.types.of(Kind::Cds).answered && self.types.of(Kind::Eds).waiting == 0;
        let listeners = self.types.of_mut(Kind::Lds);
        if clusters_ready && !listeners.asked {
            listeners.asked = true;
            outcome.requests.push(request(Kind::Lds));
        }
        outcome
    }

    fn holds(&mut self, kind: Kind, name: NameId, now: u32, catalogue: &Catalogue, watched: Option<Watched>) {
        let before = self.types.of_mut(kind).set(name, now);
        if before == now {
            return;
        }
        self.response.watched |= watched.is_some_and(|watched| watched.is(kind, name));
        if let Some(version) = version(now) {
            self.response.brought.extend_from_slice(catalogue.brings(kind, name, version));
        }
        if let Some(version) = version(before) {
            self.response.dropped.extend_from_slice(catalogue.brings(kind, name, version));
        }
    }

    /// Asks for what is new among `brought`, and no longer for what nothing brings any more.
    fn subscribe(
        &mut self,
        kind: Kind,
        next: Kind,
        brought: &[NameId],
        dropped: &[NameId],
        catalogue: &Catalogue,
    ) -> Option<DeltaDiscoveryRequest> {
        let mut request = request(next);
        let text = |name: NameId| catalogue.text_of_name(next, name).to_owned();
        for name in brought {
            let names = self.types.of_mut(next);
            if names.get(*name) == UNASKED {
                names.set(*name, ASKED);
                request.resource_names_subscribe.push(text(*name));
            }
        }
        for name in dropped {
            let held = &self.types.of(kind).held;
            let brings = |(of, held): (NameId, &u32)| {
                version(*held).is_some_and(|v| catalogue.brings(kind, of, v).contains(name))
            };
            if brought.contains(name) || held.iter().enumerate().any(brings) {
                continue;
            }
            if self.types.of_mut(next).set(*name, UNASKED) != UNASKED {
                request.resource_names_unsubscribe.push(text(*name));
            }
        }
        self.types.of_mut(next).asked |= !request.resource_names_subscribe.is_empty();
        let says =
            !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        says.then_some(request)
    }
}

impl OfType {
    fn get(&self, name: NameId) -> u32 {
        self.held.get(name).copied().unwrap_or(UNASKED)
    }

    /// What it was before.
    fn set(&mut self, name: NameId, now: u32) -> u32 {
        if self.held.len() <= name {
            self.held.resize(name + 1, UNASKED);
        }
        let before = self.get(name);
        self.waiting += usize::from(now == ASKED && before != ASKED);
        self.waiting -= usize::from(before == ASKED && now != ASKED);
        if let Some(held) = self.held.get_mut(name) {
            *held = now;
        }
        before
    }

    /// Encoded once for all proxies that hold the same: a fleet that returns at once should not be what is slow.
    fn hello(&self, kind: Kind, catalogue: &mut Catalogue) -> Bytes {
        if let Some(hello) = catalogue.hello(kind, &self.held) {
            return hello;
        }
        let hello = Bytes::from(self.request_all(kind, catalogue).encode_to_vec());
        catalogue.keep_hello(kind, &self.held, hello.clone());
        hello
    }

    fn request_all(&self, kind: Kind, catalogue: &Catalogue) -> DeltaDiscoveryRequest {
        let mut hello = request(kind);
        for (name, held) in self.held.iter().enumerate().filter(|(_, held)| **held != UNASKED) {
            let text = catalogue.text_of_name(kind, name);
            if let Some(version) = version(*held) {
                let version = catalogue.text_of_version(kind, name, version);
                hello.initial_resource_versions.insert(text.to_owned(), version.to_owned());
            }
            // All clusters and listeners are wanted, and saying no names means that.
            if kind.brings().is_none() {
                hello.resource_names_subscribe.push(text.to_owned());
            }
        }
        hello
    }
}

fn request(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.url().to_owned(), ..Default::default() }
}

fn version(held: u32) -> Option<VersionId> {
    held.checked_sub(FIRST)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use prost::Message;

    use super::super::catalogue::{Catalogue, Kind};
    use super::super::reader::{Piece, Resource};
    use super::{Outcome, Proxy, Watched};

    #[derive(Default)]
    struct Talk {
        proxy: Proxy,
        catalogue: Catalogue,
        watched: Option<Watched>,
    }

    impl Talk {
        fn answer(&mut self, kind: Kind, resources: &[(&str, &str)], removed: &[&str]) -> Outcome {
            let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
            let mut take = |piece: Piece<'_>| self.proxy.take(piece, &mut self.catalogue, self.watched);
            for (name, version) in resources {
                let body = Cluster {
                    name: (*name).to_owned(),
                    cluster_discovery_type: Some(eds.clone()),
                    ..Default::default()
                };
                let body = body.encode_to_vec();
                let resource = Resource { name, version, type_url: kind.url(), body: &body };
                assert!(take(Piece::Resource(resource)).is_none());
            }
            take(Piece::Type(kind.url()));
            take(Piece::Nonce("n"));
            for name in removed {
                take(Piece::Removed(name));
            }
            take(Piece::End).unwrap()
        }

        fn hello(&mut self) -> Vec<DeltaDiscoveryRequest> {
            let hello = self.proxy.hello(Node::default(), &mut self.catalogue);
            let decode =
                |parts: [Bytes; 2]| DeltaDiscoveryRequest::decode(parts.concat().as_slice()).unwrap();
            hello.into_iter().map(decode).collect()
        }
    }

    fn says(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
        let says = requests.iter().map(|r| {
            let kind = format!("{:?}", Kind::of_url(&r.type_url).unwrap());
            let mut text = if r.response_nonce.is_empty() { kind } else { format!("{kind} ack") };
            let mut versions: Vec<_> = r.initial_resource_versions.iter().collect();
            versions.sort();
            text.extend(r.resource_names_subscribe.iter().map(|n| format!(" +{n}")));
            text.extend(r.resource_names_unsubscribe.iter().map(|n| format!(" -{n}")));
            text.extend(versions.iter().map(|(n, v)| format!(" {n}={v}")));
            text
        });
        says.collect()
    }

    #[test]
    fn asks_in_the_order_of_an_envoy() {
        let mut talk = Talk::default();
        assert_eq!(says(&talk.hello()), ["Cds"]);
        let outcome = talk.answer(Kind::Cds, &[("a", "1"), ("b", "1")], &[]);
        assert_eq!(says(&outcome.requests), ["Cds ack", "Eds +a +b"]);
        assert_eq!(says(&talk.answer(Kind::Eds, &[("a", "1")], &[]).requests), ["Eds ack"]);
        assert_eq!(says(&talk.answer(Kind::Eds, &[], &["b"]).requests), ["Eds ack", "Lds"]);
        assert!(!talk.proxy.is_synced());
        assert_eq!(says(&talk.answer(Kind::Lds, &[], &[]).requests), ["Lds ack"]);
        assert!(talk.proxy.is_synced());
        assert_eq!(says(&talk.answer(Kind::Cds, &[], &["b"]).requests), ["Cds ack", "Eds -b"]);
        assert_eq!(says(&talk.answer(Kind::Cds, &[("a", "2")], &[]).requests), ["Cds ack"]);
        assert_eq!(says(&talk.hello()), ["Cds a=2", "Eds +a a=1", "Lds"]);
    }

    #[test]
    fn only_a_change_counts_as_one() {
        let mut talk = Talk::default();
        talk.hello();
        talk.answer(Kind::Cds, &[("a", "1"), ("b", "1")], &[]);
        talk.answer(Kind::Eds, &[("a", "1"), ("b", "1")], &[]);
        talk.watched = Some(Watched::Resource(Kind::Eds, talk.catalogue.name(Kind::Eds, "a")));
        assert!(!talk.answer(Kind::Eds, &[("a", "1"), ("b", "2")], &[]).watched);
        assert!(!talk.answer(Kind::Cds, &[("a", "2")], &[]).watched);
        assert!(talk.answer(Kind::Eds, &[("a", "2")], &[]).watched);
        assert!(talk.answer(Kind::Eds, &[], &["a"]).watched);
        talk.watched = Some(Watched::Kind(Kind::Eds));
        assert!(talk.answer(Kind::Eds, &[("b", "3")], &[]).watched);
    }
}
