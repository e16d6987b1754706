//! One request and its answer: who may ask at all, the body, the work, and the answer on its way.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::Request;
use tower_service::Service;

use super::Activity;
use crate::api::body::{self, Bodies, Held};
use crate::api::{Api, guard};
use crate::connections::Source;

/// An answer is given in pieces of this size, to see how its client takes it.
const PIECE: usize = 16 << 10;

/// Answers one request. Its connection makes room for others until the body is here. Nothing is kept of a body that may not be sent.
pub(super) async fn answer<B>(
    mut api: Api,
    bodies: Bodies,
    activity: Activity,
    source: Source,
    request: Request<B>,
) -> Result<Response, Infallible>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let _asked = activity.asked();
    let (parts, body) = request.into_parts();
    if let Err(refusal) = guard::check(&api.hosts, &parts) {
        body::discard(&parts.headers, body).await;
        return Ok(refusal.into_response());
    }
    let (request, _held) = match bodies.whole(Request::from_parts(parts, body), source).await {
        Ok(whole) => whole,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let _at_work = activity.at_work();
    // All fetches of the module share its bytes.
    let is_shared = request.uri().path().starts_with("/v1/filter/");
    let response = api.router.call(request).await?;
    let bytes = if is_shared { None } else { response.body().size_hint().exact() };
    let held = match bodies.answer(source, bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default())
    {
        Ok(held) => held,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let answer =
        |body| Body::new(Answer { body, piece: Bytes::new(), activity: activity.clone(), _held: held });
    Ok(response.map(answer))
}

/// The body of an answer. A connection whose client takes it is not quiet, however long it takes; its place may still be taken when
/// there is no other.
struct Answer {
    body: Body,
    /// What is left of the frame under way.
    piece: Bytes,
    activity: Activity,
    _held: Option<Held>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context))
                .map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => self.piece = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        self.activity.moves();
        let length = self.piece.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, piece) = (self.body.size_hint(), self.piece.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + piece);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + piece);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use axum::Router;
    use axum::body::to_bytes;
    use axum::routing::get;
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::api::Hosts;
    use crate::connections::{Bounds, Places};

    fn activity() -> Activity {
        Activity::new(Places::new(Bounds { most: 1, most_waiting: 1 }).enter(source()).unwrap())
    }

    fn source() -> Source {
        IpAddr::from([127, 0, 0, 1]).into()
    }

    fn api() -> Api {
        let router = Router::new().route("/", get(|| async { vec![b'x'; 3 * PIECE + 1] }));
        Api { router, hosts: Arc::new(Hosts::new([127, 0, 0, 1].into(), [])), max_connections: 1 }
    }

    async fn asked<B>(host: &str, activity: &Activity, body: B) -> Response
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let request = Request::builder().uri("/").header("host", host).header("expect", "100-continue");
        let request = request.body(body).unwrap();
        answer(api(), Bodies::default(), activity.clone(), source(), request).await.unwrap()
    }

    #[tokio::test]
    async fn whoever_takes_an_answer_is_not_quiet() {
        let activity = activity();
        let response = asked("localhost", &activity, Full::new(Bytes::new())).await;
        assert_eq!(response.body().size_hint().exact(), Some(3 * PIECE as u64 + 1));
        let mut moved = activity.requests.subscribe();
        let (mut body, mut pieces) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            assert!(moved.has_changed().unwrap() && frame.unwrap().data_ref().unwrap().len() <= PIECE);
            moved.mark_unchanged();
            pieces += 1;
        }
        assert_eq!(pieces, 4);
        let response = asked("localhost", &activity, Full::new(Bytes::new())).await;
        assert_eq!(to_bytes(response.into_body(), usize::MAX).await.unwrap(), vec![b'x'; 3 * PIECE + 1]);
    }

    #[tokio::test]
    async fn no_body_is_read_for_whom_the_guard_refuses() {
        // It would never come.
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
        let response = asked("evil.example", &activity(), body).await;
        assert_eq!(response.status(), 421);
    }
}
