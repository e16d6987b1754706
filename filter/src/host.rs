//! What the core asks of whoever runs it: Envoy through proxy-wasm, or a recording double in tests.

use std::fmt;

use crate::access_log::Record;
use crate::telemetry::Metric;

/// The proxy around one connection. Calls act on the connection whose callback is running, or the one last
/// [selected](Host::select).
pub trait Host: Stream + Process {
    /// Makes the calls that follow act on another connection. Fails when it no longer exists.
    fn select(&mut self, connection: u32) -> Result<(), HostError>;

    /// Names the cluster that the connection goes to.
    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError>;

    /// Sets what the cluster's load balancer hashes.
    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError>;

    /// Tells the access log how the connection ended, if anybody reads it. The log may miss it, the player does not.
    fn log(&mut self, record: &Record);

    /// Why the proxy could not bring the connection to a game server; `None` = nothing failed, or it cannot say.
    fn upstream_failure(&mut self) -> Option<UpstreamFailure>;

    /// Replaces what `out` holds by the client's address, `ip:port` or `[ip]:port`.
    fn source_address(&mut self, out: &mut String) -> Result<(), HostError>;

    /// A session id that no other session has, of any worker or pod; above 0.
    fn session_id(&mut self) -> Result<i64, HostError>;

    /// Closes the connection.
    fn close(&mut self) -> Result<(), HostError>;

    /// Adds to a counter or gauge, for each connection and message: to be cheap, and shown in its own time. A metric that
    /// cannot be counted is no reason to lose a player: nothing to handle.
    fn count(&mut self, metric: Metric, by: i64);

    /// Writes a warning to the proxy's log.
    fn warn(&mut self, message: &str);
}

/// The data of the connection that is on its way through the proxy.
pub trait Stream {
    /// The first `len` bytes of the data that is on its way, at most all of it.
    fn read(&mut self, way: Way, len: usize) -> Result<Vec<u8>, HostError>;

    /// Replaces the first `len` bytes of the data that is on its way, at most all of it.
    fn replace(&mut self, way: Way, len: usize, by: &[u8]) -> Result<(), HostError>;

    /// Adds to the end of the data that is on its way.
    fn append(&mut self, way: Way, bytes: &[u8]) -> Result<(), HostError>;
}

/// The process that all workers of the proxy are threads of.
pub trait Process {
    /// Replaces what `out` holds by a value that the workers share, and gives the version of it: `None`, and nothing in
    /// `out`, where there is no value yet.
    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError>;

    /// Writes a shared value if it is still of this version, `None` = if it is not there; whether it was.
    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError>;

    /// Nanoseconds of a clock that all workers share and that never goes back.
    fn now(&mut self) -> Result<u64, HostError>;

    /// A random number, evenly distributed; not for secrets.
    fn random(&mut self) -> u64;
}

/// A game server that could not be reached, or that broke off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamFailure {
    /// Envoy's response flags, a bit each.
    pub flags: u64,
    /// What the connection to the server said, for people; often empty.
    pub reason: String,
}

impl UpstreamFailure {
    /// No endpoint is well.
    pub const NO_SERVER: u64 = 1 << 1;
    /// The server reset the connection; Envoy 1.37 does not tell.
    pub const RESET: u64 = 1 << 4;
    /// No connection came about in all attempts.
    pub const CONNECT: u64 = 1 << 5;
    /// A circuit breaker is open.
    pub const OVERFLOW: u64 = 1 << 7;
    /// Envoy has no such cluster.
    pub const NO_CLUSTER: u64 = 1 << 8 | 1 << 24;

    /// Short stable name, used in access logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self.flags {
            flags if flags & Self::CONNECT > 0 => "connect_failed",
            flags if flags & Self::NO_SERVER > 0 => "no_server",
            flags if flags & Self::OVERFLOW > 0 => "overflow",
            flags if flags & Self::NO_CLUSTER > 0 => "no_cluster",
            _ => "upstream_failed",
        }
    }

    /// What the server's side said, or what the flags mean.
    #[must_use]
    pub fn message(&self) -> &str {
        match self.label() {
            _ if !self.reason.is_empty() => &self.reason,
            "connect_failed" => "no connection to a game server came about",
            "no_server" => "no endpoint of the cluster is well",
            "overflow" => "the cluster has as many connections as its limits allow",
            "no_cluster" => "Envoy has no such cluster",
            _ => "the connection to the game server failed",
        }
    }
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
