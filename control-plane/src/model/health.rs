//! Active health checks as the policy says them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resilience::positive;
use super::{Duration, Problem};

/// Asking every endpoint, from every edge, whether it is well. One that is not gets no new players; its live sessions
/// stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// What is asked. Every check is a connection of its own, since that is what a player needs.
    pub check: Check,
    /// Time between two checks of an endpoint, give or take a tenth.
    pub interval: Duration,
    /// How long a check may take in all.
    pub timeout: Duration,
    /// So many failures in a row mark an endpoint as down.
    pub unhealthy_threshold: u32,
    /// So many successes in a row bring it back; at the start one is enough.
    pub healthy_threshold: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        // The old gateway had no health checks. Three failures 5 s apart: a restart of a few seconds goes unnoticed.
        Self {
            check: Check::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
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
        positive(&format!("{at}.interval"), self.interval, found);
        positive(&format!("{at}.timeout"), self.timeout, found);
        let thresholds = [
            ("unhealthy_threshold", self.unhealthy_threshold),
            ("healthy_threshold", self.healthy_threshold),
        ];
        for (field, value) in thresholds {
            if value == 0 {
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
            ("{check: udp}", "unknown variant `udp`"),
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
