//! The server under test, and the runs of a script over its services and variants.

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;

use super::client::Client;
use super::proxy::Proxy;
use super::wire::{Channel, Service, Variant};
use super::world::{Kind, World};

/// An xDS server and the way to tell it what to serve: all that is known of an implementation.
pub trait Subject {
    /// Where it listens, without TLS.
    fn address(&self) -> SocketAddr;

    /// Makes it serve this world, and nothing besides, to every client that connects from now on. None is
    /// connected, or all are about to be gone.
    fn begin(&self, world: &World);

    /// Makes it serve another world to the clients that are there. Returns once the server has taken it; clients
    /// are told soon after.
    fn show(&self, world: &World);

    /// The name on the wire of what scripts call `name`.
    fn wire_name(&self, kind: Kind, name: &str) -> String {
        let _ = kind;
        name.to_owned()
    }

    /// The reverse of `wire_name`; `None` for a resource that is none of a script's.
    fn script_name(&self, kind: Kind, name: &str) -> Option<String> {
        let _ = kind;
        Some(name.to_owned())
    }

    /// The names of two secrets that it has for them whatever the world; none if it serves no secrets.
    fn secrets(&self) -> Option<[&str; 2]> {
        None
    }

    /// The node that clients send.
    fn node(&self) -> Node {
        Node { id: "conformance".to_owned(), ..Node::default() }
    }

    /// The bounds it sets.
    fn limits(&self) -> Limits;
}

/// The bounds that a server sets for its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Resource names on one stream.
    pub names: usize,
    /// Bytes of one resource name.
    pub name_bytes: usize,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// From the opening of a stream to its first request.
    pub first_request: Duration,
    /// Responses in flight to a client that acknowledges none.
    pub unanswered: usize,
}

/// A server, and which of its services are under test in which variants.
pub struct Suite<'s> {
    /// The server.
    pub subject: &'s dyn Subject,
    /// Its services.
    pub services: &'s [Service],
    /// Their variants: scripts have no more than these.
    pub variants: &'s [Variant],
}

impl<'s> Suite<'s> {
    /// A script's runs over these variants and types: on the aggregated service one for each type, then on the
    /// services of these types.
    pub fn runs(&self, variants: &[Variant], kinds: &[Kind]) -> impl Iterator<Item = Run<'s>> {
        let mut runs = Vec::new();
        for &service in self.services {
            for &variant in variants.iter().filter(|variant| self.variants.contains(variant)) {
                let channel = Channel { service, variant };
                let kinds = kinds.iter().filter(|kind| match service {
                    Service::Aggregated => true,
                    Service::Single(single) => single == **kind,
                });
                runs.extend(kinds.map(|&kind| (channel, kind)));
            }
        }
        let subject = self.subject;
        runs.into_iter().map(move |(channel, kind)| Run { subject, channel, kind })
    }

    /// A script's runs where several types share a stream, so on the aggregated service alone.
    pub fn aggregated(&self, variants: &[Variant]) -> impl Iterator<Item = Run<'s>> {
        let runs = self.runs(variants, &[Kind::Cluster]);
        runs.filter(|run| run.channel.service == Service::Aggregated)
    }
}

/// One run of a script: a server, a channel, and the type that the script is about. Says on a panic which it was.
pub struct Run<'s> {
    /// The server.
    pub subject: &'s dyn Subject,
    /// How the script's clients ask.
    pub channel: Channel,
    /// The type it is about.
    pub kind: Kind,
}

impl<'s> Run<'s> {
    /// Shows the world that clients are to find. There are none yet, or none any more.
    pub fn begin(&self, world: &World) {
        self.subject.begin(world);
    }

    /// Begins with a world that has resources of these names.
    pub fn begin_with(&self, names: &[&str]) -> World {
        let world = World::of(self.kind, names);
        self.begin(&world);
        world
    }

    /// Shows another world to clients that are there.
    pub fn show(&self, world: &World) {
        self.subject.show(world);
    }

    /// Changes this resource, and shows it.
    #[track_caller]
    pub fn change(&self, world: &mut World, name: &str) {
        world.change(self.kind, name);
        self.show(world);
    }

    /// A client that has said nothing yet.
    pub async fn connect(&self) -> Client<'s> {
        Client::connect(self.subject, self.channel).await
    }

    /// A client that asked for these names and has acknowledged them.
    pub async fn subscribed(&self, names: &[&str]) -> Client<'s> {
        let mut client = self.connect().await;
        client.subscribe(self.kind, names).await;
        while !names.iter().all(|name| client.holds(self.kind, name)) {
            client.take(self.kind).await;
        }
        client
    }

    /// A client that asked for everything and has acknowledged it.
    pub async fn subscribed_to_all(&self) -> Client<'s> {
        let mut client = self.connect().await;
        client.ask_all(self.kind).await;
        client.take(self.kind).await;
        client
    }

    /// A proxy that has all of this world.
    pub async fn proxy(&self, world: &World) -> Proxy<'s> {
        Proxy::started(self.connect().await, world).await
    }
}

impl fmt::Display for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.channel, self.kind)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("this run: {self}");
        }
    }
}
