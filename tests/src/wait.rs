//! Waiting for a condition; nothing else in the tests sleeps.

use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;

/// Short enough to hide in any measurement we make, long enough to leave the processors to the waited-for.
const POLL: Duration = Duration::from_millis(4);

/// The same of what is not there soon: looking at it is work for both sides, which a busy machine has no time for.
const LATER: Duration = Duration::from_millis(25);

/// What is there by then is soon.
const SOON: Duration = Duration::from_secs(1);

/// Blocks until `condition` holds; panics after `timeout`, saying `what` did not happen.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    if let Err(failure) = poll(what, timeout, || Ok(condition().then_some(()))) {
        panic!("{failure}");
    }
}

/// Blocks until `probe` gives a value, `probe` fails, or `timeout` has passed.
pub fn poll<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        let waited = start.elapsed();
        if waited >= timeout {
            return Err(Failure::new(format!("waited {timeout:?} in vain until {what}")));
        }
        thread::sleep(if waited < SOON { POLL } else { LATER });
    }
}
