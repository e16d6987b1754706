//! Which root context of a VM is called back as time passes, and how often.
//!
//! Every new configuration is a new root context, and Envoy goes on arming the timer of one that is gone; it also keeps a
//! few hundred bytes for each that ever had a timer. So all root contexts of a VM live by the ticks of one, and there are
//! ticks only while there is something to wait for: an edge without players has none, whatever its configurations were.

use std::collections::BTreeMap;

/// The timers of a VM's root contexts.
#[derive(Debug, Default)]
pub struct Ticker {
    /// Milliseconds between ticks that each configured root context wants, while any are to come.
    roots: BTreeMap<u32, u32>,
    armed: Option<Timer>,
}

/// What to set the timer of a root context to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The root context.
    pub root: u32,
    /// Milliseconds between its ticks; 0 = none.
    pub period_ms: u32,
}

impl Ticker {
    /// A root context was configured and wants a tick at least that often.
    pub fn begin(&mut self, root: u32, period_ms: u32) -> Option<Timer> {
        self.roots.insert(root, period_ms);
        let armed = self.armed?;
        // An armed timer is set anew only where it has to be: each time puts off the next tick.
        (period_ms < armed.period_ms).then(|| self.arm(armed.root, period_ms))
    }

    /// A root context ends: what its timer is to be set to, and that of the one that ticks from now on.
    pub fn end(&mut self, root: u32) -> [Option<Timer>; 2] {
        self.roots.remove(&root);
        let Some(armed) = self.armed.take_if(|armed| armed.root == root) else { return [None, None] };
        [Some(Timer { period_ms: 0, ..armed }), self.wake(root)]
    }

    /// There is something to wait for, by preference under this root context. No timer where one is armed already.
    pub fn wake(&mut self, root: u32) -> Option<Timer> {
        if self.is_awake() {
            return None;
        }
        let period_ms = *self.roots.values().min()?;
        // Of the others the oldest: it lives because of its connections. The newest may be replaced before it ticks, and so may
        // its successors, for as long as changes come.
        let oldest = *self.roots.first_key_value()?.0;
        Some(self.arm(if self.roots.contains_key(&root) { root } else { oldest }, period_ms))
    }

    /// There is nothing to wait for.
    pub fn rest(&mut self) -> Option<Timer> {
        self.armed.take().map(|armed| Timer { period_ms: 0, ..armed })
    }

    /// Whether there are ticks.
    #[must_use]
    pub const fn is_awake(&self) -> bool {
        self.armed.is_some()
    }

    /// How many milliseconds a tick of this root context stands for; `None` = it is not the one that ticks.
    #[must_use]
    pub fn elapsed_ms(&self, root: u32) -> Option<u32> {
        self.armed.filter(|armed| armed.root == root).map(|armed| armed.period_ms)
    }

    fn arm(&mut self, root: u32, period_ms: u32) -> Timer {
        *self.armed.insert(Timer { root, period_ms })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u32, u32),
        End(u32),
        Wake(u32),
        Rest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..6_u32, 10..20_u32).prop_map(|(root, period)| Step::Begin(root, period)),
            (1..6_u32).prop_map(Step::End),
            (1..6_u32).prop_map(Step::Wake),
            Just(Step::Rest),
        ]
    }

    proptest! {
        /// By what the host was told: one timer at most, of a root context that lives, as fast as the fastest wants.
        #[test]
        fn one_living_root_context_ticks_while_there_is_something_to_wait_for(
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut ticker = Ticker::default();
            let (mut alive, mut timers) = (BTreeMap::new(), BTreeMap::new());
            let mut wanted = false;
            for step in steps {
                let told = match step {
                    Step::Begin(root, period) => {
                        alive.insert(root, period);
                        [ticker.begin(root, period), None]
                    }
                    Step::End(root) => {
                        alive.remove(&root);
                        ticker.end(root)
                    }
                    Step::Wake(root) => {
                        wanted = true;
                        [ticker.wake(root), None]
                    }
                    Step::Rest => {
                        wanted = false;
                        [ticker.rest(), None]
                    }
                };
                for timer in told.into_iter().flatten() {
                    timers.insert(timer.root, timer.period_ms);
                }
                timers.retain(|_, period| *period > 0);
                // Who woke a VM without root contexts has to come again.
                wanted &= !alive.is_empty();
                prop_assert_eq!(timers.len(), usize::from(wanted));
                prop_assert_eq!(ticker.is_awake(), wanted);
                for (root, period) in &timers {
                    prop_assert!(alive.contains_key(root));
                    prop_assert!(alive.values().all(|wants| period <= wants));
                    prop_assert_eq!(ticker.elapsed_ms(*root), Some(*period));
                }
            }
        }
    }

    #[test]
    fn a_tick_that_is_due_is_not_put_off() {
        let mut ticker = Ticker::default();
        assert_eq!(ticker.wake(1), None);
        assert_eq!(ticker.begin(1, 250), None);
        assert_eq!(ticker.wake(1), Some(Timer { root: 1, period_ms: 250 }));
        for root in 2..100 {
            assert_eq!(ticker.begin(root, 250), None);
            assert_eq!(ticker.wake(root), None);
        }
        assert_eq!(ticker.begin(100, 10), Some(Timer { root: 1, period_ms: 10 }));
    }

    #[test]
    fn changes_that_come_faster_than_ticks_do_not_keep_them_from_coming() {
        const PERIOD_MS: u32 = 250;
        let mut ticker = Ticker::default();
        // The first root context has a connection that waits; the second one's woke the VM.
        assert_eq!([ticker.begin(1, PERIOD_MS), ticker.begin(2, PERIOD_MS)], [None, None]);
        let mut timer = ticker.wake(2).map(|timer| (timer, 0));
        let mut ticks = 0;
        for now in 0..60_000 {
            let mut told = Vec::new();
            if now % 200 == 100 {
                let newest = now / 200 + 3;
                told.extend(ticker.begin(newest, PERIOD_MS));
                told.extend(ticker.end(newest - 1).into_iter().flatten());
            }
            for set in told {
                timer = (set.period_ms > 0).then_some((set, now));
            }
            if let Some((Timer { period_ms, .. }, since)) = &mut timer
                && now - *since >= *period_ms
            {
                (ticks, *since) = (ticks + 1, now);
            }
        }
        assert!(ticks > 230, "{ticks} ticks in a minute");
    }
}
