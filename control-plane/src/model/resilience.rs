//! What the policy says about game servers that fail: connecting, circuit breakers, outlier detection and panic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Problem};

/// How connections to a service are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Concurrent connections of one edge to the service; beyond it players are refused.
    pub max: u32,
    /// Those of them that may be waiting for their backend connection at one time; beyond it players are refused at once
    /// instead of after `connect_timeout`.
    pub max_pending: u32,
    /// After so much silence the kernel asks the game server's machine whether the connection still stands, then every
    /// 15 s; nine unanswered questions end the session. 0 = never asked.
    pub keepalive: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            // The old gateway's.
            connect_timeout: Duration::from_secs(5),
            // Envoy's own maximum of 1,024 would reset the 1,025th player; an edge's listener has limits of its own.
            max: 1_000_000,
            max_pending: 1_000_000,
            // Four more system calls for each connection; the idle timeout bounds what it would find.
            keepalive: Duration::from_secs(0),
        }
    }
}

/// When an endpoint gets no new players for a while because connecting to it failed. What happens to a connection
/// once it stands (silence, a close) is never held against an endpoint: a player leaving looks the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// So many failures to connect in a row eject the endpoint; every success counts from 0 again. 0 = off.
    pub consecutive_failures: u32,
    /// This share of failures within an `interval`, in percent, ejects the endpoint; 1 to 100, 0 = off.
    pub failure_percent: u32,
    /// Connections to an endpoint within an `interval` from which `failure_percent` is looked at.
    pub min_connections: u32,
    /// How often `failure_percent` is looked at, and whether an ejection is over.
    pub interval: Duration,
    /// How long the first ejection lasts; the second in a row lasts twice as long, and so on.
    pub ejection_time: Duration,
    /// The longest an ejection lasts.
    pub max_ejection_time: Duration,
    /// The share of endpoints that may be ejected at one time, in percent, 1 to 100.
    pub max_ejection_percent: u32,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            // The old gateway's breaker, but in a row: five failures among thousands of successes are no outage.
            consecutive_failures: 5,
            // An endpoint that fails every other time never fails five times in a row.
            failure_percent: 50,
            // Envoy's own defaults from here...
            min_connections: 50,
            interval: Duration::from_secs(10),
            // ...of which this one is the old gateway's too.
            ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            // Envoy's 10 % would never eject one of nine or fewer. `panic_threshold` says what holds when all are.
            max_ejection_percent: 100,
        }
    }
}

impl OutlierDetection {
    /// Whether anything can eject an endpoint.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.consecutive_failures > 0 || self.failure_percent > 0
    }
}

impl Connections {
    pub(super) fn validate(&self, at: &str, found: &mut Vec<Problem>) {
        positive(&format!("{at}.connect_timeout"), self.connect_timeout, found);
        for (field, value) in [("max", self.max), ("max_pending", self.max_pending)] {
            if value == 0 {
                found.push(Problem::at(format!("{at}.{field}"), "must be at least 1"));
            }
        }
        let keepalive = self.keepalive.as_millis();
        // The kernel takes whole seconds, 32,767 at most.
        if keepalive > 0 && !(keepalive.is_multiple_of(1000) && keepalive / 1000 <= 32_767) {
            found.push(Problem::at(
                format!("{at}.keepalive"),
                "must be whole seconds, at most 9h (or 0 = none)",
            ));
        }
    }
}

impl OutlierDetection {
    pub(super) fn validate(&self, at: &str, found: &mut Vec<Problem>) {
        percent(&format!("{at}.failure_percent"), 0, self.failure_percent, found);
        percent(&format!("{at}.max_ejection_percent"), 1, self.max_ejection_percent, found);
        positive(&format!("{at}.interval"), self.interval, found);
        positive(&format!("{at}.ejection_time"), self.ejection_time, found);
        if self.max_ejection_time < self.ejection_time {
            let why = format!("is shorter than ejection_time, {}", self.ejection_time);
            found.push(Problem::at(format!("{at}.max_ejection_time"), why));
        }
    }
}

pub(super) fn positive(at: &str, value: Duration, found: &mut Vec<Problem>) {
    if value.is_zero() {
        found.push(Problem::at(at, "must be more than 0"));
    }
}

pub(super) fn percent(at: &str, least: u32, value: u32, found: &mut Vec<Problem>) {
    if !(least..=100).contains(&value) {
        found.push(Problem::at(at, format!("must be a percentage from {least} to 100")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    fn service(more: &str) -> String {
        format!("services:\n  - name: a\n    endpoints: [\"10.0.0.1:1\"]\n{more}")
    }

    #[test]
    fn names_the_place_of_every_fault() {
        let text = service(
            "    connections: {max_pending: 0, connect_timeout: 0, keepalive: 1500ms}\n    outlier_detection:\n      \
             failure_percent: 101\n      max_ejection_percent: 0\n      interval: 0\n      ejection_time: 10m\n    \
             panic_threshold: 101\n",
        );
        let problems: Vec<_> = parse(&text).unwrap_err().iter().map(ToString::to_string).collect();
        let expected = [
            "line 4, services[0].connections.max_pending: must be at least 1",
            "line 4, services[0].connections.connect_timeout: must be more than 0",
            "line 4, services[0].connections.keepalive: must be whole seconds",
            "line 6, services[0].outlier_detection.max_ejection_time: is shorter than ejection_time, 10m",
            "line 6, services[0].outlier_detection.failure_percent: must be a percentage from 0 to 100",
            "line 7, services[0].outlier_detection.max_ejection_percent: must be a percentage from 1 to 100",
            "line 8, services[0].outlier_detection.interval: must be more than 0",
            "line 10, services[0].panic_threshold: must be a percentage from 0 to 100",
        ];
        for expected in expected {
            assert!(
                problems.iter().any(|problem| problem.starts_with(expected)),
                "{expected} in {problems:#?}"
            );
        }
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    }

    #[test]
    fn an_empty_part_is_the_default_and_off_is_off() {
        let text = service("    connections: {}\n    outlier_detection: {}\n");
        assert_eq!(parse(&text).unwrap(), parse(&service("")).unwrap());
        let off =
            OutlierDetection { consecutive_failures: 0, failure_percent: 0, ..OutlierDetection::default() };
        assert!(OutlierDetection::default().is_on() && !off.is_on());
    }

    #[test]
    fn attempts_and_their_pauses_are_checked() {
        for (field, why) in [
            ("connect_attempts: 0", "connect_attempts: must be from 1 to 10"),
            ("connect_attempts: 11", "connect_attempts: must be from 1 to 10"),
            ("connect_backoff: {base: 0}", "connect_backoff.base: must be more than 0"),
            ("connect_backoff: {base: 2s}", "connect_backoff.max: is shorter than base, 2s"),
        ] {
            let text = format!("listeners: [{{name: a, bind: 127.0.0.1:1, {field}}}]");
            let problems = parse(&text).unwrap_err();
            assert!(problems[0].to_string().contains(why), "{problems:?}");
        }
    }
}
