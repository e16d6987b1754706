//! Moving proxies on before the process ends: each connection has its own moment, so that a fleet does not come
//! back at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a connection may take to end once the last one was told to: a round trip for GOAWAY, another for
/// the last message, and a proxy that was busy meanwhile.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(3);

/// A proxy that leaves comes back elsewhere within about a second and wants a snapshot checked: a thousand in a
/// second is what one replica takes in passing. A few proxies need no window to speak of.
const SPACING: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    window: Duration,
}

impl Begun {
    fn moment(&self, share: f64) -> Instant {
        self.at + self.window.mul_f64(share)
    }

    fn end(&self) -> Instant {
        self.at + self.window + LAST_WORD
    }
}

/// The switch of all connections of a listener.
#[derive(Debug)]
pub(super) struct Drain(watch::Sender<Option<Begun>>);

/// One connection's moment. Cheap to clone; its streams share it.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    drain: watch::Receiver<Option<Begun>>,
    /// Where in the window, 0 to 1.
    share: f64,
}

impl Drain {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// A moment, drawn when the connection comes.
    pub(super) fn turn(&self) -> Turn {
        Turn { drain: self.0.subscribe(), share: fastrand::f64() }
    }

    /// Lets the `connections` there are go within `longest`, sooner when they are few.
    pub(super) fn begin(&self, longest: Duration, connections: u32) {
        let window = longest.min(SPACING.saturating_mul(connections));
        self.0.send_replace(Some(Begun { at: Instant::now(), window }));
    }
}

impl Turn {
    /// Completes when it is this connection's turn to go. May be dropped and called again.
    pub(crate) async fn come(&mut self) {
        if let Some(begun) = self.begun().await {
            sleep_until(begun.moment(self.share)).await;
        }
    }

    /// Completes when whoever has not gone must be cut off.
    pub(super) async fn over(&mut self) {
        if let Some(begun) = self.begun().await {
            sleep_until(begun.end()).await;
        }
    }

    /// None when the listener is gone, and with it the time to wait.
    async fn begun(&mut self) -> Option<Begun> {
        self.drain.wait_for(Option::is_some).await.ok().and_then(|begun| *begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_over_the_window() {
        let (drain, longest) = (Drain::new(), Duration::from_millis(800));
        let turns: Vec<_> = (0..1000).map(|_| drain.turn()).collect();
        drain.begin(longest, 1000);
        let mut quarters = [0_u32; 4];
        for turn in &turns {
            let begun = turn.drain.borrow().unwrap();
            let after = begun.moment(turn.share) - begun.at;
            assert!(after <= longest && begun.end() == begun.at + longest + LAST_WORD, "{begun:?}");
            quarters[usize::try_from(after.as_millis() / 200).unwrap().min(3)] += 1;
        }
        assert!(quarters.iter().all(|n| (150..350).contains(n)), "{quarters:?}");
    }

    #[test]
    fn a_few_proxies_do_not_hold_the_process_up() {
        let drain = Drain::new();
        let turn = drain.turn();
        drain.begin(Duration::from_mins(1), 5);
        assert_eq!(turn.drain.borrow().unwrap().window, Duration::from_millis(5));
    }
}
