//! The server against a scripted proxy. A test's number is that of the protocol's statement it holds us to:
//! 4-8 state of the world, 9-16 delta, 17-21 refusals, 22 order, 23 silence.

mod credentials;
mod delta;
mod envoy;
mod filters;
mod hold;
mod listener;
mod loopback;
mod on_demand;
mod order;
mod pace;
mod random;
mod refusal;
mod runtime;
mod secrets;
mod sotw;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::bounds::StreamError;
use super::budget::Account;
use super::message::{Asks, Request, Response, Texts, Variant};
use super::stream::Stream;
use super::{Resource, ResourceSet, ResourceType, Snapshot};
use ResourceType::{Cluster, Endpoints, Extension, Listener, Runtime, Secret};

const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// Resources written as `name@version`.
fn set(resources: &[&str]) -> ResourceSet {
    ResourceSet::new(resources.iter().map(|text| {
        let (name, version) = text.split_once('@').unwrap();
        Arc::new(Resource::encoded(Cluster.url(), name.into(), version.into(), text.as_bytes()))
    }))
}

/// The set of these, of which the wildcard covers `eager`. A name in both is eager.
fn with_on_demand(eager: Vec<Arc<Resource>>, on_demand: Vec<Arc<Resource>>) -> ResourceSet {
    let on_demand = on_demand.into_iter().map(|resource| Arc::new(Resource::clone(&resource).on_demand()));
    ResourceSet::new(on_demand.chain(eager))
}

fn snapshot(clusters: &[&str], endpoints: &[&str], listeners: &[&str], extensions: &[&str]) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(set(clusters), set(endpoints), set(listeners), set(extensions)))
}

/// `kind: resources -removed` of each response, as one reads a trace.
fn trace(responses: &[Response]) -> Vec<String> {
    let one = |response: &Response| {
        let mut words = vec![format!("{}:", response.kind.label())];
        words.extend(response.resources.iter().map(|r| format!("{}@{}", r.name(), r.version())));
        words.extend(response.removed.iter().map(|name| format!("-{name}")));
        words.join(" ")
    };
    responses.iter().map(one).collect()
}

/// A proxy that speaks either variant.
struct Proxy {
    stream: Stream,
    variant: Variant,
    now: Instant,
    /// Its names by type, which state of the world repeats in every request.
    names: BTreeMap<ResourceType, Vec<String>>,
    last: BTreeMap<ResourceType, String>,
}

impl Proxy {
    fn new(variant: Variant, wanted: &Arc<Snapshot>) -> Self {
        let now = Instant::now();
        let stream = Stream::new(variant, true, Arc::clone(wanted), Arc::default(), &Account::default(), now);
        Self { stream, variant, now, names: BTreeMap::new(), last: BTreeMap::new() }
    }

    fn send(&mut self, kind: ResourceType, nonce: &str, error: Option<&str>, asks: Asks) -> Vec<Response> {
        let error = error.map(str::to_owned);
        let request = Request { kind, nonce: nonce.to_owned(), error, asks };
        let (responses, _) = self.stream.on_request(request, self.now, SystemTime::now()).unwrap();
        self.seen(responses)
    }

    fn seen(&mut self, responses: Vec<Response>) -> Vec<Response> {
        for response in &responses {
            self.last.insert(response.kind, response.nonce.clone());
        }
        responses
    }

    fn all(&self, kind: ResourceType) -> Asks {
        Asks::All { names: self.names.get(&kind).into_iter().flatten().collect(), version: String::new() }
    }

    /// Asks for `names` besides what it asks for already; for nothing = the legacy wildcard.
    fn ask(&mut self, kind: ResourceType, names: &[&str]) -> Vec<Response> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.names.entry(kind).or_default().extend(names.iter().cloned());
        let nonce = match self.variant {
            Variant::Sotw => self.last.get(&kind).cloned().unwrap_or_default(),
            Variant::Delta => String::new(),
        };
        let asks = match self.variant {
            Variant::Sotw => self.all(kind),
            Variant::Delta => subscribe(&names),
        };
        self.send(kind, &nonce, None, asks)
    }

    fn answer(&mut self, response: &Response, error: Option<&str>) -> Vec<Response> {
        let asks = match self.variant {
            Variant::Sotw => self.all(response.kind),
            Variant::Delta => subscribe(&[]),
        };
        self.send(response.kind, &response.nonce, error, asks)
    }

    fn ack(&mut self, response: &Response) -> Vec<Response> {
        self.answer(response, None)
    }

    /// Acknowledges everything until nothing more comes; returns all that came.
    fn settle(&mut self, responses: Vec<Response>) -> Vec<Response> {
        let mut queue: std::collections::VecDeque<_> = responses.into();
        let mut came = Vec::new();
        while let Some(response) = queue.pop_front() {
            assert!(came.len() < 1_000, "no end of responses");
            queue.extend(self.ack(&response));
            came.push(response);
        }
        came
    }

    fn want(&mut self, wanted: &Arc<Snapshot>) -> Vec<Response> {
        let responses = self.stream.on_snapshot(Arc::clone(wanted), self.now);
        self.seen(responses)
    }

    fn wait(&mut self, time: Duration) -> Vec<Response> {
        self.now += time;
        let responses = self.stream.tick(self.now);
        self.seen(responses)
    }

    /// Starts as Envoy does: CDS, EDS for its clusters, then LDS, then ECDS, and settles.
    fn started(variant: Variant, wanted: &Arc<Snapshot>) -> Self {
        let mut proxy = Self::new(variant, wanted);
        let clusters = proxy.ask(Cluster, &[]);
        let endpoints: Vec<&str> = wanted.of(Endpoints).iter().map(|r| &**r.name()).collect();
        let mut came = proxy.ask(Endpoints, &endpoints);
        came.extend(clusters);
        proxy.settle(came);
        let came = proxy.ask(Listener, &[]);
        proxy.settle(came);
        let extensions: Vec<&str> = wanted.of(Extension).iter().map(|r| &**r.name()).collect();
        let came = proxy.ask(Extension, &extensions);
        proxy.settle(came);
        assert_eq!(proxy.stream.sync(), super::SyncState::Synced);
        proxy
    }
}

fn subscribe(names: &[String]) -> Asks {
    Asks::Change {
        subscribe: names.iter().collect(),
        unsubscribe: Texts::default(),
        initial: Texts::default(),
    }
}

fn unsubscribe(names: &[&str]) -> Asks {
    let unsubscribe = names.iter().collect();
    Asks::Change { subscribe: Texts::default(), unsubscribe, initial: Texts::default() }
}

fn again(subscribe: &[&str], initial: &[(&str, &str)]) -> Asks {
    Asks::Change {
        subscribe: subscribe.iter().collect(),
        unsubscribe: Texts::default(),
        initial: initial.iter().flat_map(|(name, version)| [name, version]).collect(),
    }
}

#[test]
fn names_are_bounded() {
    let wanted = snapshot(&[], &[], &[], &[]);
    let mut stream =
        Stream::new(Variant::Delta, true, wanted, Arc::default(), &Account::default(), Instant::now());
    let names = |count: usize, length: usize| {
        subscribe(&(0..count).map(|i| format!("{i:0length$}")).collect::<Vec<_>>())
    };
    let mut ask = |asks| {
        let request = Request { kind: Endpoints, nonce: String::new(), error: None, asks };
        stream.on_request(request, Instant::now(), SystemTime::now()).map(|_| ())
    };
    assert_eq!(ask(names(1, 1_025)), Err(StreamError::NameTooLong));
    assert_eq!(ask(names(40_000, 8)), Ok(()));
    assert_eq!(ask(names(65_537, 9)), Err(StreamError::TooManyNames));
    assert_eq!(ask(names(40_000, 9)), Err(StreamError::TooManyNames));
}

#[test]
fn short_names_are_counted_for_what_keeping_them_takes() {
    let account = Account::default();
    let mut kept = account.keep();
    // All that a connection may have, but for a megabyte.
    assert!(kept.count(15 << 20));
    let wanted = snapshot(&[], &[], &[], &[]);
    let mut stream = Stream::new(Variant::Delta, true, wanted, Arc::default(), &account, Instant::now());
    let asks = subscribe(&(0..10_000).map(|i| i.to_string()).collect::<Vec<_>>());
    let request = Request { kind: Endpoints, nonce: String::new(), error: None, asks };
    let taken = stream.on_request(request, Instant::now(), SystemTime::now());
    assert_eq!(taken.map(|_| ()), Err(StreamError::TooMuch));
}

#[test]
fn names_that_come_and_go_unanswered_are_bounded() {
    let wanted = snapshot(&["a@1"], &[], &[], &[]);
    let mut stream =
        Stream::new(Variant::Delta, true, wanted, Arc::default(), &Account::default(), Instant::now());
    let mut ask = |subscribe: &[String], unsubscribe: &[String]| {
        let (subscribe, unsubscribe) = (subscribe.iter().collect(), unsubscribe.iter().collect());
        let asks = Asks::Change { subscribe, unsubscribe, initial: Texts::default() };
        let request = Request { kind: Cluster, nonce: String::new(), error: None, asks };
        stream.on_request(request, Instant::now(), SystemTime::now()).map(|_| ())
    };
    assert_eq!(ask(&[], &[]), Ok(()));
    let end = (0..100).find_map(|round| {
        let names: Vec<_> = (0..1_000).map(|i| format!("{round}-{i}")).collect();
        ask(&names, &names).err()
    });
    assert_eq!(end, Some(StreamError::TooManyNames));
}

#[test]
fn nothing_is_sent_before_the_first_snapshot_is_complete() {
    for variant in BOTH {
        let mut proxy = Proxy::new(variant, &Arc::default());
        assert!(proxy.ask(Cluster, &[]).is_empty());
        assert_eq!(trace(&proxy.want(&snapshot(&[], &[], &[], &[]))), ["cds:"]);
    }
}
