//! How many connections a client may have, and how fast they may come; and how long a header may take.
//!
//! ```text
//!   gateway -> gate -> table -> bucket      the counts of the few addresses of a bucket
//!      |         |        \---> workers     which workers live, so that nobody counts for the dead
//!      |          \-----------> address     who is counted
//!       \-----> deadlines
//! ```
//! The counts per address are exact over all workers of an Envoy: they stand in shared data, in a table of
//! [`table::BUCKETS`] keys, since such keys can never be deleted. The total is not ours: Envoy's own
//! `connection_limit` filter counts it, in front of this one.

pub mod address;
pub mod bucket;
pub mod deadlines;
mod gate;
pub mod table;
pub mod workers;

pub use address::{Address, Listener};
pub use deadlines::{Deadlines, tick_period_ms};
pub use gate::{Gate, SharedTable};
pub use table::Table;

use crate::config::FilterConfig;

/// What one client address may do at a listener; 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Open connections.
    pub connections: u32,
    /// New connections per second: so many at once, and as many again spread over each second.
    pub new_per_second: u32,
}

impl AddressLimits {
    /// Those of a configuration.
    #[must_use]
    pub const fn of(config: &FilterConfig) -> Self {
        Self {
            connections: config.connections_per_ip,
            new_per_second: config.new_connections_per_ip_per_second,
        }
    }

    /// Whether there is anything to count.
    #[must_use]
    pub const fn any(self) -> bool {
        self.connections > 0 || self.new_per_second > 0
    }
}
