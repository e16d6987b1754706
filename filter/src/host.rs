//! What the core asks of whoever runs it: Envoy through proxy-wasm, or a recording double in tests.

use std::fmt;

use crate::telemetry::Metric;

/// The proxy around one connection. Calls act on the connection whose callback is running, or the one last
/// [selected](Host::select).
pub trait Host {
    /// Makes the calls that follow act on another connection. Fails when it no longer exists.
    fn select(&mut self, connection: u32) -> Result<(), HostError>;

    /// Names the cluster that the connection goes to.
    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError>;

    /// Sets what the cluster's load balancer hashes.
    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError>;

    /// Sets a property of the connection that access logs can show.
    fn set_property(&mut self, name: &'static str, value: &str) -> Result<(), HostError>;

    /// Replaces what `out` holds by the client's address, `ip:port` or `[ip]:port`.
    fn source_address(&mut self, out: &mut String) -> Result<(), HostError>;

    /// A session id that no other session has, of any worker or pod; above 0.
    fn session_id(&mut self) -> Result<i64, HostError>;

    /// The first `len` bytes of the data that is on its way, at most all of it.
    fn read(&mut self, way: Way, len: usize) -> Result<Vec<u8>, HostError>;

    /// Replaces the first `len` bytes of the data that is on its way, at most all of it.
    fn replace(&mut self, way: Way, len: usize, by: &[u8]) -> Result<(), HostError>;

    /// Adds to the end of the data that is on its way.
    fn append(&mut self, way: Way, bytes: &[u8]) -> Result<(), HostError>;

    /// Closes the connection.
    fn close(&mut self) -> Result<(), HostError>;

    /// Adds to a counter or gauge, for each connection and message: to be cheap, and shown in its own time. A metric that cannot be counted is no reason to lose a player: nothing to
    /// handle.
    fn count(&mut self, metric: Metric, by: i64);

    /// A random number, evenly distributed; not for secrets.
    fn random(&mut self) -> u64;

    /// Writes a warning to the proxy's log.
    fn warn(&mut self, message: &str);
}

/// Which way data is going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// From the client to the game server.
    ToServer,
    /// From the game server to the client.
    ToClient,
}

/// A call that the host refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError {
    /// The call, for people.
    pub call: &'static str,
    /// What the host said, for people.
    pub reason: String,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host refused {}: {}", self.call, self.reason)
    }
}

impl std::error::Error for HostError {}
