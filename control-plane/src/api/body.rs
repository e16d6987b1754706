//! Bodies of requests: read whole before anything is done for them, so long and so many bytes of them at most. And as many of
//! answers that nobody has taken yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::EXPECT;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use tokio::time::timeout;

use super::error::ApiError;
use crate::connections::Source;
use crate::model::MAX_BYTES;

/// Longest body: a document, and what gRPC puts around it.
const LONGEST: usize = MAX_BYTES + 8192;
/// How long a client may take for it: 4 MiB at 1 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(35);
/// Bytes of all bodies at a time, in the whole process: sixteen of the largest documents.
const BUDGET: usize = 16 * LONGEST;
/// Of them, those of one source: whoever holds bodies back does not keep others from putting theirs.
const OF_ONE: usize = BUDGET / 4;
/// Answers up to this are not counted.
const SMALL: usize = 64 << 10;
/// What is read of a body that is refused, and for how long, to be thrown away.
const DISCARDED: usize = 16 * MAX_BYTES;
const DISCARDING: Duration = Duration::from_secs(1);

/// The bytes that bodies may take, shared by all connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    used: Arc<Mutex<Used>>,
    of_answers: Arc<Mutex<Used>>,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Used {
    in_all: usize,
    of: HashMap<Source, usize>,
}

/// Bytes of one body that are counted until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    used: Arc<Mutex<Used>>,
    source: Source,
    bytes: usize,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { used: Arc::default(), of_answers: Arc::default(), patience: PATIENCE }
    }
}

impl Bodies {
    /// The request with its whole body; its bytes count until the second part is dropped.
    pub(super) async fn whole<B>(
        &self,
        request: Request<B>,
        source: Source,
    ) -> Result<(Request<Full<Bytes>>, Held), ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (parts, mut body) = request.into_parts();
        let mut held = Held { used: Arc::clone(&self.used), source, bytes: 0 };
        let whole = timeout(self.patience, collect(&mut body, &mut held)).await.unwrap_or_else(|_| {
            let why = format!("the body did not come within {} s", self.patience.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "bad_request", why))
        });
        match whole {
            Ok(body) => Ok((Request::from_parts(parts, Full::new(body)), held)),
            Err(refusal) => {
                drop(held);
                if refusal.is_too_large() {
                    discard(&parts.headers, body).await;
                }
                Err(refusal)
            }
        }
    }
}

impl Bodies {
    /// Counts an answer of so many bytes until the outcome is dropped. Small ones cost nothing: their connections are counted.
    pub(super) fn answer(&self, source: Source, bytes: usize) -> Result<Option<Held>, ApiError> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let mut held = Held { used: Arc::clone(&self.of_answers), source, bytes: 0 };
        if held.grow(bytes) {
            return Ok(Some(held));
        }
        Err(ApiError::busy("too many answers wait to be taken; take yours, or try again in a few seconds"))
    }
}

async fn collect<B>(body: &mut B, held: &mut Held) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut whole = BytesMut::new();
    if body.size_hint().lower() > LONGEST as u64 {
        return Err(ApiError::too_large());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body broke off"))?;
        let Some(data) = frame.data_ref() else { continue };
        if whole.len() + data.len() > LONGEST {
            return Err(ApiError::too_large());
        }
        if !held.grow(data.len()) {
            return Err(ApiError::busy("too many bodies are being read; try again in a few seconds"));
        }
        whole.extend_from_slice(data);
    }
    Ok(whole.freeze())
}

impl Held {
    /// Counts so many more; false = there is no room.
    fn grow(&mut self, bytes: usize) -> bool {
        let mut used = lock(&self.used);
        let of_source = used.of.get(&self.source).copied().unwrap_or_default() + bytes;
        if used.in_all + bytes > BUDGET || of_source > OF_ONE {
            return false;
        }
        used.in_all += bytes;
        used.of.insert(self.source, of_source);
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut used = lock(&self.used);
        used.in_all = used.in_all.saturating_sub(self.bytes);
        if let Some(of_source) = used.of.get_mut(&self.source) {
            *of_source = of_source.saturating_sub(self.bytes);
            if *of_source == 0 {
                used.of.remove(&self.source);
            }
        }
    }
}

/// Nothing panics with the lock held.
fn lock(used: &Mutex<Used>) -> MutexGuard<'_, Used> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a body on for a moment that is refused: who is still writing when the connection is closed loses the answer, too. Who waits
/// for a word before writing is given none.
pub(super) async fn discard<B>(headers: &HeaderMap, mut body: B)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    if headers.contains_key(EXPECT) {
        return;
    }
    let discarding = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > DISCARDED {
                return;
            }
        }
    };
    // Whether it ends or not, the answer is the same.
    let _ = timeout(DISCARDING, discarding).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::IpAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::response::IntoResponse;
    use futures::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn source(last: u8) -> Source {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn of(bytes: usize) -> Request<Full<Bytes>> {
        Request::new(Full::new(vec![b'x'; bytes].into()))
    }

    /// A body of this that never ends.
    fn endless(begun: usize) -> impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin {
        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; begun])));
        StreamBody::new(Box::pin(stream::StreamExt::chain(stream::iter([frame]), stream::pending())))
    }

    async fn status(bodies: &Bodies, from: u8, request: Request<Full<Bytes>>) -> u16 {
        let refusal = bodies.whole(request, source(from)).await.err();
        refusal.map_or(0, |refusal| refusal.into_response().status().as_u16())
    }

    #[test]
    fn answers_that_nobody_takes_are_bounded() {
        let bodies = Bodies::default();
        let source = |last: u8| Source::from(IpAddr::from([10, 0, 0, last]));
        assert!(bodies.answer(source(1), SMALL).unwrap().is_none());
        let mut waiting = Vec::new();
        while let Ok(held) = bodies.answer(source(1), 2 * MAX_BYTES) {
            waiting.push(held);
        }
        assert_eq!(waiting.len(), 2, "a quarter is one source's");
        let other = bodies.answer(source(2), 2 * MAX_BYTES).unwrap();
        waiting.clear();
        assert!(bodies.answer(source(1), 2 * MAX_BYTES).is_ok());
        drop(other);
    }

    #[tokio::test]
    async fn bytes_are_counted_while_they_are_held_and_no_source_has_them_all() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for from in 0..4 {
            assert_eq!(status(&bodies, from, of(1)).await, 0, "there is room beside the others");
            for _ in 0..4 {
                held.push(bodies.whole(of(LONGEST), source(from)).await.unwrap().1);
            }
            assert_eq!(status(&bodies, from, of(1)).await, 503);
        }
        assert_eq!(status(&bodies, 9, of(1)).await, 503);
        assert_eq!(status(&bodies, 9, of(0)).await, 0, "what has no body needs nothing");
        assert_eq!(status(&bodies, 9, of(LONGEST + 1)).await, 413);
        held.pop();
        assert_eq!(status(&bodies, 9, of(LONGEST)).await, 0);
        held.clear();
        let used = lock(&bodies.used);
        assert!(used.in_all == 0 && used.of.is_empty(), "{used:?}");
    }

    /// Says how long it is, and may not be read.
    struct Declared;

    impl http_body::Body for Declared {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("its client was told to go on")
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(1 << 30)
        }
    }

    #[tokio::test]
    async fn a_long_body_is_too_large_however_slowly_it_comes() {
        let bodies = Bodies { patience: Duration::from_millis(1), ..Bodies::default() };
        let refusal = bodies.whole(Request::new(endless(LONGEST + 1)), source(1)).await.unwrap_err();
        assert_eq!(refusal.into_response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        // Who asks first is told to send nothing.
        let request = Request::builder().header(EXPECT, "100-continue").body(Declared).unwrap();
        let refusal = bodies.whole(request, source(1)).await.unwrap_err();
        assert_eq!(refusal.into_response().status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_awaited_for_ever() {
        let never = StreamBody::new(stream::pending::<Result<_, Infallible>>());
        let bodies = Bodies { patience: Duration::from_millis(1), ..Bodies::default() };
        let refusal = bodies.whole(Request::new(never), source(1)).await.unwrap_err();
        assert_eq!(refusal.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
