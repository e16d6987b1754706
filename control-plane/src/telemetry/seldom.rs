//! Log lines that strangers can cause: one per reason and while, with the number of those left out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Often enough to see what is going on, seldom enough for a log to keep for weeks.
const EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Last {
    at: Instant,
    left_out: u64,
}

/// Decides which lines are written. Reasons are words of the program, so it stays small whatever comes.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<BTreeMap<&'static str, Last>>);

impl Seldom {
    /// Whether a line for this reason is to be written now: if so, how many were left out since the last.
    pub fn now(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut lasts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = lasts.get_mut(reason) else {
            lasts.insert(reason, Last { at: now, left_out: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(last.at) < EVERY {
            last.left_out += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_reason_and_while_that_counts_the_others() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.now("a", start), Some(0));
        for second in 1..10 {
            assert_eq!(seldom.now("a", start + Duration::from_secs(second)), None);
        }
        assert_eq!(seldom.now("b", start + Duration::from_secs(9)), Some(0));
        assert_eq!(seldom.now("a", start + EVERY), Some(9));
        assert_eq!(seldom.now("a", start + 2 * EVERY), Some(0));
    }
}
