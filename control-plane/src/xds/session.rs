//! One gRPC stream of one proxy: requests, snapshots and the clock around the pure [`Stream`].
//!
//! The session is the body of its response. It goes on when the connection has room for more: a slow proxy delays
//! itself alone, and gets the latest of everything when it reads again, not each step in between.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::watch;
use tonic::Status;

use super::end::{End, Fault};
use super::grpc::Messages;
use super::message::{Request, Response, Variant};
use super::node::{NodeError, user_agent};
use super::program::{OLDEST, Program};
use super::registry::{Connection, Peer};
use super::request::RawRequest;
use super::server::{Discovery, Shared};
use super::stream::Stream;
use super::wire::Outgoing;
use super::{ResourceType, Scope, Snapshot, listener};
use crate::telemetry::seldom::Seldom;

/// Envoy sends its node in the first packet; who opens a stream and says nothing is no proxy.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

pub(super) struct Session {
    shared: Arc<Shared>,
    method: Discovery,
    from: listener::Peer,
    requests: Messages,
    outgoing: Outgoing,
    /// Set by the first request.
    connected: Option<Connected>,
    /// Whether the last word is said.
    ended: bool,
}

struct Connected {
    connection: Connection,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    source_lives: bool,
    deadline: Option<Instant>,
    log: Seldom,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        method: Discovery,
        from: listener::Peer,
        requests: Messages,
    ) -> Self {
        let outgoing = Outgoing::new(method.variant);
        Self { shared, method, from, requests, outgoing, connected: None, ended: false }
    }

    /// The response's body.
    pub(super) fn into_body(self) -> impl http_body::Body<Data = Bytes, Error = Status> + Send {
        StreamBody::new(stream::unfold(Box::new(self), |mut session| async {
            let frame = session.frame().await?;
            Some((Ok(frame), session))
        }))
    }

    /// The next frame. It is asked for when the connection has taken the one before.
    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        self.writing(false);
        while !self.ended {
            match self.step().await {
                Ok(Some(piece)) => {
                    self.writing(true);
                    return Some(Frame::data(piece));
                }
                Ok(None) => {}
                Err(end) => {
                    self.ended = true;
                    self.note(&end);
                    return Some(end.trailers());
                }
            }
        }
        None
    }

    /// The next piece of what there is to send, or what is there to send next. The credential is asked for each piece: what is under
    /// way, too, is kept from a proxy that may not have it any more.
    async fn step(&mut self) -> Result<Option<Bytes>, End> {
        self.from.credential.check().map_err(Fault::Revoked)?;
        if let Some(piece) = self.outgoing.piece() {
            return Ok(Some(piece));
        }
        let responses = self.advance().await?;
        self.outgoing.push(responses);
        Ok(None)
    }

    fn writing(&self, writing: bool) {
        if let Some(connected) = &self.connected {
            connected.connection.writing(writing);
        }
    }

    fn note(&self, end: &End) {
        if let Some(connected) = &self.connected {
            // A proxy that is stopped breaks its stream off: the library's account of it is for debugging.
            tracing::debug!(node = connected.connection.id(), ?end, "stream ended");
        }
        if let End::Fault(fault) = end {
            self.shared.note(fault, self.from.address);
        }
        if let End::Fault(Fault::Credential(_) | Fault::Revoked(_)) = end {
            self.from.let_go();
        }
    }

    /// Waits for whatever comes next, and returns what follows from it. An error is the end of the stream;
    /// a proxy that closes its side ends it with `OK`.
    async fn advance(&mut self) -> Result<Vec<Response>, End> {
        let Some(connected) = &mut self.connected else { return self.connect().await };
        let shared = &self.shared;
        tokio::select! {
            message = self.requests.next() => {
                let request = decode(self.method, &message?.ok_or(End::Closed)?)?;
                Ok(connected.on_request(shared, self.method, request)?)
            }
            changed = connected.snapshots.changed(), if connected.source_lives => {
                connected.source_lives = changed.is_ok();
                Ok(connected.on_snapshot(shared))
            }
            () = sleep_until(connected.deadline) => Ok(connected.tick(shared)),
            () = self.from.turn.come() => Err(End::Stopping),
            refusal = self.from.credential.lost() => Err(Fault::Revoked(refusal).into()),
        }
    }

    async fn connect(&mut self) -> Result<Vec<Response>, End> {
        let first = tokio::select! {
            first = tokio::time::timeout(FIRST_REQUEST, self.requests.next()) => first,
            () = self.from.turn.come() => return Err(End::Stopping),
            refusal = self.from.credential.lost() => return Err(Fault::Revoked(refusal).into()),
        };
        let first = first.map_err(|_| Fault::Silent)??.ok_or(End::Closed)?;
        let mut request = decode(self.method, &first)?;
        let peer = self.peer(request.node.take())?;
        self.from.credential.claim(Arc::clone(&peer.scope)).map_err(Fault::from)?;
        let mut snapshots = if peer.program.is_unsupported() {
            let (version, (major, minor)) = (peer.program.version(), OLDEST);
            tracing::warn!(
                node = &*peer.id, address = %self.from.address, version,
                "Envoy not supported: it is sent nothing and keeps what it has; upgrade it to {major}.{minor} or newer"
            );
            // A snapshot that never comes.
            watch::channel(Arc::default()).1
        } else {
            self.shared.source.subscribe(&peer.scope).map_err(Fault::from)?
        };
        tracing::info!(node = &*peer.id, address = %self.from.address, "proxy connected");
        let wanted = Arc::clone(&snapshots.borrow_and_update());
        let names = Arc::clone(&self.shared.names);
        let aggregated = self.method.kind.is_none();
        let account = self.from.cut.account();
        let stream = Stream::new(self.method.variant, aggregated, wanted, names, account, Instant::now());
        let connected = self.connected.insert(Connected {
            connection: Connection::open(Arc::clone(&self.shared.registry), peer, stream),
            snapshots,
            source_lives: true,
            deadline: None,
            log: Seldom::default(),
        });
        Ok(connected.on_request(&self.shared, self.method, request)?)
    }

    fn peer(&self, node: Option<Node>) -> Result<Peer, Fault> {
        let node = node.ok_or(NodeError::Missing)?;
        let variant = match self.method.variant {
            Variant::Sotw => "sotw",
            Variant::Delta => "delta",
        };
        let state_of_the_world = self.method.variant == Variant::Sotw;
        let scope = Scope { state_of_the_world, ..Scope::from_node(&node)? };
        let (user_agent, program) = (user_agent(&node), Program::of(&node));
        let scope = Arc::new(scope);
        Ok(Peer {
            id: node.id.into(),
            counted: Some(self.shared.clients.enter(self.from.address.ip().into(), &scope)?),
            scope,
            address: Some(self.from.address),
            user_agent,
            program,
            variant,
            cut: self.from.cut.clone(),
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connected) = &self.connected {
            let (node, stream) = (connected.connection.id(), connected.connection.number());
            tracing::info!(node, stream, "proxy disconnected");
        }
    }
}

impl Connected {
    fn on_request(
        &mut self,
        shared: &Shared,
        method: Discovery,
        raw: RawRequest,
    ) -> Result<Vec<Response>, Fault> {
        let metrics = shared.registry.metrics();
        let url = raw.type_url.as_str();
        let kind = match (method.kind, ResourceType::from_url(url)) {
            (Some(own), _) if url.is_empty() => Some(own),
            (Some(own), Some(kind)) if own != kind => None,
            (_, kind) => kind,
        };
        let Some(kind) = kind else {
            metrics.unknown_type();
            if let Some(left_out) = self.log.now("unknown_type", Instant::now()) {
                let kind: String = url.chars().take(256).collect();
                tracing::warn!(
                    stream = self.connection.number(),
                    kind,
                    left_out,
                    "request for a type not served"
                );
            }
            return Ok(Vec::new());
        };
        let request = Request { kind, nonce: raw.nonce, error: raw.error, asks: raw.asks };
        let (taken, nack) = self.drive(|stream, now| {
            let taken = stream.on_request(request, now, SystemTime::now());
            let refused = matches!(taken, Ok((_, true)));
            (taken, refused.then(|| stream.of(kind).nack.clone()).flatten())
        });
        let (responses, refused) = taken?;
        if refused {
            metrics.rejected(kind);
        }
        // Who asks again for what it refuses is answered, as often as it likes.
        if let Some(nack) = nack
            && let Some(left_out) = self.log.now(kind.label(), Instant::now())
        {
            let (stream, kind, version) = (self.connection.number(), kind.label(), &*nack.version);
            tracing::warn!(stream, kind, version, left_out, why = &*nack.message, "proxy refuses");
        }
        metrics.pushed(&responses);
        Ok(responses)
    }

    fn on_snapshot(&mut self, shared: &Shared) -> Vec<Response> {
        let wanted = Arc::clone(&self.snapshots.borrow_and_update());
        let metrics = shared.registry.metrics();
        if let Some(made) = wanted.made() {
            metrics.queued(made.elapsed());
        }
        let responses = self.drive(|stream, now| stream.on_snapshot(wanted, now));
        metrics.pushed(&responses);
        responses
    }

    fn tick(&mut self, shared: &Shared) -> Vec<Response> {
        let responses = self.drive(Stream::tick);
        shared.registry.metrics().pushed(&responses);
        responses
    }

    /// Lets `act` work on the stream, and notes when it is to be looked at next.
    fn drive<T>(&mut self, act: impl FnOnce(&mut Stream, Instant) -> T) -> T {
        let now = Instant::now();
        let (result, deadline) = self.connection.with(|stream| (act(stream, now), stream.deadline(now)));
        self.deadline = deadline;
        result
    }
}

fn decode(method: Discovery, message: &Bytes) -> Result<RawRequest, Fault> {
    Ok(RawRequest::decode(method.variant, message)?)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
