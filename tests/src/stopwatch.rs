//! Times that are compared with bounds, on a machine that may be busy with other things.

use std::fs;
use std::time::{Duration, Instant};

/// What the kernel counts: the time in which somebody on this machine waited for one of these.
const SCARCE: [&str; 3] = ["cpu", "io", "memory"];

/// A running watch.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    /// Of each, in microseconds since the system started; `None` where it is not counted.
    stalled: Option<[u64; SCARCE.len()]>,
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
    /// bound may be compared with. A busy machine makes it shorter than it should be, but never by more than half: on one that
    /// is always busy a bound would hold nothing else.
    pub fn undisturbed(&self) -> Duration {
        let elapsed = self.elapsed();
        without(elapsed, self.stalled.zip(stalled()))
    }
}

/// The time without that in which somebody waited. Who waits for a disk may wait for a processor meanwhile: the longest counts.
/// Where nothing is counted, everything may have been such time.
fn without(elapsed: Duration, stalled: Option<([u64; SCARCE.len()], [u64; SCARCE.len()])>) -> Duration {
    let waited = stalled.map_or(elapsed, |(before, after)| {
        let each = after.into_iter().zip(before).map(|(after, before)| after.saturating_sub(before));
        Duration::from_micros(each.max().unwrap_or_default())
    });
    elapsed.saturating_sub(waited.min(elapsed / 2))
}

/// Of each of [`SCARCE`], as pressure stall information has it.
fn stalled() -> Option<[u64; SCARCE.len()]> {
    let mut all = [0; SCARCE.len()];
    for (what, total) in SCARCE.iter().zip(&mut all) {
        *total = some(&fs::read_to_string(format!("/proc/pressure/{what}")).ok()?)?;
    }
    Some(all)
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
    fn the_longest_wait_is_taken_off_and_at_most_half() {
        let seconds = |n| n * 1_000_000;
        let of = |waited: Option<[u64; 3]>| {
            let stalled = waited.map(|waited| ([7; 3], waited.map(|n| seconds(n) + 7)));
            without(Duration::from_secs(10), stalled).as_secs()
        };
        for (waited, undisturbed) in [
            (Some([0, 0, 0]), 10),
            (Some([1, 3, 2]), 7),
            (Some([4, 4, 4]), 6),
            (Some([9, 0, 0]), 5),
            (None, 5),
        ] {
            assert_eq!(of(waited), undisturbed, "{waited:?}");
        }
    }
}
