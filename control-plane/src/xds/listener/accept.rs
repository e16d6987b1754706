//! Takes connections in: how many at most, what happens when the system has none to give, and the end of it all.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tonic::codegen::{Service, StdError};

use super::connection::{self, Shared};
use super::drain::Drain;

/// What the system lacks, file descriptors mostly, does not come back by asking at once again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    // One place a connection, given back when its task ends: when all are back, all are gone.
    let places = Arc::new(Semaphore::new(bounds.max_connections as usize));
    let drain = Drain::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, address) = tokio::select! {
            connection = accept(&listener, &shared) => connection,
            () = &mut shutdown => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.refused("too_many", "xds.max_connections are open", address);
            continue;
        };
        let (service, shared, turn) = (service.clone(), Arc::clone(&shared), drain.turn());
        tokio::spawn(async move {
            shared.metrics.connections.inc();
            connection::serve(stream, address, service, Arc::clone(&shared), turn).await;
            shared.metrics.connections.dec();
            drop(place);
        });
    }
    // From here the system refuses connections, and proxies try the next replica.
    drop(listener);
    let open = bounds.max_connections.saturating_sub(u32::try_from(places.available_permits()).unwrap_or(0));
    tracing::info!(connections = open, "moving proxies on");
    drain.begin(bounds.drain, open);
    // Every connection ends itself in time. The semaphore is never closed, which is the only error.
    let _ = places.acquire_many(bounds.max_connections).await;
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

/// Whether only the connection that was to be taken is at fault: it is gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}
