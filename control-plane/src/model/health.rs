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
