//! Takes connections in: how many at most, what happens when the system has none to give, and the end of it all.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::codegen::{Service, StdError};

use super::connection::{self, Shared};
use super::drain::{Drain, Turn};
use crate::connections::{self, Places, is_of_one_connection};

/// What the system lacks, file descriptors mostly, does not come back by asking at once again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A proxy sends its first bytes with the connection. One that waits for us first is none, or is gone.
const FIRST_BYTE: Duration = Duration::from_secs(3);

/// How many, and how long they may take to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_connections: u32,
    pub(super) drain: Duration,
}

/// Accepts and serves until `shutdown`, then until the last connection is gone.
pub(super) async fn run<S, B>(
    listener: TcpListener,
    service: S,
    shared: Arc<Shared>,
    bounds: Bounds,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Default + Send + 'static,
    B::Data: Send,
    B::Error: Into<StdError>,
{
    let most = bounds.max_connections as usize;
    let places = Places::new(connections::Bounds { most, most_waiting: most.div_ceil(2) });
    // Each connection's task has one end: when all are gone, so are the connections.
    let (open, mut all_gone) = mpsc::channel::<()>(1);
    let drain = Drain::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, address) = tokio::select! {
            connection = accept(&listener, &shared) => connection,
            () = &mut shutdown => break,
        };
        let Ok(place) = places.enter(address.ip().into()) else {
            shared.refused("too_many", "xds.max_connections are open", address);
            continue;
        };
        let (service, shared, turn, open) =
            (service.clone(), Arc::clone(&shared), drain.turn(), open.clone());
        tokio::spawn(async move {
            shared.metrics.connections.inc();
            let place = Arc::new(place);
            let served = async {
                if begins(&stream, address, &shared, turn.clone()).await {
                    connection::serve(stream, address, service, Arc::clone(&shared), turn, &place).await;
                }
            };
            tokio::select! {
                () = served => {}
                () = place.lost() => {
                    shared.refused("made_room", "it was not let in yet, and others needed its place", address);
                }
            }
            shared.metrics.connections.dec();
            drop(open);
        });
    }
    // From here the system refuses connections, and proxies try the next replica.
    drop(listener);
    let connections = u32::try_from(shared.metrics.connections.get()).unwrap_or(0);
    tracing::info!(connections, "moving proxies on");
    drain.begin(bounds.drain, connections);
    drop(open);
    // Every connection ends itself in time.
    let _ = all_gone.recv().await;
}

/// Whether the other end says anything at all.
async fn begins(stream: &TcpStream, address: SocketAddr, shared: &Shared, mut turn: Turn) -> bool {
    let first = timeout(FIRST_BYTE.min(shared.admission), stream.readable());
    let first = tokio::select! {
        first = first => first,
        () = turn.come() => return false,
    };
    if first.is_err() {
        let reason = if shared.tls.is_some() { "handshake_timeout" } else { "silent" };
        shared.refused(reason, "not a byte in time", address);
    }
    first.is_ok()
}

/// The next connection, however long the system takes to have one.
async fn accept(listener: &TcpListener, shared: &Shared) -> (TcpStream, SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                shared.metrics.accept_errors.inc();
                if let Some(left_out) = shared.log.now("accept", Instant::now()) {
                    tracing::error!(%error, left_out, "cannot take connections in on xds.listen; trying again");
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
