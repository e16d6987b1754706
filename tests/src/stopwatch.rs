//! Times that are compared with bounds, on a machine that may be busy with other things.

use std::fs;
use std::time::{Duration, Instant};

/// What the kernel counts: the time in which somebody on this machine waited for one of these.
const SCARCE: [&str; 3] = ["cpu", "io", "memory"];

/// Where the kernel does not count it, so many times as much is taken for undisturbed.
const UNKNOWN: u32 = 5;

/// A running watch.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    /// In microseconds since the system started; `None` where it is not counted.
    stalled: Option<u64>,
}

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        let stalled = stalled();
        Self { began: Instant::now(), stalled }
    }

    /// When it was started.
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// The time since then, whatever else the machine did.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The time since then without that in which somebody on this machine waited for a processor, a disk or memory: what a
    /// bound may be compared with. A busy machine makes it shorter than it should be, never longer.
    pub fn undisturbed(&self) -> Duration {
        let elapsed = self.elapsed();
        let counted = self.stalled.zip(stalled());
        counted.map_or(elapsed / UNKNOWN, |(before, after)| {
            elapsed.saturating_sub(Duration::from_micros(after.saturating_sub(before)))
        })
    }
}

/// All of [`SCARCE`] together, as pressure stall information has it.
fn stalled() -> Option<u64> {
    SCARCE.iter().map(|what| some(&fs::read_to_string(format!("/proc/pressure/{what}")).ok()?)).sum()
}

/// The total of the line `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn some(text: &str) -> Option<u64> {
    text.lines().find(|line| line.starts_with("some "))?.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_those_who_waited_is_read() {
        let text = "some avg10=86.85 avg60=68.05 avg300=31.77 total=6256868677\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!((some(text), some("")), (Some(6_256_868_677), None));
    }

    #[test]
    fn no_more_is_undisturbed_than_there_was() {
        let watch = Stopwatch::start();
        let undisturbed = watch.undisturbed();
        assert!(undisturbed <= watch.elapsed());
    }
}
