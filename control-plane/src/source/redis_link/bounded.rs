//! A stream that ends once more has come than was allowed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes may still come. Whoever asks says how long the answer may be.
#[derive(Clone, Debug)]
pub(in crate::source) struct Allowance(Arc<AtomicUsize>);

/// What an allowance is once it was exceeded: no allowance is given after that.
const EXCEEDED: usize = usize::MAX;

impl Allowance {
    pub(in crate::source) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Allows so many bytes from now on.
    pub(in crate::source) fn allow(&self, bytes: usize) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left != EXCEEDED).then_some(bytes.min(EXCEEDED - 1))
        });
    }

    /// Whether more came, and the stream has ended for that.
    pub(in crate::source) fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Relaxed) == EXCEEDED
    }

    /// Takes what came off; whether that was allowed.
    fn take(&self, bytes: usize) -> bool {
        let after = |left: usize| match left {
            EXCEEDED => EXCEEDED,
            left => left.checked_sub(bytes).unwrap_or(EXCEEDED),
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(after(left)));
        !self.is_exceeded()
    }
}

/// A stream under an allowance: no more than that is ever handed on.
#[derive(Debug)]
pub(in crate::source) struct Bounded<S> {
    stream: S,
    allowance: Allowance,
}

impl<S> Bounded<S> {
    pub(in crate::source) const fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = buffer.filled().len().saturating_sub(before);
        if matches!(read, Poll::Ready(Ok(()))) && !self.allowance.take(came) {
            buffer.set_filled(before);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it sends too much")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_is_allowed_comes_and_no_byte_more() {
        let (mut far, near) = duplex(1 << 16);
        let allowance = Allowance::new(5);
        let mut near = Bounded::new(near, allowance.clone());
        far.write_all(b"12345").await.unwrap();
        let mut five = [0; 5];
        near.read_exact(&mut five).await.unwrap();
        assert_eq!((&five, allowance.is_exceeded()), (b"12345", false));

        allowance.allow(3);
        far.write_all(b"1234").await.unwrap();
        let mut rest = [0; 16];
        let error = near.read(&mut rest).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(allowance.is_exceeded());

        allowance.allow(1_000);
        far.write_all(b"x").await.unwrap();
        assert!(near.read(&mut rest).await.is_err(), "what was cut off stays so");
    }
}
