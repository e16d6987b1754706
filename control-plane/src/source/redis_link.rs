//! A connection to Redis of our own making, so that what comes over it is bounded before anything reads it.
//!
//! The client library turns any stream into a connection, and keeps of an answer whatever comes. So the streams are made
//! here: plain, by TLS or over a Unix socket.

mod bounded;
mod tls;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

pub(super) use bounded::{Allowance, Bounded};

/// The scheme of Redis over TLS, and the library's name for what is below it: the TLS is ours.
const TLS: (&str, &str) = ("rediss://", "redis://");

/// PEM files by which Redis and we know each other over TLS; read at each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisTlsFiles {
    /// Authorities of Redis' certificate; without, TLS cannot be used.
    pub ca: Option<PathBuf>,
    /// The certificate that we show, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Where a Redis is, and how it is spoken to.
#[derive(Clone)]
pub(super) struct Target {
    info: ConnectionInfo,
    tls: Option<Arc<RedisTlsFiles>>,
}

impl Target {
    /// Fails for what is no URL of Redis, in words that do not repeat it.
    pub(super) fn new(url: &str, tls: &RedisTlsFiles) -> Result<Self, RedisError> {
        let plain = url.strip_prefix(TLS.0).map(|rest| Zeroizing::new(format!("{}{rest}", TLS.1)));
        let info = Client::open(plain.as_ref().map_or(url, |plain| plain.as_str()))?;
        let info = info.get_connection_info().clone();
        Ok(Self { info, tls: plain.map(|_| Arc::new(tls.clone())) })
    }

    /// Host and port, or the path of the socket: for people, without credentials.
    pub(super) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    /// User, password and database.
    pub(super) fn login(&self) -> &RedisConnectionInfo {
        self.info.redis_settings()
    }

    /// A stream on which nothing has been said. The caller bounds the time that it takes.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match &self.tls {
                    None => Ok(Stream(Box::new(stream))),
                    Some(files) => Ok(Stream(Box::new(tls::over(stream, host, files).await?))),
                }
            }
            ConnectionAddr::Unix(path) => Ok(Stream(Box::new(UnixStream::connect(path).await?))),
            // The library gives it for `rediss`, which it is never shown.
            _ => Err(io::Error::other("the URL is of a kind that is not known")),
        }
    }
}

/// Bytes from and to Redis.
pub(super) struct Stream(Box<dyn Bytes>);

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
