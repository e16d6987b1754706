//! When to ask for a new leaf certificate. The clock and the dice are the caller's.

use std::time::{Duration, SystemTime};

/// Longest sleep at a time: clocks are set, machines sleep.
const LONGEST: Duration = Duration::from_hours(1);
/// A leaf is asked for this often at most, whatever its dates say.
const SHORTEST: Duration = Duration::from_secs(10);
/// After a change of the root all leaves are replaced, spread over this time: the old root is believed for days.
pub(super) const SPREAD: Duration = Duration::from_secs(5);

/// The moment at which a leaf is to be replaced: a random one (`dice` from 0 to 1) between 60 and 90 % of its life, so that
/// those that were made together are not replaced together, and that what goes wrong has time to be put right.
pub(super) fn moment(not_before: SystemTime, not_after: SystemTime, dice: f64) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life.mul_f64(0.6 + 0.3 * dice.clamp(0.0, 1.0))
}

/// The first moment at which a leaf that came now may be replaced: where our clock is far ahead of the one that signs, each
/// leaf seems to be near its end.
pub(super) fn soonest(now: SystemTime) -> SystemTime {
    now + SHORTEST
}

/// How long to sleep until then, or until the clock is looked at again.
pub(super) fn sleep_for(moment: SystemTime, now: SystemTime) -> Duration {
    moment.duration_since(now).unwrap_or_default().min(LONGEST)
}

/// How long to wait where Consul gave the same leaf again although its time had come by our dice; its own dice may fall
/// later, at 90 % at the latest.
pub(super) fn again(not_after: SystemTime, now: SystemTime, dice: f64) -> Duration {
    let left = not_after.duration_since(now).unwrap_or_default();
    left.mul_f64(0.1 + 0.2 * dice.clamp(0.0, 1.0)).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_leaf_is_renewed_in_the_second_half_of_its_life_at_a_moment_of_its_own() {
        let born = SystemTime::UNIX_EPOCH + HOUR;
        let dies = born + 72 * HOUR;
        let at = |dice| moment(born, dies, dice).duration_since(born).unwrap().as_secs_f64() / 3600.0;
        assert!(
            (at(0.0) - 43.2).abs() < 0.01 && (at(1.0) - 64.8).abs() < 0.01 && (at(0.5) - 54.0).abs() < 0.01
        );
        assert!(at(7.0) <= 64.81, "never later");
        assert_eq!(moment(dies, born, 0.5), dies, "odd dates are due at once");
        let moment = moment(born, dies, 0.0);
        assert_eq!(sleep_for(moment, born), HOUR, "the clock is looked at every hour");
        assert_eq!(sleep_for(moment, moment - HOUR / 2), HOUR / 2);
        assert_eq!(sleep_for(moment, dies), Duration::ZERO);
    }

    #[test]
    fn clocks_that_differ_make_nobody_ask_all_the_time() {
        let now = SystemTime::UNIX_EPOCH + 100 * HOUR;
        // Our clock is behind the one that signed: the leaf does not hold yet, and has all its life before it.
        let ahead = moment(now + HOUR, now + 73 * HOUR, 0.0).max(soonest(now));
        assert!(ahead > now + 44 * HOUR);
        // Ours is ahead: every new leaf is past its time.
        let behind = moment(now - 71 * HOUR, now + HOUR, 1.0).max(soonest(now));
        assert_eq!(behind, now + SHORTEST);
    }

    #[test]
    fn a_leaf_that_consul_does_not_replace_is_asked_for_more_often_as_its_end_nears() {
        let end = SystemTime::UNIX_EPOCH + 100 * HOUR;
        assert_eq!(again(end, end - 90 * HOUR, 1.0), HOUR);
        assert_eq!(again(end, end - HOUR, 0.0), HOUR / 10);
        assert_eq!(again(end, end + HOUR, 0.5), SHORTEST, "past its end");
    }
}
