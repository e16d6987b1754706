//! How long a source waits before it tries again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Long enough that a refused connection is no busy loop, short enough that a restart goes unnoticed.
const FIRST: Duration = Duration::from_millis(100);

/// What operators were promised: back within five seconds of the other side.
const LONGEST: Duration = Duration::from_secs(5);

/// Doubling waits with jitter, so that a restarted server does not meet all its clients at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next wait: a random time from half to the whole of 100 ms, then of 200 ms, up to 5 s.
    pub(super) fn wait(&mut self) -> Duration {
        let longest = self.next;
        self.next = longest.saturating_mul(2).min(LONGEST);
        // The standard library's hasher keys are its only random numbers, and plenty for this.
        let random = RandomState::new().hash_one(()) % 1024;
        longest / 2 + longest / 2 * u32::try_from(random).unwrap_or_default() / 1024
    }

    /// The other side is well: start over.
    pub(super) const fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_its_bound_and_starts_over() {
        let mut backoff = Backoff::new();
        let mut longest = FIRST;
        for _ in 0..20 {
            let wait = backoff.wait();
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
            longest = (longest * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
