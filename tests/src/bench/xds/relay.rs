//! Stands between an Envoy and its control plane, passes every byte on, and notes when the Envoy acknowledges.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::Failure;
use crate::fleet::moment;

/// What a client says before its first frame.
const PREFACE: usize = 24;
/// Length, type, flags and stream of a frame.
const HEAD: usize = 9;
const DATA: u8 = 0;
const ENDPOINTS: &[u8] = b"envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Relays each connection to `at` on to `server`; gives the moments of all requests for endpoints, of which each
/// is an acknowledgement once the first is through.
pub(in crate::bench) async fn start(
    at: SocketAddr,
    server: SocketAddr,
) -> Result<UnboundedReceiver<Duration>, Failure> {
    let listener = TcpListener::bind(at).await.map_err(Failure::because("relay"))?;
    let (moments, seen) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((envoy, _)) = listener.accept().await {
            if moments.is_closed() {
                return;
            }
            // A connection that breaks is the Envoy's to make again.
            tokio::spawn(relay(envoy, server, moments.clone()));
        }
    });
    Ok(seen)
}

async fn relay(
    envoy: TcpStream,
    server: SocketAddr,
    moments: UnboundedSender<Duration>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    envoy.set_nodelay(true)?;
    let ((mut from_envoy, mut to_envoy), (mut from_server, mut to_server)) =
        (envoy.into_split(), server.into_split());
    let down = async { tokio::io::copy(&mut from_server, &mut to_envoy).await };
    let up = async {
        let (mut chunk, mut frames) = (vec![0; 1 << 16], Frames { skip: PREFACE, ..Frames::default() });
        loop {
            let length = from_envoy.read(&mut chunk).await?;
            let arrived = moment();
            let bytes = chunk.get(..length).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(0);
            }
            to_server.write_all(bytes).await?;
            for _ in 0..frames.endpoint_requests(bytes) {
                let _ = moments.send(arrived);
            }
        }
    };
    tokio::select! { ended = down => ended, ended = up => ended }.map(drop)
}

/// HTTP/2 frames, as far as one has to understand them to find requests.
#[derive(Debug, Default)]
struct Frames {
    skip: usize,
    carry: Vec<u8>,
}

impl Frames {
    /// Data frames among these bytes that name the type of endpoints.
    fn endpoint_requests(&mut self, bytes: &[u8]) -> usize {
        self.carry.extend_from_slice(bytes);
        let skipped = self.skip.min(self.carry.len());
        self.carry.drain(..skipped);
        self.skip -= skipped;
        let mut found = 0;
        while let Some([a, b, c, kind, ..]) = self.carry.get(..HEAD) {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some(frame) = self.carry.get(HEAD..HEAD + length) else { break };
            let endpoints = frame.windows(ENDPOINTS.len()).any(|window| window == ENDPOINTS);
            found += usize::from(*kind == DATA && endpoints);
            self.carry.drain(..HEAD + length);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{ENDPOINTS, Frames};

    #[test]
    fn requests_are_found_in_any_chunks() {
        let frame = |kind: u8, body: &[u8]| {
            let length = u8::try_from(body.len()).unwrap();
            [&[0, 0, length, kind, 0, 0, 0, 0, 1], body].concat()
        };
        let stream = [
            frame(4, b""),
            frame(0, ENDPOINTS),
            frame(0, b"other"),
            frame(1, ENDPOINTS),
            frame(0, ENDPOINTS),
        ]
        .concat();
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let found: usize = stream.chunks(size).map(|chunk| frames.endpoint_requests(chunk)).sum();
            assert_eq!(found, 2);
        }
    }
}
