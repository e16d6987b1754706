//! An HTTP request whose sending has a moment, and whose answer may take its time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Failure;
use crate::fleet::moment;

/// Longer than anything takes that is not broken.
const PATIENCE: Duration = Duration::from_mins(2);

/// A request that was sent.
pub(super) struct Sent {
    stream: TcpStream,
    pub(super) at: Duration,
}

/// Sends a request over a connection of its own; the clock starts when that is made.
pub(super) fn send(to: SocketAddr, method: &str, path: &str, body: &str) -> Result<Sent, Failure> {
    let because = |e| Failure::new(format!("{method} http://{to}{path}: {e}"));
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nContent-Type: application/yaml\r\n\
        Content-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(to).map_err(because)?;
    stream.set_nodelay(true).map_err(because)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(because)?;
    let at = moment();
    stream.write_all(request.as_bytes()).map_err(because)?;
    Ok(Sent { stream, at })
}

impl Sent {
    /// Reads the answer, which must be that it is done.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let mut answer = Vec::new();
        self.stream.read_to_end(&mut answer).map_err(Failure::because("an answer"))?;
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 2") {
            return Ok(());
        }
        let start: String = answer.chars().take(500).collect();
        Err(Failure::new(format!("the change was refused: {start}")))
    }
}
