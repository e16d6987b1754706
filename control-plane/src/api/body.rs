//! Bodies of requests: read whole before anything is done for them, so long and so many bytes of them at most.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;
use crate::model::MAX_BYTES;

/// Longest body: a document, and what gRPC puts around it.
const LONGEST: usize = MAX_BYTES + 8192;
/// How long a client may take for it: 4 MiB at 1 Mbit/s.
const PATIENCE: Duration = Duration::from_secs(35);
/// Bytes of all bodies at a time, in the whole process: sixteen of the largest documents.
const BUDGET: usize = 16 * MAX_BYTES;
/// What is read of a body that is too long, and thrown away.
const DISCARDED: usize = 16 * MAX_BYTES;
/// What the budget counts.
const KIB: usize = 1024;

/// The bytes that bodies may take, shared by all connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Default for Bodies {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(BUDGET / KIB)), patience: PATIENCE }
    }
}

impl Bodies {
    /// The request with its whole body; its bytes count until the second part is dropped.
    pub(super) async fn whole<B>(
        &self,
        request: Request<B>,
    ) -> Result<(Request<Full<Bytes>>, Option<OwnedSemaphorePermit>), ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let (body, held) = timeout(self.patience, self.collect(body)).await.unwrap_or_else(|_| {
            let why = format!("the body did not come within {} s", self.patience.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "bad_request", why))
        })?;
        Ok((Request::from_parts(parts, Full::new(body)), held))
    }

    async fn collect<B>(&self, mut body: B) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (mut whole, mut held) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        if body.size_hint().lower() > LONGEST as u64 {
            discard(body).await;
            return Err(too_large());
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::bad_request("the body broke off"))?;
            let Some(data) = frame.data_ref() else { continue };
            if whole.len() + data.len() > LONGEST {
                drop((whole, held));
                discard(body).await;
                return Err(too_large());
            }
            let counted = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let missing = (whole.len() + data.len()).div_ceil(KIB).saturating_sub(counted);
            let more =
                Arc::clone(&self.room).try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
            let Ok(more) = more else {
                return Err(ApiError::busy("too many bodies are being read; try again in a few seconds"));
            };
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
            whole.extend_from_slice(data);
        }
        Ok((whole.freeze(), held))
    }
}

/// Reads on for a while: who is still writing when its connection is closed loses the answer, too.
async fn discard<B>(mut body: B)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARDED {
            return;
        }
    }
}

fn too_large() -> ApiError {
    let why = format!("the body is longer than {MAX_BYTES} bytes, which is the most for a document");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", why)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn of(bytes: usize) -> Request<Full<Bytes>> {
        Request::new(Full::new(vec![b'x'; bytes].into()))
    }

    async fn status(bodies: &Bodies, request: Request<Full<Bytes>>) -> u16 {
        bodies.whole(request).await.err().map_or(0, |refusal| refusal.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn bytes_are_counted_while_they_are_held() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for _ in 0..BUDGET / MAX_BYTES {
            held.push(bodies.whole(of(MAX_BYTES)).await.unwrap().1);
        }
        assert_eq!(status(&bodies, of(1)).await, 503);
        assert_eq!(status(&bodies, of(0)).await, 0, "what has no body needs nothing");
        assert_eq!(status(&bodies, of(LONGEST + 1)).await, 413);
        held.pop();
        assert_eq!(status(&bodies, of(LONGEST - 8192)).await, 0);
        held.clear();
        assert_eq!(bodies.room.available_permits(), BUDGET / KIB);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_awaited_for_ever() {
        let never = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<_, std::convert::Infallible>,
        >());
        let bodies = Bodies { patience: Duration::from_millis(1), ..Bodies::default() };
        let refusal = bodies.whole(Request::new(never)).await.unwrap_err();
        assert_eq!(refusal.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
