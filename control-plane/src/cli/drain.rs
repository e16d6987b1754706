//! `realmgate drain`: takes an Envoy out of service over its admin interface. Asked to end by a signal, Envoy closes
//! everything at once; this runs before.

use std::error::Error;
use std::thread;
use std::time::{Duration as Time, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::rt::{Read, Write};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::admin_interface::{AdminAddress, DEFAULT_PORT, check_own, default_socket};
use super::{Failure, bootstrap, output};
use crate::model::Duration;

/// How often the sessions are counted.
const PERIOD: Time = Time::from_millis(250);

/// Longest that one answer of the admin interface may take.
const ANSWER: Time = Time::from_secs(5);

/// Longest answer that is read: a line for each listener and worker.
const MAX_ANSWER: usize = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The Envoy's admin interface, a port or a Unix socket [default: 127.0.0.1:9901]
    #[arg(long, value_name = "HOST:PORT or PATH", conflicts_with = "id")]
    admin: Option<AdminAddress>,
    /// The Envoy's id, where its admin interface is the socket that `envoy-bootstrap` chooses.
    #[arg(long, value_parser = bootstrap::name)]
    id: Option<String>,
    /// Time between `/ready` saying no and the first refused connection, for load balancers to look.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    notice: Duration,
    /// Time for live sessions to end, from the first refused connection on.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    grace: Duration,
    /// Then end the Envoy, and with it the sessions that are left.
    #[arg(long)]
    quit: bool,
}

impl Arguments {
    fn admin(&self) -> Result<AdminAddress, Failure> {
        if let Some(id) = &self.id {
            let path = default_socket(id)?;
            check_own(&path)?;
            return Ok(AdminAddress::Socket(path));
        }
        let port = || format!("127.0.0.1:{DEFAULT_PORT}").parse().map_err(Failure::usage);
        self.admin.clone().map_or_else(port, Ok)
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let admin = Admin::new(arguments.admin()?)?;
    admin.post("/healthcheck/fail")?;
    output::remark(&format!("not ready; new connections are taken for {} more", arguments.notice));
    thread::sleep(arguments.notice.get());
    // The listeners of players alone: /health, /ready and /metrics go on.
    admin.post("/drain_listeners?inboundonly")?;
    let left = wait(&admin, arguments.grace.get())?;
    if arguments.quit {
        admin.post("/quitquitquit")?;
    }
    if left > 0 {
        let fate = if arguments.quit { "were closed" } else { "go on until the Envoy ends" };
        return Err(Failure::failed(format!("after {} {left} connections {fate}", arguments.grace)));
    }
    output::remark("drained");
    Ok(())
}

/// Waits until no connection is left, or for so long; gives how many are.
///
/// An Envoy that does not answer now is asked again: ended early, this would end live sessions early.
fn wait(admin: &Admin, grace: Time) -> Result<u64, Failure> {
    let start = Instant::now();
    let mut told = None;
    loop {
        let left = admin.get("/stats?filter=downstream_cx_active$").map(|stats| connections(&stats));
        if matches!(left, Ok(0)) || start.elapsed() >= grace {
            return left;
        }
        let now = match left {
            Ok(left) => format!("no new connections; {left} live"),
            Err(failure) => failure.to_string(),
        };
        if told.as_ref() != Some(&now) {
            output::remark(&now);
            told = Some(now);
        }
        thread::sleep(PERIOD.min(grace.saturating_sub(start.elapsed())));
    }
}

/// Connections to all listeners but Envoy's own admin interface and the edge's health listener.
fn connections(stats: &str) -> u64 {
    let active = |line: &str| {
        let (name, count) = line.split_once(": ")?;
        let listener = name.strip_prefix("listener.")?.strip_suffix(".downstream_cx_active")?;
        let spared = ["admin", crate::compile::HEALTH_LISTENER].contains(&listener);
        let part = listener.contains(".worker_") || listener.ends_with(".main_thread");
        if spared || part { None } else { count.trim().parse::<u64>().ok() }
    };
    stats.lines().filter_map(active).sum()
}

struct Admin {
    address: AdminAddress,
    runtime: Runtime,
}

impl Admin {
    fn new(address: AdminAddress) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
        Ok(Self { address, runtime })
    }

    fn get(&self, path: &str) -> Result<String, Failure> {
        self.ask(Method::GET, path)
    }

    fn post(&self, path: &str) -> Result<(), Failure> {
        self.ask(Method::POST, path).map(drop)
    }

    fn ask(&self, method: Method, path: &str) -> Result<String, Failure> {
        let failed = |error: String| Failure::failed(format!("{}{path}: {error}", self.address));
        let asked = async {
            match &self.address {
                AdminAddress::Port(at) => {
                    ask(TcpStream::connect((at.host(), at.port())).await?, method, path).await
                }
                AdminAddress::Socket(at) => ask(UnixStream::connect(at).await?, method, path).await,
            }
        };
        // The timer belongs to the runtime, so it is made there.
        match self.runtime.block_on(async { timeout(ANSWER, asked).await }) {
            Ok(answer) => answer.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", ANSWER.as_secs()))),
        }
    }
}

/// One request over a connection of its own: an Envoy that is stopping closes those that it has.
async fn ask<S>(stream: S, method: Method, path: &str) -> Result<String, Box<dyn Error + Send + Sync>>
where
    TokioIo<S>: Read + Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "envoy");
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
    if status.is_success() {
        Ok(String::from_utf8_lossy(&body).into_owned())
    } else {
        Err(format!("it answered {status}").into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;
    use std::time::Duration;

    use super::{Admin, AdminAddress, connections, wait};

    #[test]
    fn counts_the_connections_of_players_and_each_once() {
        let stats = "http.admin.downstream_cx_active: 1\n\
                     listener.admin.downstream_cx_active: 1\n\
                     listener.admin.main_thread.downstream_cx_active: 1\n\
                     listener.realmgate-health.downstream_cx_active: 4\n\
                     listener.realmgate-health.worker_0.downstream_cx_active: 4\n\
                     listener.edge.downstream_cx_active: 3\n\
                     listener.edge.worker_0.downstream_cx_active: 1\n\
                     listener.edge.worker_1.downstream_cx_active: 2\n\
                     listener.127.0.0.1_7000.downstream_cx_active: 2\n";
        assert_eq!(connections(stats), 5);
        assert_eq!(connections(""), 0);
    }

    /// An Envoy that answers one request after the other with these.
    fn answers<S: Read + Write>(answers: &[(&str, &str)], mut accept: impl FnMut() -> S) {
        for (status, body) in answers {
            let mut stream = BufReader::new(accept());
            let whole = stream.by_ref().lines().map_while(Result::ok).any(|line| line.is_empty());
            assert!(whole, "a whole request");
            let length = body.len();
            let stream = stream.get_mut();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
    }

    const BUSY_THEN_ONE_THEN_NONE: [(&str, &str); 3] =
        [("503 Busy", ""), ("200 OK", "listener.edge.downstream_cx_active: 1"), ("200 OK", "")];

    #[test]
    fn an_envoy_that_does_not_answer_for_a_moment_keeps_its_grace() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let admin = Admin::new(listener.local_addr().unwrap().to_string().parse().unwrap()).unwrap();
        let envoy = thread::spawn(move || answers(&BUSY_THEN_ONE_THEN_NONE, || listener.accept().unwrap().0));
        assert_eq!(wait(&admin, Duration::from_secs(20)).ok(), Some(0));
        envoy.join().unwrap();
    }

    #[test]
    fn the_same_over_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let admin = Admin::new(AdminAddress::Socket(path)).unwrap();
        let envoy = thread::spawn(move || answers(&BUSY_THEN_ONE_THEN_NONE, || listener.accept().unwrap().0));
        assert_eq!(wait(&admin, Duration::from_secs(20)).ok(), Some(0));
        envoy.join().unwrap();
    }
}
