//! What clients make us keep: names that nobody here knows, versions that they claim, words of their refusals. Counted for each
//! connection, and in the whole process.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a connection may have without a look at the others: so does a proxy that lost its control plane's memory, with a
/// thousand clusters that nobody here knows.
const FREE: usize = 256 << 10;
/// What it may have at all, while the process has room: as many names as a stream may have, of the usual length.
const MOST: usize = 16 << 20;
/// What all connections may have together beyond what each has free.
pub(crate) const MOST_OF_ALL: usize = 1 << 30;

/// Of it, the words of refusals: whole while they are few, then their beginnings, then none.
const WORDS: usize = 128 << 10;
const MOST_WORDS: usize = 1 << 20;
const BEGINNING: usize = 160;
/// What keeping a text takes besides it.
const OVERHEAD: usize = 64;

/// The room of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Mutex<usize>>);

/// What one connection has of it. Cheap to clone; its streams share it.
#[derive(Clone, Debug)]
pub(crate) struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    used: Mutex<Used>,
    room: Room,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    of_words: usize,
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    account: Account,
    bytes: usize,
}

/// The words of a refusal, as far as there is room for them.
pub(crate) struct Words {
    text: Box<str>,
    /// Whether they are counted: otherwise there was no room for any.
    counted: bool,
    account: Account,
}

/// Told in the place of words that there was no room for.
const LEFT_OUT: &str = "(its words are not kept: this proxy refuses too much)";

impl Default for Room {
    fn default() -> Self {
        Self::of(MOST_OF_ALL)
    }
}

impl Room {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    /// An account for a connection.
    pub(crate) fn account(&self) -> Account {
        Account(Arc::new(Inner { used: Mutex::default(), room: self.clone() }))
    }

    /// Nothing panics with the lock held.
    fn left(&self) -> MutexGuard<'_, usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Account {
    fn default() -> Self {
        Room::default().account()
    }
}

impl Account {
    /// Bytes of something that grows and shrinks: none at first.
    pub(crate) fn keep(&self) -> Kept {
        Kept { account: self.clone(), bytes: 0 }
    }

    /// Keeps as much of these words as there is room for.
    pub(crate) fn words(&self, text: &str) -> Words {
        let of_words = self.used().of_words;
        let text = match of_words {
            ..WORDS => text,
            WORDS..MOST_WORDS => text.get(..text.floor_char_boundary(BEGINNING)).unwrap_or_default(),
            _ => "",
        };
        let counted = !text.is_empty() && self.change(0, text.len() + OVERHEAD);
        if counted {
            self.used().of_words += text.len() + OVERHEAD;
        }
        Words { text: if counted { text.into() } else { Box::default() }, counted, account: self.clone() }
    }

    /// Counts more or less than before; false = there is no room, and nothing was changed.
    fn change(&self, before: usize, after: usize) -> bool {
        let mut used = self.used();
        let bytes = used.bytes.saturating_sub(before).saturating_add(after);
        let (had, has) = (used.bytes.saturating_sub(FREE), bytes.saturating_sub(FREE));
        let mut left = self.0.room.left();
        if after > before && (bytes > MOST || has.saturating_sub(had) > *left) {
            return false;
        }
        *left = left.saturating_add(had).saturating_sub(has);
        used.bytes = bytes;
        true
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Counts so many from now on; false = there is no room, and what was counted stays.
    pub(crate) fn count(&mut self, bytes: usize) -> bool {
        let fits = self.account.change(self.bytes, bytes);
        if fits {
            self.bytes = bytes;
        }
        fits
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.account.change(self.bytes, 0);
    }
}

impl Deref for Words {
    type Target = str;

    fn deref(&self) -> &str {
        if self.counted { &self.text } else { LEFT_OUT }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if self.counted {
            let bytes = self.text.len() + OVERHEAD;
            self.account.change(bytes, 0);
            let mut used = self.account.used();
            used.of_words = used.of_words.saturating_sub(bytes);
        }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_connection_has_a_bound_and_all_together_have_one() {
        let room = Room::of(MOST);
        let accounts: Vec<_> = (0..3).map(|_| room.account()).collect();
        let mut kept: Vec<_> = accounts.iter().map(Account::keep).collect();
        assert!(kept[0].count(MOST) && !kept[0].count(MOST + 1));
        assert!(!accounts[0].keep().count(1), "its streams share the account");
        assert!(kept[1].count(2 * FREE), "what the first has free it does not take from others");
        assert!(
            !kept[2].count(FREE + 1) && kept[2].count(FREE),
            "whoever has little is let in whatever others have"
        );
        kept.swap_remove(0);
        assert!(kept[0].count(FREE + 1), "what is dropped is free again");
        drop(kept);
        assert_eq!(*room.left(), MOST);
    }

    #[test]
    fn words_are_cut_before_they_are_too_many() {
        let account = Account::default();
        let long = "w".repeat(4096);
        let mut words: Vec<_> = (0..20_000).map(|_| account.words(&long)).collect();
        let of = |length: usize| words.iter().filter(|words| words.len() == length).count();
        assert!((31..33).contains(&of(4096)) && of(BEGINNING) > 4_000, "{} {}", of(4096), of(BEGINNING));
        assert_eq!(words.last().map(|words| &**words), Some(LEFT_OUT));
        let used = account.used().bytes;
        assert!(used <= MOST_WORDS + 4096 + OVERHEAD, "{used}");
        words.clear();
        let left = account.used();
        assert_eq!((left.bytes, left.of_words), (0, 0));
        drop(left);
        assert_eq!(&*account.words("a: bad"), "a: bad");
    }

    proptest! {
        #[test]
        fn what_is_left_is_what_nobody_has(steps in proptest::collection::vec((0..4_usize, 0..2 * MOST), 0..60)) {
            let room = Room::of(2 * MOST);
            let accounts = [room.account(), room.account()];
            let mut kept: Vec<_> = (0..4).map(|i| accounts[i % 2].keep()).collect();
            for (which, bytes) in steps {
                let before = kept[which].bytes;
                let fits = kept[which].count(bytes);
                prop_assert_eq!(kept[which].bytes, if fits { bytes } else { before });
                prop_assert!(fits || bytes > before, "less always fits");
                let used = [0, 1].map(|i| kept[i].bytes + kept[i + 2].bytes);
                prop_assert!(used.iter().all(|used| *used <= MOST));
                prop_assert_eq!(*room.left() + used.map(|used| used.saturating_sub(FREE)).iter().sum::<usize>(), 2 * MOST);
            }
        }
    }
}
