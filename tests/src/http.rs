//! A blocking HTTP client for admin interfaces and the management API.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;
use ureq::http::Request;

use crate::Failure;

/// Longer than the longest wait we ask a server for.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a port.
    Port(SocketAddr),
    /// At a Unix socket.
    Socket(PathBuf),
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Port(address)
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self::Socket(path.to_owned())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One server's paths.
#[derive(Clone, Debug)]
pub struct Http {
    agent: Agent,
    server: Place,
    /// Sent with every request: its name and value.
    header: Option<(&'static str, String)>,
}

/// Status code and body of an answer, whatever the status.
pub type Answer = (u16, String);

impl Http {
    /// A client of `server`.
    #[must_use]
    pub fn new(server: impl Into<Place>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            // A kept connection to a server that was killed would fail the next request.
            .max_idle_connections(0)
            .proxy(None)
            .build();
        Self { agent: config.into(), server: server.into(), header: None }
    }

    /// The same with a header on every request, such as a token.
    #[must_use]
    pub fn with_header(self, name: &'static str, value: &str) -> Self {
        Self { header: Some((name, value.to_owned())), ..self }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send("GET", path, "", "")
    }

    /// POST without a body.
    pub fn post(&self, path: &str) -> Result<Answer, Failure> {
        self.send("POST", path, "", "")
    }

    /// Any method with a body.
    pub fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<Answer, Failure> {
        let doing = format!("{method} http://{}{path}", self.server);
        if let Place::Socket(socket) = &self.server {
            return over_socket(socket, method, path).map_err(Failure::because(&doing));
        }
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.server));
        if let Some((name, value)) = &self.header {
            request = request.header(*name, value);
        }
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(body.to_owned()).map_err(Failure::because(&doing))?;
        let mut response = self.agent.run(request).map_err(Failure::because(&doing))?;
        let body = response.body_mut().with_config().limit(256 << 20).read_to_string();
        Ok((response.status().as_u16(), body.map_err(Failure::because(&doing))?))
    }
}

/// Envoy's admin interface is all that is asked over a socket, and takes no body.
fn over_socket(socket: &Path, method: &str, path: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let body = if head.contains("transfer-encoding: chunked") { whole(body) } else { body.to_owned() };
    Ok((status, body))
}

/// The chunks of a body put together.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        let Some((chunk, rest)) = rest.split_at_checked(length).filter(|_| length > 0) else { break };
        body.push_str(chunk);
        chunks = rest.trim_start_matches("\r\n");
    }
    body
}
