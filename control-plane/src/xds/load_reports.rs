//! The load reporting service, with which proxies tell how much they send where. Nothing of that is used yet: each is asked
//! for the reports of no cluster, so that its stream stands, costs a message an hour, and can be asked for more later.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf::Duration as Interval;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use tokio::time::timeout;
use tonic::Status;

use super::Scope;
use super::end::{End, Fault};
use super::grpc::{Messages, framed};
use super::listener::Peer;
use super::node::NodeError;
use super::request::Malformed;
use super::server::Shared;
use super::session::FIRST_REQUEST;

/// How often a proxy says that it has nothing to say; Envoy wants a number.
const INTERVAL_S: i64 = 3_600;

/// One stream of one proxy, which is the body of its response.
pub(super) struct LoadSession {
    shared: Arc<Shared>,
    from: Peer,
    requests: Messages,
    answered: bool,
    ended: bool,
}

impl LoadSession {
    pub(super) const fn new(shared: Arc<Shared>, from: Peer, requests: Messages) -> Self {
        Self { shared, from, requests, answered: false, ended: false }
    }

    /// The response's body.
    pub(super) fn into_body(self) -> impl http_body::Body<Data = Bytes, Error = Status> + Send {
        StreamBody::new(stream::unfold(Box::new(self), |mut session| async {
            let frame = session.frame().await?;
            Some((Ok(frame), session))
        }))
    }

    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        if self.ended {
            return None;
        }
        let mut turn = self.from.turn.clone();
        let answer = tokio::select! {
            answer = self.advance() => answer,
            () = turn.come() => Err(End::Stopping),
        };
        Some(answer.map(Frame::data).unwrap_or_else(|end| {
            self.ended = true;
            if let End::Fault(fault) = &end {
                self.shared.note(fault, self.from.address);
            }
            end.trailers()
        }))
    }

    /// Answers the first request, and lets go of all others, unread, until the proxy ends.
    async fn advance(&mut self) -> Result<Bytes, End> {
        while self.answered {
            self.requests.next().await?.ok_or(End::Closed)?;
        }
        let first = timeout(FIRST_REQUEST, self.requests.next()).await;
        let first = first.map_err(|_| Fault::Silent)??.ok_or(End::Closed)?;
        let first = LoadStatsRequest::decode(first).map_err(Malformed::from).map_err(Fault::from)?;
        let node = first.node.ok_or(NodeError::Missing).map_err(Fault::from)?;
        let scope = Scope::from_node(&node).map_err(Fault::from)?;
        self.from.may_be(&scope).map_err(Fault::from)?;
        self.answered = true;
        let load_reporting_interval = Some(Interval { seconds: INTERVAL_S, nanos: 0 });
        Ok(framed(&LoadStatsResponse { load_reporting_interval, ..LoadStatsResponse::default() }))
    }
}
