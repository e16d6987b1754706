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
///
/// A connection that waits no more says nothing here: its entry goes when time passes, so that there are never more than
/// those that waited then and those that came since.
#[derive(Debug, Default)]
pub struct Deadlines {
    waiting: VecDeque<Entry>,
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

    /// Lets time pass.
    pub fn advance(&mut self, by_ms: u32) {
        self.step_ms = u64::from(by_ms);
        self.now_ms = self.now_ms.saturating_add(self.step_ms);
        self.waiting.retain(|entry| entry.session.is_waiting());
    }

    /// Takes out the next connection that has surely waited for `timeout_ms`; 0 = no limit.
    ///
    /// A connection that came just before a tick has waited for almost nothing by then, so one step more must
    /// have passed.
    pub fn expired(&mut self, timeout_ms: u32) -> Option<(u32, Rc<Session>)> {
        if timeout_ms == 0 {
            return None;
        }
        let first = self.waiting.front()?;
        if self.now_ms.saturating_sub(first.since_ms) < u64::from(timeout_ms).saturating_add(self.step_ms) {
            return None;
        }
        self.waiting.pop_front().map(|entry| (entry.connection, entry.session))
    }

    /// Entries held, also of connections that wait no more.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
