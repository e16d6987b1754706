//! The life of one connection: handshake, HTTP/2, who may open streams on it, and its end.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::Either;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::codegen::{Service, StdError};

use super::access::{Access, Refusal};
use super::credential::{self, Credential};
use super::drain::{LAST_WORD, Turn};
use super::metrics::ListenerMetrics;
use super::peer::{Cut, Peer};
use super::reload::Reloading;
use super::tls::{self, Certificate, Tls};
use crate::connections::Place;
use crate::telemetry::seldom::Seldom;
use crate::xds::budget::Room;

/// Envoy opens one stream a connection, or one a type; a few more leave room for a reconnect that overlaps.
const STREAMS: u32 = 16;
/// What a proxy may send before we read it, HTTP/2's own default and least for a connection: it bounds what a
/// peer can make us keep. Requests are small; the largest, a reconnect's 2 MB, comes in 32 round trips.
const RECEIVE_WINDOW: u32 = 65_535;
/// HTTP/2's least and default. A larger one would have a larger buffer to be read into.
const MAX_FRAME: u32 = 16_384;
/// Envoy's own headers are some 300 bytes, a token some hundreds; hyper would take 16 KiB.
const MAX_HEADERS: u32 = 8 << 10;
/// What waits in a stream for the network beyond the proxy's window. What waits here cannot be replaced by
/// something newer any more; four frames keep a fast network busy.
const SEND_BUFFER: usize = 64 << 10;

/// What all connections of a listener share.
pub(super) struct Shared {
    pub(super) tls: Option<Arc<Reloading<Tls>>>,
    pub(super) access: Arc<Access>,
    pub(super) metrics: ListenerMetrics,
    pub(super) log: Seldom,
    /// For what clients have us keep.
    pub(super) room: Room,
    /// How long a connection may take until a stream is let in.
    pub(super) admission: Duration,
    pub(super) http: http2::Builder<TokioExecutor>,
}

/// HTTP/2 with little memory for each connection, since there are many that mostly say nothing.
pub(super) fn http(keepalive: Duration) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive / 3)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(SEND_BUFFER)
        .auto_date_header(false);
    builder
}

impl Shared {
    /// Counts what was refused and writes about it, but not as often as it can be caused.
    fn unauthenticated(&self, reason: &'static str, why: &str, address: SocketAddr) {
        self.metrics.unauthenticated(reason);
        self.warn(reason, why, address);
    }

    /// Notes a connection that never carried a stream.
    pub(super) fn refused(&self, reason: &'static str, why: &str, address: SocketAddr) {
        self.metrics.refused(reason);
        self.warn(reason, why, address);
    }

    /// Takes note of the end of a connection that could be served.
    fn ended(&self, address: SocketAddr, end: &hyper::Result<()>) {
        if end.as_ref().is_err_and(hyper::Error::is_timeout) {
            self.metrics.lost.inc();
        }
        // Proxies break connections off when they stop: nothing an operator should look at.
        tracing::debug!(%address, ?end, "connection ended");
    }

    fn warn(&self, reason: &'static str, why: &str, address: SocketAddr) {
        if let Some(left_out) = self.log.now(reason, Instant::now()) {
            tracing::warn!(%address, reason, left_out, "not let in: {why}");
        }
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve<S, B>(
    stream: TcpStream,
    address: SocketAddr,
    service: S,
    shared: Arc<Shared>,
    mut turn: Turn,
    place: &Arc<Place>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<StdError>,
{
    let until = tokio::time::Instant::now() + shared.admission;
    // Without TCP_NODELAY a response waits up to 40 ms for the acknowledgement of the one before. It fails only
    // on a connection that is gone, which shows soon enough.
    let _ = stream.set_nodelay(true);
    let (cut, own_turn) = (Cut::of(place, shared.room.account()), turn.clone());
    let guarded = |certificate: Option<Certificate>| Guarded {
        inner: service,
        certificate: certificate.map(Arc::new),
        address,
        cut,
        turn: own_turn,
        shared: Arc::clone(&shared),
    };
    let Some(tls) = &shared.tls else {
        return http_until_end(stream, guarded(None), until).await;
    };
    let tls = tls.current();
    let handshake = TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream);
    // The handshake's state is larger than all that follows; in a box it goes when it is done.
    let handshake = tokio::select! {
        handshake = Box::pin(timeout_at(until, handshake)) => handshake,
        () = turn.come() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let certificate = Certificate::shown(stream.get_ref().1.peer_certificates(), &tls);
            drop(tls);
            http_until_end(Box::new(stream), guarded(certificate), until).await;
        }
        // A probe of a load balancer, mostly.
        Ok(Err(error)) if is_gone(&error) => tracing::debug!(%address, %error, "left during the handshake"),
        Ok(Err(error)) => match tls::refused_certificate(&error) {
            Some(reason) => shared.unauthenticated(reason, &error.to_string(), address),
            None => shared.refused("handshake_failed", &error.to_string(), address),
        },
        Err(_) => shared.refused("handshake_timeout", "no TLS handshake in time", address),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

async fn http_until_end<I, S, B>(io: I, guarded: Guarded<S>, until: tokio::time::Instant)
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<StdError>,
{
    let (shared, address) = (Arc::clone(&guarded.shared), guarded.address);
    let (cut, mut turn) = (guarded.cut.clone(), guarded.turn.clone());
    let certificate = guarded.certificate.clone();
    let mut connection = pin!(shared.http.serve_connection(TokioIo::new(io), guarded));
    let leave = tokio::select! {
        end = connection.as_mut() => return shared.ended(address, &end),
        () = cut.asked() => return,
        () = turn.come() => Leave::Stopping,
        () = cut.told_to_go() => Leave::Revoked,
        () = cut.unused(until, shared.admission) => {
            if !cut.admitted() {
                return shared.refused("silent", "nothing in time that could be let in", address);
            }
            Leave::Unused
        }
        () = overstayed(&shared.access, certificate.as_deref(), &cut) => {
            return shared.unauthenticated("outlived", "a stream took nothing after its credential had gone", address);
        }
    };
    // GOAWAY: the proxy opens its next stream elsewhere. The streams that are here end by themselves, with their
    // last message whole; then so does the connection.
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        end = connection => shared.ended(address, &end),
        () = cut.asked() => {}
        () = turn.over() => {}
        () = of_no_use(&cut), if leave != Leave::Stopping => {}
    }
}

/// Why a connection is to end, by and by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Stopping,
    Revoked,
    /// No stream for long.
    Unused,
}

/// Completes when a stream is still there a while after its credential has gone. A stream ends itself, but only when its proxy takes
/// what it is given.
async fn overstayed(access: &Access, certificate: Option<&Certificate>, cut: &Cut) {
    let mut changes = access.changes.subscribe();
    loop {
        match certificate {
            Some(certificate) => tokio::select! {
                _ = changes.changed() => {}
                () = credential::sleep_until(certificate.until()) => {}
            },
            // The sender is in what we hold.
            None => drop(changes.changed().await),
        }
        sleep(LAST_WORD).await;
        if cut.is_overstayed() {
            return;
        }
    }
}

/// Completes when a connection that is to end has no stream any more that is let in.
async fn of_no_use(cut: &Cut) {
    loop {
        sleep(LAST_WORD).await;
        if !cut.is_of_use() {
            return;
        }
    }
}

/// The service behind a look at the credentials; each request learns whom it comes from.
struct Guarded<S> {
    inner: S,
    certificate: Option<Arc<Certificate>>,
    address: SocketAddr,
    cut: Cut,
    turn: Turn,
    shared: Arc<Shared>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Guarded<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Default,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<B>, Infallible>>, S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let access = &self.shared.access;
        // Taken out, so that nothing behind can put a secret into a log.
        let authorization = request.headers_mut().remove(AUTHORIZATION);
        match access.admit(self.certificate.as_ref(), authorization.as_ref()) {
            Ok(proof) => {
                let nearby = self.address.ip().to_canonical().is_loopback();
                let gone = Arc::clone(self.cut.streams_change());
                let credential = Credential::new(Arc::clone(access), proof, nearby, gone);
                self.cut.admit(&credential);
                let (cut, turn) = (self.cut.clone(), self.turn.clone());
                request.extensions_mut().insert(Peer { address: self.address, credential, cut, turn });
                // Services of tonic are always ready.
                Either::Right(self.inner.clone().call(request))
            }
            Err(refusal) => {
                // Another certificate takes another connection; what is not known yet takes none.
                if self.certificate.is_some() && refusal != Refusal::NoTrustDomain {
                    self.cut.go();
                }
                Either::Left(ready(Ok(self.refuse(&refusal))))
            }
        }
    }
}

impl<S> Guarded<S> {
    fn refuse<B: Default>(&self, refusal: &Refusal) -> Response<B> {
        self.shared.unauthenticated(refusal.label(), &refusal.to_string(), self.address);
        Status::new(refusal.code(), refusal.to_string()).into_http()
    }
}
