//! One bucket of the table: what is counted for the few addresses in it. Pure: no host, no clock.
//!
//! A bucket is a list of records of 24 bytes, little endian: address u64, worker u32, open connections u32,
//! and, u64, when the address's new connections are all forgotten, in nanoseconds of the common clock. An
//! address has a record for each worker that counts for it, so that the counts of a worker that died can be
//! told from the others.

use super::{Address, AddressLimits};

/// Most records of a bucket. With 4,096 buckets and 100,000 records in all, the odds that some bucket has more
/// are about 1 in 10 million.
pub const MOST: usize = 64;

const RECORD: usize = 24;
const SECOND: u64 = 1_000_000_000;

/// What is known of one address by one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    address: u64,
    worker: u32,
    open: u32,
    forgotten_at: u64,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Let in and counted; to be [released](Bucket::release) when it ends.
    Counted,
    /// Let in where open connections have no limit.
    Passed,
    /// Let in, uncounted: the bucket is full. Turning a player away would be worse, and the total is bounded.
    Uncounted,
    /// Too many are open.
    TooMany,
    /// Too many came within a second.
    TooFast,
}

/// A bucket that was read.
#[derive(Debug, Default)]
pub struct Bucket {
    records: Vec<Record>,
}

impl Bucket {
    /// Reads a bucket; a torn record at its end is dropped.
    pub fn read(&mut self, bytes: &[u8]) {
        let (whole, _) = bytes.as_chunks::<RECORD>();
        self.records.clear();
        self.records.extend(whole.iter().take(MOST).map(Record::from_bytes));
    }

    /// Replaces what `out` holds by the bucket.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        for record in &self.records {
            record.put(out);
        }
    }

    /// Drops what counts no more: records of the dead, and those of addresses that have nothing open and whose
    /// last connections are forgotten.
    pub fn sweep(&mut self, now: u64, lives: impl Fn(u32) -> bool) {
        self.records.retain(|record| lives(record.worker) && (record.open > 0 || record.forgotten_at > now));
    }

    /// Whether the address has as many connections open as it may.
    #[must_use]
    pub fn is_full(&self, address: Address, limits: AddressLimits) -> bool {
        limits.connections > 0 && self.open(address) >= u64::from(limits.connections)
    }

    /// Counts a new connection of `address` for `worker`, if the limits let it in. Expects to be
    /// [swept](Self::sweep).
    pub fn admit(&mut self, address: Address, worker: u32, limits: AddressLimits, now: u64) -> Answer {
        if self.is_full(address, limits) {
            return Answer::TooMany;
        }
        // A leaky bucket as one number: each connection puts off the moment when all are forgotten by its
        // share of a second, and that moment is never more than a second away.
        let Some(share) = SECOND.checked_div(limits.new_per_second.into()) else {
            return self.count(address, worker, limits, 0);
        };
        let last = self.of(address).map(|record| record.forgotten_at).max().unwrap_or(0);
        let forgotten_at = last.max(now).saturating_add(share);
        if forgotten_at.saturating_sub(now) > SECOND {
            return Answer::TooFast;
        }
        self.count(address, worker, limits, forgotten_at)
    }

    /// Takes back a connection that was counted; whether there was one.
    pub fn release(&mut self, address: Address, worker: u32) -> bool {
        let Some(record) = self.record(address, worker).filter(|record| record.open > 0) else {
            return false;
        };
        record.open -= 1;
        true
    }

    /// Open connections of an address, of all workers.
    #[must_use]
    pub fn open(&self, address: Address) -> u64 {
        self.of(address).map(|record| u64::from(record.open)).sum()
    }

    fn count(&mut self, address: Address, worker: u32, limits: AddressLimits, forgotten_at: u64) -> Answer {
        let open = u32::from(limits.connections > 0);
        if let Some(record) = self.record(address, worker) {
            record.open = record.open.saturating_add(open);
            record.forgotten_at = record.forgotten_at.max(forgotten_at);
        } else if self.records.len() < MOST {
            self.records.push(Record { address: address.to_bits(), worker, open, forgotten_at });
        } else {
            return Answer::Uncounted;
        }
        if open > 0 { Answer::Counted } else { Answer::Passed }
    }

    fn of(&self, address: Address) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.address == address.to_bits())
    }

    fn record(&mut self, address: Address, worker: u32) -> Option<&mut Record> {
        let is_it = |record: &&mut Record| record.address == address.to_bits() && record.worker == worker;
        self.records.iter_mut().find(is_it)
    }
}

impl Record {
    #[allow(clippy::cast_possible_truncation)] // the halves of a word
    fn from_bytes(bytes: &[u8; RECORD]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or_default();
        let (address, counts, forgotten_at) = (next(), next(), next());
        Self { address, worker: counts as u32, open: (counts >> 32) as u32, forgotten_at }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.address.to_le_bytes());
        out.extend_from_slice(&self.worker.to_le_bytes());
        out.extend_from_slice(&self.open.to_le_bytes());
        out.extend_from_slice(&self.forgotten_at.to_le_bytes());
    }
}
