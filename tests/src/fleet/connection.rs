//! One proxy's connection: HTTP/2, gRPC framing, and the moment when an acknowledgement has left.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, Version};
use prost::Message;
use tokio::net::{TcpSocket, TcpStream};

use super::crew::Member;
use super::reader::Reader;
use crate::Failure;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// As an Envoy of today has them; the fleet must not hold a server up by flow control.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;

/// Each source address has some 28,000 ports, and those of the connections before may not be free yet.
const SOURCES: u8 = 16;

/// One stream on one connection.
pub(super) struct Session {
    connection: Connection<TcpStream, Bytes>,
    /// Keeps the connection open.
    _requests: SendRequest<Bytes>,
    outgoing: SendStream<Bytes>,
    incoming: Incoming,
    reader: Reader,
}

enum Incoming {
    Headers(ResponseFuture),
    Body(RecvStream),
}

impl Session {
    /// Connects, and opens the stream.
    pub(super) async fn open(to: SocketAddr, number: usize, token: Option<&str>) -> Result<Self, Failure> {
        let tcp = connect(to, number).await.map_err(Failure::because("connect"))?;
        let handshake = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(tcp);
        let (mut requests, connection) = handshake.await.map_err(Failure::because("HTTP/2"))?;
        let mut request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{to}{PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).map_err(Failure::because("request"))?;
        let sent = requests.send_request(request, false).map_err(Failure::because("request"))?;
        let (headers, outgoing) = sent;
        let incoming = Incoming::Headers(headers);
        Ok(Self { connection, _requests: requests, outgoing, incoming, reader: Reader::default() })
    }

    /// Sends what the member has to say first, then answers what comes, until the connection is lost.
    pub(super) async fn serve(&mut self, member: &mut Member) -> Failure {
        for request in member.hello() {
            if let Err(failure) = self.send(request) {
                return failure;
            }
        }
        let lost: Result<Infallible, Failure> = poll_fn(|cx| self.poll(cx, member)).await;
        match lost {
            Err(failure) => failure,
            Ok(never) => match never {},
        }
    }

    /// Whether the server has said anything; a full listening queue may break off what looked like a connection.
    pub(super) const fn heard(&self) -> bool {
        matches!(self.incoming, Incoming::Body(_))
    }

    fn poll(&mut self, cx: &mut Context<'_>, member: &mut Member) -> Poll<Result<Infallible, Failure>> {
        loop {
            // Reads what has arrived and writes what is to be sent.
            if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
                let why = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
                return Poll::Ready(Err(Failure::new(format!("the connection ended: {why}"))));
            }
            member.sent();
            if !self.receive(cx, member)? {
                return Poll::Pending;
            }
        }
    }

    /// Whether anything was there.
    fn receive(&mut self, cx: &mut Context<'_>, member: &mut Member) -> Result<bool, Failure> {
        let body = match &mut self.incoming {
            Incoming::Body(body) => body,
            Incoming::Headers(headers) => {
                let Poll::Ready(response) = Pin::new(headers).poll(cx) else { return Ok(false) };
                let response = response.map_err(Failure::because("response"))?;
                check(response.status().as_u16(), response.headers())?;
                self.incoming = Incoming::Body(response.into_body());
                return Ok(true);
            }
        };
        let mut some = false;
        let mut requests = Vec::new();
        while let Poll::Ready(chunk) = body.poll_data(cx) {
            let Some(chunk) = chunk else {
                let trailers = match body.poll_trailers(cx) {
                    Poll::Ready(Ok(Some(trailers))) => trailers,
                    _ => http::HeaderMap::default(),
                };
                check(200, &trailers)?;
                return Err(Failure::new("the server ended the stream"));
            };
            some = true;
            let chunk = chunk.map_err(Failure::because("stream"))?;
            body.flow_control().release_capacity(chunk.len()).map_err(Failure::because("stream"))?;
            member.received(chunk.len());
            let read = self.reader.read(&chunk, |piece| requests.extend(member.take(piece)));
            read.map_err(|malformed| Failure::new(malformed.0))?;
        }
        for request in requests {
            self.send([request.encode_to_vec().into(), Bytes::new()])?;
        }
        Ok(some)
    }

    /// Sends a request that comes in two parts.
    fn send(&mut self, [first, second]: [Bytes; 2]) -> Result<(), Failure> {
        let length = u32::try_from(first.len() + second.len()).map_err(Failure::because("request"))?;
        let mut begin = BytesMut::with_capacity(first.len() + 5);
        begin.put_u8(0);
        begin.put_u32(length);
        begin.put(first);
        for part in [begin.freeze(), second].into_iter().filter(|part| !part.is_empty()) {
            self.outgoing.send_data(part, false).map_err(Failure::because("stream"))?;
        }
        Ok(())
    }
}

fn check(status: u16, headers: &http::HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code = text("grpc-status");
    if status == 200 && (code.is_empty() || code == "0") {
        return Ok(());
    }
    let message = text("grpc-message");
    Err(Failure::new(format!("refused: HTTP status {status}, gRPC status {code}: {message}")))
}

async fn connect(to: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if to.ip().is_loopback() && to.is_ipv4() {
        // The port of a connection that was closed a moment ago is as good as any.
        socket.set_reuseaddr(true)?;
        let last = 2 + u8::try_from(number % usize::from(SOURCES)).unwrap_or(0);
        socket.bind((IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0).into())?;
    }
    socket.set_nodelay(true)?;
    socket.connect(to).await
}
