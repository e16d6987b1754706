//! Which workers live. A worker whose VM died (a trap, and Envoy makes it a new one) takes nothing back any
//! more: what it counted must not count for ever.
//!
//! Every worker that counts has a number, never given twice, and writes a beat beside it once a second; one that has
//! nothing to count any more gives its number back and rests, unless it has somebody to miss. Death is not a
//! matter of the clock, which runs on while a whole process stands still: it is to miss [`PATIENCE`] beats of
//! somebody else's. A worker that was only stuck comes back under its number; what others dropped meanwhile is
//! then not counted until it ends, and never counted twice.
//!
//! The value, little endian: seed u64, next number u32, then for each worker its number u32 and beat u32.

use crate::host::{HostError, Process};

/// Where the workers meet. The digit is the layout of all that [`super::table`] shares: a new one gets new keys.
const KEY: &str = "limits.1.workers";

/// Beats of one's own without one of another before that one is taken for dead.
const PATIENCE: u32 = 10;

/// Most workers that are remembered. Envoy has one a core; those above it are dead ones that nobody has missed yet.
const MOST: usize = 4096;

/// As [`super::table::ATTEMPTS`].
const ATTEMPTS: u32 = super::table::ATTEMPTS;

/// One worker's view of all.
#[derive(Debug)]
pub struct Workers {
    /// This worker's own.
    id: u32,
    /// Sets the buckets of addresses; the same for all.
    seed: u64,
    /// The first number that nobody had at the last beat.
    next: u32,
    others: Vec<Other>,
}

#[derive(Clone, Copy, Debug)]
struct Other {
    id: u32,
    beat: u32,
    missed: u32,
}

/// What is shared.
#[derive(Default)]
struct Roll {
    seed: u64,
    next: u32,
    /// Number and beat.
    workers: Vec<(u32, u32)>,
}

impl Workers {
    /// Takes a number.
    ///
    /// # Errors
    /// [`HostError`]: the host refused a call.
    pub fn join(host: &mut impl Process) -> Result<Self, HostError> {
        let seed = host.random();
        let (id, roll) = change(host, |roll, is_new| {
            if is_new {
                roll.seed = seed;
            }
            let id = roll.next;
            roll.next = id.wrapping_add(1);
            roll.workers.push((id, 0));
            id
        })?;
        let mut workers = Self { id, seed: roll.seed, next: roll.next, others: Vec::new() };
        workers.see(&roll);
        Ok(workers)
    }

    /// This worker's number.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// What sets the buckets.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether what this worker counted counts. One that came after the last beat does.
    #[must_use]
    pub fn lives(&self, worker: u32) -> bool {
        worker == self.id || worker >= self.next || self.others.iter().any(|other| other.id == worker)
    }

    /// Says that this worker lives, and finds out who else does.
    ///
    /// # Errors
    /// [`HostError`]: the host refused a call; all stay as they were known.
    pub fn beat(&mut self, host: &mut impl Process) -> Result<(), HostError> {
        let (id, others) = (self.id, &self.others);
        let is_dead = |worker: u32, beat: u32| {
            others.iter().any(|known| known.id == worker && known.beat == beat && known.missed >= PATIENCE)
        };
        let ((), roll) = change(host, |roll, is_new| {
            if is_new {
                // Everything is gone, so that nothing is shared with others any more but by this.
                (roll.seed, roll.next) = (self.seed, self.next);
            }
            roll.workers.retain(|&(worker, beat)| worker == id || !is_dead(worker, beat));
            match roll.workers.iter_mut().find(|(worker, _)| *worker == id) {
                Some((_, beat)) => *beat = beat.wrapping_add(1),
                None => roll.workers.push((id, 0)),
            }
        })?;
        self.next = roll.next;
        self.see(&roll);
        Ok(())
    }

    /// Whether anybody missed more beats than two workers that do not beat at the same moment miss of each other.
    #[must_use]
    pub fn any_missed(&self) -> bool {
        self.others.iter().any(|other| other.missed > 1)
    }

    /// Gives the number back: it counts nothing, and nobody need wait for its death.
    ///
    /// # Errors
    /// [`HostError`]: the host refused a call; it is as before.
    pub fn leave(&self, host: &mut impl Process) -> Result<(), HostError> {
        let leave = |roll: &mut Roll, is_new| {
            if is_new {
                (roll.seed, roll.next) = (self.seed, self.next);
            }
            roll.workers.retain(|(worker, _)| *worker != self.id);
        };
        change(host, leave).map(|_| ())
    }

    fn see(&mut self, roll: &Roll) {
        let before = std::mem::take(&mut self.others);
        let others = roll.workers.iter().filter(|&&(id, _)| id != self.id);
        self.others.extend(others.map(|&(id, beat)| {
            let known = before.iter().find(|known| known.id == id && known.beat == beat);
            Other { id, beat, missed: known.map_or(0, |known| known.missed.saturating_add(1)) }
        }));
    }
}

/// Changes what is shared, as often as it takes to be the only one who did.
fn change<T>(
    host: &mut impl Process,
    mut edit: impl FnMut(&mut Roll, bool) -> T,
) -> Result<(T, Roll), HostError> {
    let mut bytes = Vec::new();
    for _ in 0..ATTEMPTS {
        let version = host.load(KEY, &mut bytes)?;
        let mut roll = Roll::read(&bytes);
        let result = edit(&mut roll, version.is_none());
        roll.write(&mut bytes);
        if host.store(KEY, &bytes, version)? {
            return Ok((result, roll));
        }
    }
    Err(HostError { call: "the list of workers", reason: "no end of other writers".to_owned() })
}

impl Roll {
    fn read(bytes: &[u8]) -> Self {
        let Some((seed, bytes)) = bytes.split_first_chunk() else { return Self::default() };
        let (words, _) = bytes.as_chunks::<4>();
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        let next = words.next().unwrap_or_default();
        let pairs = std::iter::from_fn(|| Some((words.next()?, words.next()?)));
        Self { seed: u64::from_le_bytes(*seed), next, workers: pairs.take(MOST).collect() }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        for (id, beat) in &self.workers {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&beat.to_le_bytes());
        }
    }
}
