//! A control plane under measurement, whoever's it is, and what the system says of its process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::request::Sent;
use crate::Failure;
use crate::load::watch::kib;

/// How long a server may go on working for a change before the next measurement begins.
const UNTIL_QUIET: Duration = Duration::from_mins(2);
const GLANCE: Duration = Duration::from_millis(100);
/// The kernel counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// How an endpoint is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A request to the server's API.
    Api,
    /// A rule in Redis and its notification.
    Redis,
}

/// A server that gives every proxy the same clusters with EDS.
pub(super) trait Server {
    /// For progress.
    fn name(&self) -> &'static str;
    /// Where proxies connect.
    fn xds(&self) -> SocketAddr;
    /// Its process.
    fn pid(&mut self) -> u32;
    /// The ways of [`Server::change`] that it knows.
    fn ways(&self) -> &'static [Way];
    /// The cluster whose endpoints change so.
    fn cluster(&self, way: Way) -> &'static str;
    /// Begins to change an endpoint.
    fn change(&mut self, way: Way) -> Result<Change, Failure>;
    /// Kills it, and starts it again with an endpoint changed in the way that is given back.
    fn restart_changed(&mut self) -> Result<Way, Failure>;
}

/// A change that is under way.
pub(super) struct Change {
    /// When it was sent.
    pub(super) sent: Duration,
    /// What is to be answered yet.
    pub(super) answer: Option<Sent>,
}

impl Change {
    pub(super) fn finish(self) -> Result<(), Failure> {
        self.answer.map_or(Ok(()), Sent::finish)
    }
}

/// Blocks until the process does next to nothing.
pub(super) fn quiet(pid: u32) -> Result<(), Failure> {
    let start = Instant::now();
    let mut before = cpu_seconds(pid)?;
    while start.elapsed() < UNTIL_QUIET {
        thread::sleep(GLANCE);
        let now = cpu_seconds(pid)?;
        if now - before < 1.5 / TICKS_PER_SECOND {
            return Ok(());
        }
        before = now;
    }
    Err(Failure::new(format!("the server still works {UNTIL_QUIET:?} after its clients were served")))
}

/// Processor time of the process so far.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).map_err(Failure::because(&file))?;
    // Behind the name, which may hold anything, come the state and from the twelfth on the times.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let ticks = fields.into_iter().flatten().filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS_PER_SECOND)
}

/// Resident memory of the process.
pub(super) fn resident_kib(pid: u32) -> Result<f64, Failure> {
    let kib = kib(&format!("/proc/{pid}/status"), "VmRSS:")?;
    Ok(f64::from(u32::try_from(kib).unwrap_or(u32::MAX)))
}
