//! Serves xDS on a listener until told to stop.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::AdsServer;

/// A stream that is silent for hours is normal, so a vanished host shows only by pings: it is noticed
/// within 40 s, and the load balancers between (AWS 350 s, Azure 240 s) never see an idle connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Envoy opens one stream a connection; a few more leave room for a reconnect that overlaps.
const STREAMS_PER_CONNECTION: u32 = 16;

/// Serves `server` on `listener` until `shutdown` completes; then streams end with `UNAVAILABLE` and
/// connections close. Fails when the listener does.
pub async fn serve(
    listener: TcpListener,
    server: AdsServer,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let stop = server.clone();
    let shutdown = async move {
        shutdown.await;
        stop.stop();
    };
    // Without TCP_NODELAY a response waits up to 40 ms for the acknowledgement of the one before.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_routes(server.into_routes())
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await
}
