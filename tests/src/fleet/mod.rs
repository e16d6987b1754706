//! A simulated fleet: thousands of proxies over delta ADS, each with a connection of its own, in one thread.
//!
//! ```text
//!  bench, tests ──► handle ══ JSON lines ══► realmgate-fleet: command ──► crew ──► connection ──► any delta-ADS server
//!                                                                                     │  ▲
//!                                                                       reader ◄──────┘  └────── proxy ── catalogue
//! ```
//! A simulated proxy asks as an Envoy does and acknowledges everything; it knows of each resource the name and
//! the version. What is common to all (names, versions, what a cluster or listener brings) is kept once.
//! `reader`, `proxy` and `catalogue` are values in, values out.

mod catalogue;
mod command;
mod connection;
mod crew;
mod handle;
mod proxy;
mod reader;
mod settings;
mod tally;

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

pub use catalogue::Kind;
pub use command::{Command, Reply, serve};
pub use crew::Crew;
pub use handle::Fleet;
pub use settings::Settings;
pub use tally::{Acknowledged, Traffic};

/// Now, on a clock that all processes of a machine share (`CLOCK_MONOTONIC`), so that a moment of one can be taken
/// from a moment of another.
#[must_use]
pub fn moment() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Lets this process and the children that it starts have as many open files as the system allows it; often it
/// begins with 1,024, and each proxy needs one at either end.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be raised shows when connections fail.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
