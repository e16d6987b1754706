//! Active health checks as the policy says them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resilience::positive;
use super::{Duration, Failover, Problem};

/// Asking every endpoint, from every edge, whether it is well. One that is not gets no new players; its live sessions
/// stay, unless the service has failover that closes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// What is asked. Every check is a connection of its own, since that is what a player needs.
    pub check: Check,
    /// Time between two checks of an endpoint, give or take a tenth. Unless given 5s, of services with failover 300ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// How long a check may take in all. Unless given 1s, of services with failover 600ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// So many failures in a row mark an endpoint as down. Unless given 3, of services with failover 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_threshold: Option<u32>,
    /// So many successes in a row bring it back; at the start one is enough. Unless given 2; of services with failover
    /// as many as fill `fail_back.after`, and not to be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_threshold: Option<u32>,
}

/// When a check is made and what it takes to change an endpoint's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckTimes {
    /// Time between two checks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row until it is down.
    pub unhealthy_threshold: u32,
    /// Successes in a row until it is well again.
    pub healthy_threshold: u32,
}

impl CheckTimes {
    /// The old gateway had no health checks. Three failures 5 s apart: a restart of a few seconds goes unnoticed.
    const PATIENT: Self = Self {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    };

    /// Where there is somewhere else to go. A dead process refuses: down after two intervals, 0.7 s. One that says nothing, or
    /// its whole datacenter: two timeouts more, 1.9 s. A check may take 600 ms for a ping's two ways around the world.
    const QUICK: Self = Self {
        interval: Duration::from_millis(300),
        timeout: Duration::from_millis(600),
        unhealthy_threshold: 2,
        healthy_threshold: 2,
    };
}

impl HealthCheck {
    /// The times that hold for it.
    #[must_use]
    pub fn times(&self, failover: Option<&Failover>) -> CheckTimes {
        let unless_given = if failover.is_some() { CheckTimes::QUICK } else { CheckTimes::PATIENT };
        let interval = self.interval.unwrap_or(unless_given.interval);
        let fail_back = failover.map(|failover| {
            // Both ends count: two successes lie one interval apart.
            let intervals = failover.fail_back.after.as_millis().div_ceil(interval.as_millis().max(1));
            u32::try_from(intervals + 1).unwrap_or(u32::MAX)
        });
        CheckTimes {
            interval,
            timeout: self.timeout.unwrap_or(unless_given.timeout),
            unhealthy_threshold: self.unhealthy_threshold.unwrap_or(unless_given.unhealthy_threshold),
            healthy_threshold: fail_back.or(self.healthy_threshold).unwrap_or(unless_given.healthy_threshold),
        }
    }
}

/// What is asked of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// To accept a connection. The kernel does that for a server that hangs, too.
    #[default]
    Tcp,
    /// To answer a message, in the service's framing.
    Ping(Ping),
    /// To answer these bytes.
    Bytes(ByteCheck),
}

/// A message to a game server, and its reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// The message id of the ping.
    pub message_id: u16,
    /// Its body in hex. Empty unless given.
    #[serde(default, skip_serializing_if = "Hex::is_empty")]
    pub body: Hex,
    /// The message id of the reply. The ping's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_message_id: Option<u16>,
    /// The whole body of the reply in hex. Any body will do unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_body: Option<Hex>,
}

/// Bytes to send and bytes to wait for, whatever the framing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByteCheck {
    /// What is sent once the connection stands, in hex.
    pub send: Hex,
    /// What has to come, in hex: each of these, in this order, with anything between them.
    pub expect: Vec<Hex>,
}

/// Bytes written as hexadecimal digits, two for each byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^([0-9a-fA-F]{2})*$"))]
pub struct Hex(Vec<u8>);

impl Hex {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Hex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        hex::decode(text).map(Self).map_err(|why| format!("`{text}` is not bytes in hex such as 00ff: {why}"))
    }
}

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Hex> for String {
    fn from(bytes: Hex) -> Self {
        bytes.to_string()
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl HealthCheck {
    pub(super) fn validate(&self, at: &str, found: &mut Vec<Problem>) {
        for (field, time) in [("interval", self.interval), ("timeout", self.timeout)] {
            if let Some(time) = time {
                positive(&format!("{at}.{field}"), time, found);
            }
        }
        let thresholds = [
            ("unhealthy_threshold", self.unhealthy_threshold),
            ("healthy_threshold", self.healthy_threshold),
        ];
        for (field, value) in thresholds {
            if value == Some(0) {
                found.push(Problem::at(format!("{at}.{field}"), "must be at least 1"));
            }
        }
        match &self.check {
            Check::Tcp => {}
            Check::Ping(ping) => {
                let at = format!("{at}.check.ping");
                let longest = |field: &str, body: &Hex, found: &mut Vec<Problem>| {
                    if body.bytes().len() > usize::from(u16::MAX) {
                        found.push(Problem::at(format!("{at}.{field}"), "is more than 65,535 bytes"));
                    }
                };
                longest("body", &ping.body, found);
                if let Some(body) = &ping.reply_body {
                    longest("reply_body", body, found);
                }
            }
            Check::Bytes(bytes) => bytes.validate(&format!("{at}.check.bytes"), found),
        }
    }
}

impl ByteCheck {
    fn validate(&self, at: &str, found: &mut Vec<Problem>) {
        if self.send.is_empty() {
            found.push(Problem::at(format!("{at}.send"), "is empty; `check: tcp` sends nothing"));
        }
        if self.expect.is_empty() {
            let why = "names nothing to wait for, so a server that hangs would pass; that is `check: tcp`";
            found.push(Problem::at(format!("{at}.expect"), why));
        }
        for (i, part) in self.expect.iter().enumerate() {
            if part.is_empty() {
                found.push(Problem::at(format!("{at}.expect[{i}]"), "is empty"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::parse;

    fn service(check: &str) -> String {
        format!("services:\n  - name: a\n    endpoints: [\"10.0.0.1:1\"]\n    health_check: {check}\n")
    }

    #[test]
    fn every_kind_of_check_is_read_and_written() {
        for check in [
            "{}",
            "{check: tcp}",
            "{check: {ping: {message_id: 7}}}",
            "{check: {ping: {message_id: 7, body: \"00FF\", reply_message_id: 8, reply_body: \"\"}}}",
            "{check: {bytes: {send: \"01\", expect: [\"02\", \"0304\"]}}, interval: 1s, timeout: 200ms}",
        ] {
            let policy = parse(&service(check)).unwrap();
            let json = serde_json::to_string(&policy).unwrap();
            assert_eq!(parse(&json).unwrap(), policy, "{json}");
        }
        assert_eq!(parse(&service("{}")).unwrap(), parse(&service("{check: tcp}")).unwrap());
    }

    #[test]
    fn names_what_is_wrong_with_a_check() {
        for (check, why) in [
            ("{check: udp}", "`udp` is none of `tcp`, `ping`, `bytes`"),
            ("{check: {ping: {}}}", "missing field `message_id`"),
            ("{check: {ping: {message_id: 70000}}}", "check.ping.message_id"),
            ("{check: {ping: {message_id: 7, body: \"0f0\"}}}", "`0f0` is not bytes in hex"),
            ("{check: {ping: {message_id: 7, body: \"xy\"}}}", "`xy` is not bytes in hex"),
            ("{check: {bytes: {send: \"01\", expect: []}}}", "check.bytes.expect: names nothing to wait for"),
            ("{check: {bytes: {send: \"01\", expect: [\"\"]}}}", "check.bytes.expect[0]: is empty"),
            ("{check: {bytes: {send: \"\", expect: [\"01\"]}}}", "check.bytes.send: is empty"),
            ("{interval: 0}", "health_check.interval: must be more than 0"),
            ("{timeout: 0}", "health_check.timeout: must be more than 0"),
            ("{healthy_threshold: 0}", "health_check.healthy_threshold: must be at least 1"),
            ("{threshold: 1}", "unknown field `threshold`"),
        ] {
            let problems = parse(&service(check)).unwrap_err();
            assert!(problems[0].to_string().contains(why), "{check}: {problems:?}");
        }
        let long = format!("{{check: {{ping: {{message_id: 7, body: \"{}\"}}}}}}", "00".repeat(65_536));
        assert!(parse(&service(&long)).unwrap_err()[0].to_string().contains("65,535"));
    }
}
