//! What a fleet counts: who is in sync, when a change was acknowledged, and how much was received for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::proxy::Watched;

/// What was received, all proxies together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes of gRPC messages with their prefix; the framing of HTTP/2 is not in it.
    pub bytes: u64,
    /// Responses.
    pub messages: u64,
    /// Resources in them.
    pub resources: u64,
    /// Bytes of these resources' bodies alone.
    pub resource_bytes: u64,
}

/// When a change was acknowledged. Moments are nanoseconds of the machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Proxies that have.
    pub count: usize,
    /// The first of them.
    pub first_ns: u64,
    /// Half of them.
    pub median_ns: u64,
    /// The last of them.
    pub last_ns: u64,
    /// Connections that were lost since the change was waited for.
    pub losses: u64,
    /// Received since the change was waited for.
    pub traffic: Traffic,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Proxies that are in sync on the stream they have.
    pub(super) synced: usize,
    /// When the last of them came to be.
    pub(super) last_sync: Duration,
    /// Grows when all have to be in sync anew.
    pub(super) round: u64,
    /// The change that is waited for, and its number.
    pub(super) watched: Option<Watched>,
    pub(super) watch: u64,
    pub(super) moments: Vec<Duration>,
    pub(super) traffic: Traffic,
    /// Connections that failed or ended, and why the latest did.
    pub(super) losses: u64,
    pub(super) last_loss: String,
}

impl Tally {
    /// Waits for a change from now on.
    pub(super) fn watch(&mut self, watched: Watched) {
        self.watched = Some(watched);
        self.watch += 1;
        self.moments.clear();
        self.losses = 0;
        self.traffic = Traffic::default();
    }

    pub(super) fn acknowledged(&self) -> Acknowledged {
        let mut sorted = self.moments.clone();
        sorted.sort();
        let at = |moment: Option<&Duration>| moment.map_or(0, |moment| nanoseconds(*moment));
        Acknowledged {
            count: sorted.len(),
            first_ns: at(sorted.first()),
            median_ns: at(sorted.get(sorted.len() / 2)),
            last_ns: at(sorted.last()),
            losses: self.losses,
            traffic: self.traffic,
        }
    }
}

pub(super) fn nanoseconds(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}
