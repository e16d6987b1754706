//! The index of a blocking query, by the rules that Consul documents.

use std::time::Duration;

/// The last index of one query; 0 asks for an answer at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Index(u64);

impl Index {
    /// What to ask with.
    pub(super) const fn get(self) -> u64 {
        self.0
    }

    /// Takes the index of an answer; true if something may have changed since the last. An answer without one is no
    /// answer to a blocking query: its content counts, and the next question waits for nothing.
    pub(super) const fn take(&mut self, returned: Option<u64>) -> bool {
        let before = self.0;
        self.0 = match returned {
            // Consul was restored from a backup, say: whatever is there counts as new.
            Some(index) if index < before => 0,
            // To ask with 0 would not wait.
            Some(0) => 1,
            Some(index) => index,
            None => 0,
        };
        self.0 != before || self.0 == 0
    }
}

/// Least rest between two answers of a query. A change after a quiet time is seen at once.
const SHORTEST_REST: Duration = Duration::from_millis(20);
/// Longest: large answers are late rather than a load.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// How long to leave Consul alone after what took this long: three times as long, so that a storm keeps us, and what
/// Consul does for us, busy for a quarter of the time.
pub(super) fn rest(took: Duration) -> Duration {
    took.saturating_mul(3).clamp(SHORTEST_REST, LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_follows_the_rules() {
        let mut index = Index::default();
        assert_eq!(index.get(), 0);
        assert!(index.take(Some(7)));
        assert!(!index.take(Some(7)), "a return is no change");
        assert!(index.take(Some(9)) && index.get() == 9);
        assert!(index.take(Some(3)) && index.get() == 0, "backwards: start over");
        assert!(index.take(Some(3)) && index.get() == 3);
        let mut index = Index::default();
        assert!(index.take(Some(0)) && index.get() == 1, "never below 1");
        assert!(index.take(None) && index.get() == 0, "no index: nothing to wait on");
    }

    #[test]
    fn rest_is_bounded_and_grows_with_the_work() {
        assert_eq!(rest(Duration::ZERO), SHORTEST_REST);
        assert_eq!(rest(Duration::from_millis(100)), Duration::from_millis(300));
        assert_eq!(rest(Duration::from_mins(1)), LONGEST_REST);
    }
}
