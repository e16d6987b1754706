//! What happened: counts and times.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Servers that are told apart by name; what more there are is counted together.
const MOST_NAMES: usize = 1000;

/// Counts and times of one engine, or of several added up.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Time from when a message was due until its answer, in nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Time from when a connection was due until the answer to its first message.
    pub(super) connect: Histogram<u64>,
    /// Messages answered while the clock ran.
    pub(super) messages: u64,
    /// Connections whose first message was answered while the clock ran.
    pub(super) connections: u64,
    /// Bytes of answers while the clock ran.
    pub(super) bytes: u64,
    /// What went wrong, by label.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// How connections ended where that is what the mode is about.
    pub(super) ends: BTreeMap<&'static str, u64>,
    /// Who answered first messages.
    pub(super) answered_by: BTreeMap<String, u64>,
    /// How long the clock ran.
    pub(super) elapsed: Duration,
}

/// A histogram of nanoseconds to three digits, however long.
fn nanoseconds() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    histogram.auto(true);
    histogram
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            latency: nanoseconds(),
            connect: nanoseconds(),
            messages: 0,
            connections: 0,
            bytes: 0,
            errors: BTreeMap::new(),
            ends: BTreeMap::new(),
            answered_by: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }
}

impl Tally {
    pub(super) fn error(&mut self, label: &'static str) {
        *self.errors.entry(label).or_default() += 1;
    }

    pub(super) fn end(&mut self, label: &'static str) {
        *self.ends.entry(label).or_default() += 1;
    }

    pub(super) fn answered_by(&mut self, name: &str) {
        if let Some(count) = self.answered_by.get_mut(name) {
            *count += 1;
        } else {
            let name = if self.answered_by.len() < MOST_NAMES { name } else { "others" };
            *self.answered_by.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Takes in what another part of the same run counted.
    pub(super) fn add(&mut self, other: &Self) {
        // Both grow as needed, so that nothing is out of range.
        let _ = (self.latency.add(&other.latency), self.connect.add(&other.connect));
        self.messages += other.messages;
        self.connections += other.connections;
        self.bytes += other.bytes;
        let labels = [(&mut self.errors, &other.errors), (&mut self.ends, &other.ends)];
        for (all, more) in labels {
            for (label, count) in more {
                *all.entry(label).or_default() += count;
            }
        }
        for (name, count) in &other.answered_by {
            *self.answered_by.entry(name.clone()).or_default() += count;
        }
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}
