//! gRPC's framing of messages in HTTP/2 bodies, without a buffer that outlives its message: ten thousand quiet
//! streams cost nothing here.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use tonic::body::Body;

use super::bounds::StreamError;
use super::budget::{Account, Kept};
use super::end::{End, Fault};

/// Before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;
/// Largest request: a reconnect names all it has, 30,000 names and versions are about 2 MB.
pub(super) const MAX_REQUEST_BYTES: usize = 4 << 20;

/// The messages of a request body.
#[derive(Debug)]
pub(super) struct Messages {
    body: Body,
    buffer: BytesMut,
    /// The buffer's, which holds what has come of a message for as long as the rest does not.
    counted: Kept,
}

impl Messages {
    pub(super) fn new(body: Body, account: &Account) -> Self {
        Self { body, buffer: BytesMut::new(), counted: account.keep() }
    }

    /// The next message; `None` at the end. Can be dropped and called again without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, End> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                        self.count()?;
                    }
                }
                Some(Err(error)) => return Err(End::Broken(error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Fault::CutShort.into()),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Fault::Compressed);
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_REQUEST_BYTES {
            return Err(Fault::TooLarge(length));
        }
        if self.is_short() {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        if self.is_short() {
            // What has begun does not keep the whole buffer.
            self.buffer = BytesMut::from(&*self.buffer);
            self.count()?;
        }
        Ok(Some(message))
    }

    /// Whether the buffer has no whole message.
    fn is_short(&self) -> bool {
        let Some([_, length @ ..]) = self.buffer.first_chunk::<PREFIX>() else { return true };
        self.buffer.len() - PREFIX < u32::from_be_bytes(*length) as usize
    }

    fn count(&mut self) -> Result<(), Fault> {
        if self.counted.count(self.buffer.capacity()) { Ok(()) } else { Err(StreamError::TooMuch.into()) }
    }
}

/// The prefix of an uncompressed message. Messages of 4 GiB are not made.
pub(super) fn prefix(length: usize) -> [u8; PREFIX] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// A message that is to be written piece by piece.
pub(super) fn begun() -> BytesMut {
    BytesMut::from(&prefix(0)[..])
}

/// What was written to it as it goes over the wire.
pub(super) fn finished(mut message: BytesMut) -> Bytes {
    let length = message.len().saturating_sub(PREFIX);
    if let Some(head) = message.first_chunk_mut() {
        *head = prefix(length);
    }
    message.freeze()
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use tonic::{Code, Status};

    use super::*;

    fn messages(chunks: Vec<Vec<u8>>) -> Messages {
        messages_of(chunks, &Account::default())
    }

    fn messages_of(chunks: Vec<Vec<u8>>, account: &Account) -> Messages {
        let frames = chunks.into_iter().map(|chunk| Ok::<_, Status>(Frame::data(Bytes::from(chunk))));
        Messages::new(Body::new(StreamBody::new(futures::stream::iter(frames))), account)
    }

    async fn all(mut messages: Messages) -> Result<Vec<Bytes>, End> {
        let mut all = Vec::new();
        while let Some(message) = messages.next().await? {
            all.push(message);
        }
        assert_eq!(messages.buffer.capacity(), 0);
        Ok(all)
    }

    fn all_framed(bodies: &[Vec<u8>]) -> Vec<u8> {
        bodies.iter().flat_map(|body| [&prefix(body.len())[..], body].concat()).collect()
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_are_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            size in 1..50_usize,
        ) {
            let chunks = all_framed(&bodies).chunks(size).map(<[u8]>::to_vec).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let came = runtime.block_on(all(messages(chunks))).unwrap();
            prop_assert_eq!(came, bodies);
        }
    }

    #[tokio::test]
    async fn half_sent_messages_are_counted_in_their_connections_account() {
        let account = Account::default();
        let half = || [&prefix(MAX_REQUEST_BYTES)[..], &vec![0; MAX_REQUEST_BYTES - 1]].concat();
        let mut begun: Vec<_> = (0..5).map(|_| messages_of(vec![half()], &account)).collect();
        let mut ends = Vec::new();
        for messages in &mut begun {
            ends.push(messages.next().await.unwrap_err().status().code());
        }
        // The body ends there; a client would leave it open.
        assert_eq!(ends[..2], [Code::Internal; 2], "there is room");
        assert_eq!(ends[4], Code::ResourceExhausted);
        // The next one has begun in the same frame.
        let mut both =
            messages_of(vec![[&all_framed(&[vec![1; 1 << 20]])[..], &[0; 3]].concat()], &Account::default());
        both.next().await.unwrap().unwrap();
        assert!(both.buffer.capacity() < 1024, "{}", both.buffer.capacity());
    }

    #[tokio::test]
    async fn what_is_too_large_cut_short_or_compressed_is_refused() {
        let code = async |chunk: Vec<u8>| all(messages(vec![chunk])).await.unwrap_err().status().code();
        assert_eq!(code(prefix(MAX_REQUEST_BYTES + 1).to_vec()).await, Code::ResourceExhausted);
        assert_eq!(code(prefix(9).to_vec()).await, Code::Internal);
        assert_eq!(code(vec![1, 0, 0, 0, 0]).await, Code::Unimplemented);
    }
}
