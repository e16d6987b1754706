//! The API's listener: so many connections, of which those that ask for nothing make room for those that do.

mod answer;
mod metrics;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

pub use metrics::ListenerMetrics;

use super::Api;
use super::body::Bodies;
use crate::connections::{Bounds, Place, Places, is_of_one_connection};
use crate::telemetry::seldom::Seldom;

/// Longest quiet of a connection, until the headers of a request are whole: the first comes with the connection, the next with the next
/// scrape. So long may pass within an answer, too, in which the client takes nothing.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(75);
/// What one connection may make us keep: headers, streams of HTTP/2, and what of them is not read yet.
const BUFFER: usize = 64 << 10;
const MAX_HEADERS: u32 = 16 << 10;
const STREAMS: u32 = 32;
const RECEIVE_WINDOW: u32 = 256 << 10;
/// What the system lacks, file descriptors mostly, does not come back by asking at once again.
const PAUSE: Duration = Duration::from_millis(100);

impl Api {
    /// Serves on `listener` until `shutdown`, then until the requests that are here are answered.
    pub async fn serve(
        self,
        listener: TcpListener,
        metrics: ListenerMetrics,
        shutdown: impl Future<Output = ()>,
    ) {
        let most = self.max_connections as usize;
        let places = Places::new(Bounds { most, most_waiting: most });
        let (open, mut all_gone) = mpsc::channel::<()>(1);
        let (close, closing) = watch::channel(false);
        let (bodies, log) = (Bodies::default(), Seldom::default());
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, address) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) if is_of_one_connection(&error) => continue,
                    Err(error) => {
                        if let Some(left_out) = log.now("accept", Instant::now()) {
                            tracing::error!(%error, left_out, "cannot take connections in on api.listen; trying again");
                        }
                        sleep(PAUSE).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let Ok(place) = places.enter(address.ip().into()) else {
                metrics.refused.with_label_values(&["too_many"]).inc();
                continue;
            };
            let connection = Connection {
                api: self.clone(),
                bodies: bodies.clone(),
                activity: Activity::new(place),
                closing: closing.clone(),
            };
            let (metrics, open) = (metrics.clone(), open.clone());
            tokio::spawn(async move {
                metrics.connections.inc();
                if connection.serve(stream, address).await == End::MadeRoom {
                    metrics.refused.with_label_values(&["made_room"]).inc();
                }
                metrics.connections.dec();
                drop(open);
            });
        }
        drop(listener);
        close.send_replace(true);
        drop(open);
        let _ = all_gone.recv().await;
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By itself, or because it was quiet for long.
    Over,
    /// Another one needed its place.
    MadeRoom,
}

struct Connection {
    api: Api,
    bodies: Bodies,
    activity: Activity,
    closing: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, stream: TcpStream, address: SocketAddr) -> End {
        let Self { api, bodies, activity, mut closing } = self;
        // An answer waits up to 40 ms without; it fails only on a connection that is gone.
        let _ = stream.set_nodelay(true);
        let (counted, source) = (activity.clone(), address.ip().into());
        let service = service_fn(move |request| {
            answer::answer(api.clone(), bodies.clone(), counted.clone(), source, request)
        });
        let builder = http();
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let end = tokio::select! {
            end = connection.as_mut() => end,
            () = activity.place.lost() => return End::MadeRoom,
            () = activity.quiet() => Ok(()),
            () = closed(&mut closing) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    end = connection => end,
                    () = activity.place.lost() => return End::MadeRoom,
                    () = activity.quiet() => Ok(()),
                }
            }
        };
        tracing::debug!(%address, ?end, "API connection ended");
        End::Over
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the listener is gone.
    let _ = closing.wait_for(|closing| *closing).await;
}

fn http() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    // Quiet connections are ended by us, and those within the headers of a request are quiet.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(IDLE / 3)
        .keep_alive_timeout(IDLE / 6)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW);
    builder
}

/// What a connection is about. Its clones share it.
#[derive(Clone, Debug)]
struct Activity {
    place: Arc<Place>,
    requests: watch::Sender<Requests>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    open: usize,
    at_work: usize,
    /// So far.
    total: u64,
}

impl Activity {
    fn new(place: Place) -> Self {
        Self { place: Arc::new(place), requests: watch::Sender::default() }
    }

    /// A request has come; until dropped.
    fn asked(&self) -> OnDrop<impl FnMut() + use<>> {
        self.requests.send_modify(|requests| {
            requests.open += 1;
            requests.total += 1;
        });
        let activity = self.clone();
        OnDrop(move || activity.requests.send_modify(|requests| requests.open -= 1))
    }

    /// A client takes what it is given.
    fn moves(&self) {
        self.requests.send_modify(|_| ());
    }

    /// Something is done for it; until dropped.
    fn at_work(&self) -> OnDrop<impl FnMut() + use<>> {
        self.requests.send_modify(|requests| {
            requests.at_work += 1;
            self.place.settle();
        });
        let activity = self.clone();
        OnDrop(move || {
            activity.requests.send_modify(|requests| {
                requests.at_work -= 1;
                if requests.at_work == 0 {
                    activity.place.wait();
                }
            });
        })
    }

    /// Completes when there was no request for long.
    async fn quiet(&self) {
        let mut requests = self.requests.subscribe();
        loop {
            let now = *requests.borrow_and_update();
            let patience = if now.total == 0 { FIRST_REQUEST } else { IDLE };
            if now.open > 0 {
                // The sender lives as long as this.
                let _ = requests.changed().await;
            } else if timeout(patience, requests.changed()).await.is_err() {
                return;
            }
        }
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
