//! The counts of all addresses, in data that the workers share.
//!
//! A shared key can never be deleted, so there are [`BUCKETS`] of them whoever connects; an address belongs to
//! one by a hash with a secret seed, and stands in it by itself: two addresses in a bucket have a count each.
//! A bucket holds only what is open or came within a second, so its size follows the live connections, and
//! [`super::bucket::MOST`] records bound it. Writers compare and swap: a lost race is read and written again.
//!
//! A connection costs a read and a write when it comes and when it goes; one that is refused costs the read.

use std::fmt::Write as _;

use super::bucket::{Answer, Bucket};
use super::workers::Workers;
use super::{Address, AddressLimits};
use crate::host::{HostError, Process};

/// Keys of the table. Full, they are some 7 MB; with 10,000 live connections under 1 MB.
pub const BUCKETS: u64 = 4096;

/// How often a write is tried. Each failed attempt is another worker's success, so this many would have to come
/// first.
pub const ATTEMPTS: u32 = 10_000;

/// Nanoseconds between beats, at least.
const BEAT: u64 = 1_000_000_000;

/// One worker's way to the table.
#[derive(Debug, Default)]
pub struct Table {
    /// While something is counted.
    workers: Option<Workers>,
    /// Connections that are counted as open.
    open: u64,
    /// Beats since the last connection was let in.
    beats: u32,
    /// The last time that was asked for, and that of the last beat.
    now: u64,
    beat_at: u64,
    // Scratch space.
    key: String,
    bytes: Vec<u8>,
    bucket: Bucket,
}

impl Table {
    /// Counts a new connection, if the limits let it in.
    ///
    /// # Errors
    /// [`HostError`]: the host refused a call. Nothing was counted.
    pub fn admit(
        &mut self,
        address: Address,
        limits: AddressLimits,
        host: &mut impl Process,
    ) -> Result<Answer, HostError> {
        let id = self.join(address, host)?;
        let mut is_timed = limits.new_per_second == 0;
        for _ in 0..ATTEMPTS {
            let version = self.load(host)?;
            if self.bucket.is_full(address, limits) {
                return Ok(Answer::TooMany);
            }
            // Only now: a flood from one address is turned away without.
            if !std::mem::replace(&mut is_timed, true) {
                self.now = host.now()?;
                self.sweep();
            }
            let answer = self.bucket.admit(address, id, limits, self.now);
            if !matches!(answer, Answer::Counted | Answer::Passed) {
                return Ok(answer);
            }
            if self.store(version, host)? {
                self.beats = 0;
                self.open += u64::from(answer == Answer::Counted);
                return Ok(answer);
            }
        }
        Err(no_end())
    }

    /// Takes back a connection that was counted.
    ///
    /// # Errors
    /// [`HostError`]: the host refused a call.
    pub fn release(&mut self, address: Address, host: &mut impl Process) -> Result<(), HostError> {
        // Whatever comes of it: this worker does not count it any more.
        self.open = self.open.saturating_sub(1);
        let id = self.join(address, host)?;
        for _ in 0..ATTEMPTS {
            let version = self.load(host)?;
            // Others may have taken this worker for dead and dropped it.
            if !self.bucket.release(address, id) {
                return Ok(());
            }
            if self.store(version, host)? {
                return Ok(());
            }
        }
        Err(no_end())
    }

    /// Whether [`Self::beat`] has to be called.
    #[must_use]
    pub const fn counts(&self) -> bool {
        self.workers.is_some()
    }

    /// To be called about once a second by everyone who [counts](Self::counts), and may be called more often. A worker
    /// that has nothing to count any more stops to.
    ///
    /// # Errors
    /// [`HostError`]: the host refused a call.
    pub fn beat(&mut self, host: &mut impl Process) -> Result<(), HostError> {
        let Some(workers) = &mut self.workers else { return Ok(()) };
        self.now = host.now()?;
        if self.now.saturating_sub(self.beat_at) < BEAT {
            return Ok(());
        }
        self.beat_at = self.now;
        self.beats = self.beats.saturating_add(1);
        workers.beat(host)?;
        // Two beats are a second apart, and after a second no new connection is remembered. Who may be dead has to be
        // missed by somebody: what it counted would count for ever.
        if self.open == 0 && self.beats >= 2 && !workers.any_missed() {
            workers.leave(host)?;
            self.workers = None;
        }
        Ok(())
    }

    /// This worker's number; also names the bucket of the calls that follow.
    fn join(&mut self, address: Address, host: &mut impl Process) -> Result<u32, HostError> {
        let workers = match &mut self.workers {
            Some(workers) => workers,
            none => {
                self.beats = 0;
                none.insert(Workers::join(host)?)
            }
        };
        let bucket = address.bucket(workers.seed(), BUCKETS);
        self.key.clear();
        // Short enough for Envoy to look it up without an allocation. Writing to a string never fails.
        let _ = write!(self.key, "limits.1.{bucket:03x}");
        Ok(workers.id())
    }

    fn load(&mut self, host: &mut impl Process) -> Result<Option<u32>, HostError> {
        let version = host.load(&self.key, &mut self.bytes)?;
        self.bucket.read(&self.bytes);
        self.sweep();
        Ok(version)
    }

    fn store(&mut self, version: Option<u32>, host: &mut impl Process) -> Result<bool, HostError> {
        self.bucket.write(&mut self.bytes);
        host.store(&self.key, &self.bytes, version)
    }

    fn sweep(&mut self) {
        let workers = self.workers.as_ref();
        self.bucket.sweep(self.now, |worker| workers.is_none_or(|workers| workers.lives(worker)));
    }
}

fn no_end() -> HostError {
    HostError { call: "a count of connections", reason: "no end of other writers".to_owned() }
}
