//! The header deadline: who has waited too long for their first 8 bytes.
//!
//! Within a configuration all timeouts are equal, so the connections expire in the order in which they came:
//! a queue is enough. It stores when a connection came, not when it expires, which keeps that order when a
//! new configuration changes the timeout.
//!
//! Time is what the ticks say, not the clock: a clock that jumps closes nobody, and a connection costs no
//! call to ask for the time.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::session::Session;

/// Milliseconds between ticks for this header timeout; `None` = no ticks.
///
/// A connection is closed at most two ticks after its timeout; an eighth keeps that small against the timeout
/// and the ticks rare.
#[must_use]
pub fn tick_period_ms(header_timeout_ms: u32) -> Option<u32> {
    // Under 10 ms the timer itself would become the load.
    (header_timeout_ms > 0).then(|| (header_timeout_ms / 8).clamp(10, 1000))
}

/// The connections whose header is not whole, oldest first.
#[derive(Debug, Default)]
pub struct Deadlines {
    waiting: VecDeque<Entry>,
    /// Entries of `waiting` whose session waits no more.
    dead: usize,
    now_ms: u64,
    /// The last step of time, which is how far `now_ms` may lag behind.
    step_ms: u64,
}

#[derive(Debug)]
struct Entry {
    since_ms: u64,
    connection: u32,
    session: Rc<Session>,
}

impl Deadlines {
    /// Enters a connection that waits from now on.
    pub fn enter(&mut self, connection: u32, session: Rc<Session>) {
        self.waiting.push_back(Entry { since_ms: self.now_ms, connection, session });
    }

    /// To be called once for each entered session that stopped waiting by other means than [`Self::expired`].
    ///
    /// Its entry goes at once when it is the oldest, otherwise when more than half of the entries are dead:
    /// memory stays within twice the waiting connections, at a constant price each.
    pub fn left(&mut self) {
        self.dead = self.dead.saturating_add(1);
        self.drop_dead();
    }

    /// Lets time pass.
    pub fn advance(&mut self, by_ms: u32) {
        self.step_ms = u64::from(by_ms);
        self.now_ms = self.now_ms.saturating_add(self.step_ms);
    }

    /// Takes out the next connection that has surely waited for `timeout_ms`; 0 = no limit.
    ///
    /// A connection that came just before a tick has waited for almost nothing by then, so one step more must
    /// have passed.
    pub fn expired(&mut self, timeout_ms: u32) -> Option<(u32, Rc<Session>)> {
        if timeout_ms == 0 {
            return None;
        }
        // Those taken out before were alive: the dead may have become more than half.
        self.drop_dead();
        let first = self.waiting.front()?;
        if self.now_ms.saturating_sub(first.since_ms) < u64::from(timeout_ms).saturating_add(self.step_ms) {
            return None;
        }
        self.waiting.pop_front().map(|entry| (entry.connection, entry.session))
    }

    /// Entries held, dead ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Drops those in front, and all once they are more than half.
    fn drop_dead(&mut self) {
        while self.waiting.front().is_some_and(|entry| !entry.session.is_waiting()) {
            self.waiting.pop_front();
            self.dead = self.dead.saturating_sub(1);
        }
        if self.dead > self.waiting.len() / 2 {
            self.waiting.retain(|entry| entry.session.is_waiting());
            self.dead = 0;
        }
    }
}
