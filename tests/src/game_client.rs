//! A game client: one connection that sends and reads frames.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use realmgate_wire::ServerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::cast::LIMIT;
use crate::frame::{Frame, WHO_ARE_YOU};

/// How long a client waits for a connection or an answer unless told otherwise.
const PATIENCE: Duration = LIMIT;

/// One read's worth.
const READ: usize = 4096;

/// A connected client.
#[derive(Debug)]
pub struct GameClient {
    stream: TcpStream,
    input: BytesMut,
    patience: Duration,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Time from the call until the end.
    pub after: Duration,
    /// Bytes that came before it.
    pub bytes: usize,
    /// Whether it was reset instead of closed.
    pub reset: bool,
}

impl GameClient {
    /// Connects to `to`.
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        Self::over(socket, to).await
    }

    /// Connects to `to` from the local address `source`.
    pub async fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        Self::over(socket, to).await
    }

    async fn over(socket: TcpSocket, to: SocketAddr) -> io::Result<Self> {
        let stream = within(PATIENCE, "no connection", socket.connect(to)).await?;
        // A player's frames leave at once; and chunks sent apart stay apart.
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::new(), patience: PATIENCE })
    }

    /// Changes how long it waits for an answer.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Its own address and port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Sends a frame in one piece.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.send_bytes(&frame.to_bytes()?).await
    }

    /// Sends any bytes in one piece.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a frame in chunks of these sizes, `gap` apart; what is left goes as the last chunk.
    pub async fn send_in_chunks(&mut self, frame: &Frame, sizes: &[usize], gap: Duration) -> io::Result<()> {
        let mut rest = frame.to_bytes()?;
        for &size in sizes {
            let chunk = rest.split_to(size.min(rest.len()));
            self.send_bytes(&chunk).await?;
            sleep(gap).await;
        }
        self.send_bytes(&rest).await
    }

    /// The next frame; `None` when the connection was closed between frames.
    pub async fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        within(self.patience, "no frame", async {
            loop {
                if let Some(frame) = Frame::take(&mut self.input) {
                    return Ok(Some(frame));
                }
                self.input.reserve(READ);
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "closed within a frame");
                    return if self.input.is_empty() { Ok(None) } else { Err(cut()) };
                }
            }
        })
        .await
    }

    /// Sends a frame and reads the next; an error when the connection is closed instead.
    pub async fn exchange(&mut self, frame: &Frame) -> io::Result<Frame> {
        self.send(frame).await?;
        self.answer().await
    }

    /// The next frame; an error when the connection is closed instead.
    pub async fn answer(&mut self) -> io::Result<Frame> {
        let closed = || io::Error::new(io::ErrorKind::ConnectionAborted, "closed instead of an answer");
        self.read_frame().await?.ok_or_else(closed)
    }

    /// The name of the server behind the connection; as a first message it also routes by `server_id`.
    pub async fn who_are_you(&mut self, server_id: ServerId) -> io::Result<String> {
        let answer = self.exchange(&Frame::new(server_id, WHO_ARE_YOU, "")).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Reads and drops everything until the other side ends the connection.
    pub async fn read_until_closed(mut self) -> io::Result<Closed> {
        let start = Instant::now();
        let mut bytes = self.input.len();
        within(self.patience, "the connection was not closed", async {
            loop {
                self.input.clear();
                self.input.reserve(READ);
                match self.stream.read_buf(&mut self.input).await {
                    Ok(0) => return Ok(Closed { after: start.elapsed(), bytes, reset: false }),
                    Ok(read) => bytes += read,
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(Closed { after: start.elapsed(), bytes, reset: true });
                    }
                    Err(e) => return Err(e),
                }
            }
        })
        .await
    }
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {limit:?}"));
    timeout(limit, work).await.map_err(late)?
}
