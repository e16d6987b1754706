//! A scripted xDS client: it does what the script says and nothing by itself, but keeps what a proxy would.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;

use super::Subject;
use super::response::{Payload, Response, checked};
use super::wire::{Channel, Request, Responses, Variant, open};
use super::world::Kind;

/// Within this time a response comes or does not come at all.
pub const SOON: Duration = Duration::from_secs(30);
/// Requests that may wait for the network.
const OUTGOING: usize = 64;

/// What a client keeps of one type.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscription {
    pub(super) names: BTreeSet<String>,
    /// The nonce of the latest response.
    nonce: String,
    nonces: BTreeSet<String>,
    /// The version of the latest response.
    version: String,
    /// The version of the latest accepted response.
    accepted: String,
    /// What was refused, in which version of its own, and with which words.
    refused: BTreeMap<String, (String, String)>,
    held: BTreeMap<String, Payload>,
}

/// What a client keeps from one stream to the next.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    versions: BTreeMap<Kind, String>,
    held: BTreeMap<Kind, BTreeMap<String, Payload>>,
}

impl Memory {
    /// What it had of a type.
    pub fn held(&self, kind: Kind) -> BTreeMap<String, Payload> {
        self.held.get(&kind).cloned().unwrap_or_default()
    }

    /// The names of that.
    pub fn names(&self, kind: Kind) -> Vec<&str> {
        self.held.get(&kind).map(|held| held.keys().map(String::as_str).collect()).unwrap_or_default()
    }
}

/// One stream. It ends with its client.
pub struct Client<'s> {
    subject: &'s dyn Subject,
    channel: Channel,
    requests: mpsc::Sender<Request>,
    responses: Responses,
    /// Until it was sent (1).
    node: Option<Node>,
    kinds: BTreeMap<Kind, Subscription>,
}

impl<'s> Client<'s> {
    /// Connects and opens a stream, on which nothing is said yet.
    pub async fn connect(subject: &'s dyn Subject, channel: Channel) -> Self {
        let (requests, outgoing) = mpsc::channel(OUTGOING);
        let responses = open(subject.address(), channel, outgoing).await;
        let node = Some(subject.node());
        Self { subject, channel, requests, responses, node, kinds: BTreeMap::new() }
    }

    /// The way it asks.
    pub const fn channel(&self) -> Channel {
        self.channel
    }

    pub(super) fn of(&mut self, kind: Kind) -> &mut Subscription {
        self.kinds.entry(kind).or_default()
    }

    /// What it was sent of a type, as a proxy would have it: complete responses replace, others add.
    pub fn held(&self, kind: Kind) -> BTreeMap<String, Payload> {
        self.kinds.get(&kind).map(|state| state.held.clone()).unwrap_or_default()
    }

    /// Whether it has this resource.
    pub fn holds(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|state| state.held.contains_key(name))
    }

    /// Takes names that [`Self::send`] asked for among those that acknowledgements repeat.
    pub fn note(&mut self, kind: Kind, names: &[&str]) {
        self.of(kind).names.extend(names.iter().map(ToString::to_string));
    }

    /// The names it asks for.
    pub fn names(&self, kind: Kind) -> BTreeSet<String> {
        self.kinds.get(&kind).map(|state| state.names.clone()).unwrap_or_default()
    }

    /// Whether it has asked for this type.
    pub fn asks(&self, kind: Kind) -> bool {
        self.kinds.contains_key(&kind)
    }

    /// What it would bring to another stream.
    pub fn memory(&self) -> Memory {
        let versions = self.kinds.iter().map(|(kind, state)| (*kind, state.accepted.clone())).collect();
        let held = self.kinds.iter().map(|(kind, state)| (*kind, state.held.clone())).collect();
        Memory { versions, held }
    }

    /// A request with the latest nonce and, in state of the world, all names and the version in use: an
    /// acknowledgement that changes nothing.
    pub fn request(&mut self, kind: Kind) -> Request {
        let (subject, sotw) = (self.subject, self.channel.variant == Variant::Sotw);
        let state = self.of(kind);
        let mut request =
            Request { type_url: kind.url().to_owned(), nonce: state.nonce.clone(), ..Request::default() };
        if sotw {
            request.names = state.names.iter().map(|name| on_the_wire(subject, kind, name)).collect();
            request.version.clone_from(&state.accepted);
        }
        request
    }

    /// Names as the server knows them.
    pub fn wire_names(&self, kind: Kind, names: &[&str]) -> Vec<String> {
        names.iter().map(|name| on_the_wire(self.subject, kind, name)).collect()
    }

    /// Sends a request as it is, after the node if the stream had none yet. False once the stream has ended.
    pub async fn send(&mut self, mut request: Request) -> bool {
        if let Some(node) = self.node.take() {
            request.node.get_or_insert(node);
        }
        self.requests.send(request).await.is_ok()
    }

    /// Makes the first request go without a node (1), or with another.
    pub fn set_node(&mut self, node: Option<Node>) {
        self.node = node;
    }

    /// Asks for everything as proxies do: a first request without names, the legacy wildcard (7).
    pub async fn ask_all(&mut self, kind: Kind) {
        let request = self.request(kind);
        self.send(request).await;
    }

    /// Adds names, of which `*` is the wildcard.
    pub async fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        self.change(kind, names, &[]).await;
    }

    /// Drops names.
    pub async fn unsubscribe(&mut self, kind: Kind, names: &[&str]) {
        self.change(kind, &[], names).await;
    }

    /// Adds and drops names in one request.
    pub async fn change(&mut self, kind: Kind, add: &[&str], drop: &[&str]) {
        let state = self.of(kind);
        state.names.extend(add.iter().map(ToString::to_string));
        state.names.retain(|name| !drop.contains(&name.as_str()));
        let mut request = self.request(kind);
        if self.channel.variant == Variant::Delta {
            // A nonce on a request answers a response, which this is not.
            request.nonce.clear();
            request.subscribe = self.wire_names(kind, add);
            request.unsubscribe = self.wire_names(kind, drop);
        }
        self.send(request).await;
    }

    /// Asks on a new stream with what an earlier one brought (13): the versions, and these names; without any,
    /// for everything.
    pub async fn resume(&mut self, kind: Kind, names: &[&str], memory: &Memory) {
        let state = self.of(kind);
        state.names.extend(names.iter().map(ToString::to_string));
        state.accepted = memory.versions.get(&kind).cloned().unwrap_or_default();
        state.held = memory.held.get(&kind).cloned().unwrap_or_default();
        let held = state.held.clone();
        let mut request = self.request(kind);
        if self.channel.variant == Variant::Delta {
            request.subscribe = self.wire_names(kind, names);
            let versions = held
                .into_iter()
                .map(|(name, payload)| (on_the_wire(self.subject, kind, &name), payload.version));
            request.initial = versions.collect::<HashMap<_, _>>();
        }
        self.send(request).await;
    }

    /// Accepts a response.
    pub async fn ack(&mut self, response: &Response) {
        let state = self.of(response.kind);
        state.accepted.clone_from(&response.version);
        state.refused.retain(|name, _| !response.has(name));
        let mut request = self.request(response.kind);
        request.nonce.clone_from(&response.nonce);
        self.send(request).await;
    }

    /// Refuses a response. The version in use stays that of the latest accepted one.
    pub async fn nack(&mut self, response: &Response, why: &str) {
        let named = |name: &str| why.contains(&on_the_wire(self.subject, response.kind, name));
        let is_one_named = response.resources.keys().any(|name| named(name));
        let refused = response.resources.iter().filter(|(name, _)| !is_one_named || named(name));
        let refused: Vec<_> = refused.map(|(name, of)| (name.clone(), of.version.clone())).collect();
        let of = refused.into_iter().map(|(name, version)| (name, (version, why.to_owned())));
        self.kinds.entry(response.kind).or_default().refused.extend(of);
        let mut request = self.request(response.kind);
        request.nonce.clone_from(&response.nonce);
        request.error = Some(why.to_owned());
        self.send(request).await;
    }

    /// The next response, of whatever type.
    #[track_caller]
    pub fn expect_any(&mut self) -> impl Future<Output = Response> {
        self.receive(Location::caller())
    }

    /// The next response, which must be of this type.
    #[track_caller]
    pub fn expect(&mut self, kind: Kind) -> impl Future<Output = Response> {
        self.receive_of(kind, Location::caller())
    }

    /// The next response, which must be of this type, accepted.
    #[track_caller]
    pub fn take(&mut self, kind: Kind) -> impl Future<Output = Response> {
        let caller = Location::caller();
        async move {
            let response = self.receive_of(kind, caller).await;
            self.ack(&response).await;
            response
        }
    }

    pub(super) async fn receive(&mut self, caller: &Location<'_>) -> Response {
        let next = async {
            loop {
                let response = match self.responses.recv().await {
                    Some(Ok(message)) => message,
                    Some(Err(status)) => panic!("{caller}: the stream ended with {status:?}"),
                    None => panic!("{caller}: the stream ended"),
                };
                let before = self.kinds.get(&Kind::Extension).filter(|of| !of.refused.is_empty()).cloned();
                let mut response = self.take_in(response);
                let attempts = other_attempts(before, &response, self.channel.variant);
                let Some(why) =
                    attempts.values().next().filter(|_| attempts.len() == response.resources.len())
                else {
                    // What comes beside an attempt is what the script is about.
                    response.resources.retain(|name, _| !attempts.contains_key(name));
                    return response;
                };
                self.nack(&response, why).await;
            }
        };
        timeout(SOON, next).await.unwrap_or_else(|late| panic!("{caller}: no response: {late}"))
    }

    async fn receive_of(&mut self, kind: Kind, caller: &Location<'_>) -> Response {
        let response = self.receive(caller).await;
        assert_eq!(response.kind, kind, "{caller}: not expected: `{}`", response.in_short());
        response
    }

    /// The end of the stream, after whatever else comes.
    #[track_caller]
    pub fn end(&mut self, within: Duration) -> impl Future<Output = Status> {
        let caller = Location::caller();
        async move {
            let end = async {
                loop {
                    match self.responses.recv().await {
                        Some(Ok(_)) => {}
                        Some(Err(status)) => return status,
                        None => return Status::ok("the stream ended"),
                    }
                }
            };
            match timeout(within, end).await {
                Ok(status) => status,
                Err(late) => panic!("{caller}: the stream did not end within {within:?}: {late}"),
            }
        }
    }

    /// A response that is there or comes within `quiet`: for the few places where no request can be a fence.
    pub async fn within(&mut self, quiet: Duration) -> Option<Response> {
        match timeout(quiet, self.responses.recv()).await {
            Ok(Some(Ok(message))) => Some(self.take_in(message)),
            Ok(Some(Err(status))) => panic!("the stream ended with {status:?}"),
            Ok(None) => panic!("the stream ended"),
            Err(_) => None,
        }
    }

    /// All responses up to a time of `quiet`, none of them answered; or the status with which the stream ended.
    pub async fn drain(&mut self, quiet: Duration) -> Result<Vec<Response>, Status> {
        let mut came = Vec::new();
        while let Ok(response) = timeout(quiet, self.responses.recv()).await {
            let message = response.unwrap_or_else(|| Err(Status::unavailable("the stream ended")))?;
            came.push(self.take_in(message));
        }
        Ok(came)
    }

    fn take_in(&mut self, message: super::wire::Message) -> Response {
        let kinds = &self.kinds;
        let seen = |kind: Kind, nonce: &str| match kinds.get(&kind) {
            Some(state) => state.nonces.contains(nonce),
            None => panic!("nobody asked for {kind} (26)"),
        };
        let held = |kind: Kind, name: &str| {
            kinds.get(&kind).and_then(|state| Some(state.held.get(name)?.version.clone()))
        };
        let response = checked(message, self.channel, self.subject, &seen, &held);
        let replaces = self.channel.variant == Variant::Sotw && response.kind.is_whole();
        let state = self.of(response.kind);
        state.nonce.clone_from(&response.nonce);
        state.nonces.insert(response.nonce.clone());
        state.version.clone_from(&response.version);
        if replaces {
            state.held.clear();
        }
        state.held.extend(response.resources.clone());
        state.held.retain(|name, _| !response.removed.contains(name));
        response
    }
}

/// What of a response are filters in the versions that were refused before, and with which words: code that could not be loaded
/// may be there later, so a server may try them again, as other payloads (19).
fn other_attempts(
    before: Option<Subscription>,
    response: &Response,
    variant: Variant,
) -> BTreeMap<String, String> {
    let Some(before) = before.filter(|_| response.kind == Kind::Extension) else { return BTreeMap::new() };
    let again = |(name, now): (&String, &Payload)| {
        let (version, why) = before.refused.get(name)?;
        // In state of the world a version is of all there is.
        let is_same = match variant {
            Variant::Delta => now.version == *version,
            Variant::Sotw => response.version == before.version,
        };
        let is_other = before.held.get(name).is_some_and(|held| held.body != now.body);
        (is_same && is_other).then(|| (name.clone(), why.clone()))
    };
    response.resources.iter().filter_map(again).collect()
}

fn on_the_wire(subject: &dyn Subject, kind: Kind, name: &str) -> String {
    if name == "*" { name.to_owned() } else { subject.wire_name(kind, name) }
}
