//! The client status discovery service: a stream of questions, each answered in full.

mod answer;

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::status::v3::ClientStatusRequest;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tonic::Status;

pub(super) use answer::StatusError;

use super::end::{End, Fault};
use super::grpc::Messages;
use super::listener::Peer;
use super::request::Malformed;
use super::server::Shared;
use super::wire::PIECE;
use answer::Inquiry;

/// What a method of the service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Questions {
    One,
    Any,
}

/// One stream of one client. Like a proxy's session it is the body of its response, and goes on when the connection
/// has taken what came before.
pub(super) struct StatusSession {
    shared: Arc<Shared>,
    from: Peer,
    requests: Messages,
    questions: Questions,
    /// Whether it was found that the client may ask.
    let_in: bool,
    /// The answer that the connection has not taken yet.
    delivery: Option<Delivery>,
    ended: bool,
}

/// An answer on its way. There is one at a time in the whole process, since it can be hundreds of megabytes; who does
/// not take it is cut off.
struct Delivery {
    rest: Bytes,
    _place: OwnedSemaphorePermit,
    _watch: JoinSet<()>,
}

impl StatusSession {
    pub(super) fn new(shared: Arc<Shared>, from: Peer, requests: Messages, questions: Questions) -> Self {
        Self { shared, from, requests, questions, let_in: false, delivery: None, ended: false }
    }

    /// The response's body.
    pub(super) fn into_body(self) -> impl http_body::Body<Data = Bytes, Error = Status> + Send {
        StreamBody::new(stream::unfold(Box::new(self), |mut session| async {
            let frame = session.frame().await?;
            Some((Ok(frame), session))
        }))
    }

    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        while !self.ended {
            match self.step().await {
                Ok(Some(piece)) => return Some(Frame::data(piece)),
                Ok(None) => {}
                Err(end) => {
                    self.ended = true;
                    self.delivery = None;
                    if let End::Fault(fault) = &end {
                        self.shared.note(fault, self.from.address);
                    }
                    if let End::Fault(Fault::Credential(_) | Fault::Revoked(_)) = &end {
                        self.from.let_go();
                    }
                    return Some(end.trailers());
                }
            }
        }
        None
    }

    /// The next piece of the answer, or the next answer.
    async fn step(&mut self) -> Result<Option<Bytes>, End> {
        self.asking()?;
        let piece = self.delivery.as_mut().and_then(Delivery::piece);
        if piece.is_none() {
            self.delivery = Some(self.advance().await?);
        }
        Ok(piece)
    }

    /// Whether the client may ask, or may still: what is a proxy sees no other.
    fn asking(&mut self) -> Result<(), Fault> {
        if std::mem::replace(&mut self.let_in, true) {
            self.from.credential.check().map_err(Fault::Revoked)
        } else {
            self.from.credential.ask().map_err(Fault::Credential)
        }
    }

    /// Waits for the next question, if there may be one, and for its turn, and answers it.
    async fn advance(&mut self) -> Result<Delivery, End> {
        let answered = self.delivery.take().is_some();
        if answered && self.questions == Questions::One {
            return Err(End::Closed);
        }
        let (mut turn, mut credential) = (self.from.turn.clone(), self.from.credential.clone());
        tokio::select! {
            answer = self.answer() => answer,
            () = turn.come() => Err(End::Stopping),
            refusal = credential.lost() => Err(Fault::Revoked(refusal).into()),
        }
    }

    async fn answer(&mut self) -> Result<Delivery, End> {
        let request = self.requests.next().await?.ok_or(End::Closed)?;
        let request = ClientStatusRequest::decode(request).map_err(Malformed::from).map_err(Fault::from)?;
        let inquiry = Inquiry::new(request).map_err(Fault::from)?;
        // The semaphore is never closed.
        let place = Arc::clone(&self.shared.answers).acquire_owned().await.map_err(|_| End::Internal)?;
        let shared = Arc::clone(&self.shared);
        // Thousands of proxies take a while, which no stream should wait for. The place stays taken until it is over,
        // whatever became of the client.
        let work = spawn_blocking(move || (inquiry.answer(&shared.registry), place));
        let (answer, place) = work.await.map_err(|_| End::Internal)?;
        let rest = answer.map_err(Fault::from)?;
        Ok(Delivery { rest, _place: place, _watch: self.watch() })
    }

    /// Cuts the client off when it leaves its answer for too long; until dropped.
    fn watch(&self) -> JoinSet<()> {
        let (shared, from) = (Arc::clone(&self.shared), self.from.clone());
        let mut watch = JoinSet::new();
        watch.spawn(async move {
            sleep(shared.stalled).await;
            shared.note(&Fault::Stalled, from.address);
            from.cut.cut();
        });
        watch
    }
}

impl Delivery {
    /// The next bytes to send, if there are any.
    fn piece(&mut self) -> Option<Bytes> {
        let length = self.rest.len().min(PIECE);
        (length > 0).then(|| self.rest.split_to(length))
    }
}
