//! What sidecars take from their peers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Duration;
use super::resilience::positive;
use super::{Listener, Problem};

/// Bounds on the connections of a sidecar, each by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sidecars {
    /// Open connections of one sidecar, in all, of peers that have proven who they are and of those that have not; 0 = no
    /// limit but that of the whole Envoy. A change spares live connections, and counts from 0.
    pub connections: u32,
    /// Time without a byte in either direction, also from the beginning: a peer that is denied and says nothing is closed
    /// then. Not shorter than that of any listener. A change replaces the listeners of sidecars, which drains their
    /// connections.
    pub idle_timeout: Duration,
    /// Whether the access log has a line for each peer that shows no certificate, as a check of an edge does that only
    /// connects. A change replaces the listeners of sidecars, too.
    // Left out where it is true, so that control planes of before read what is stored.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub log_nameless: bool,
}

impl Default for Sidecars {
    fn default() -> Self {
        // No number of connections fits all. Edges end idle sessions long before a day; that is for what an edge forgot.
        Self { connections: 0, idle_timeout: Duration::from_secs(24 * 60 * 60), log_nameless: true }
    }
}

impl Sidecars {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the listeners of sidecars are others under these.
    pub(super) fn replaces_listeners(&self, new: &Self) -> bool {
        self.idle_timeout != new.idle_timeout || self.log_nameless != new.log_nameless
    }

    pub(super) fn validate(&self, listeners: &[Listener], found: &mut Vec<Problem>) {
        let at = "sidecars.idle_timeout";
        positive(at, self.idle_timeout, found);
        if self.idle_timeout == Self::default().idle_timeout {
            return;
        }
        for (i, listener) in listeners.iter().enumerate() {
            let edge = listener.limits.idle_timeout;
            if self.idle_timeout < edge {
                let why = format!(
                    "is shorter than listeners[{i}].limits.idle_timeout, {edge}: sidecars would end sessions that edges keep"
                );
                found.push(Problem::at(at, why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{Policy, diff, parse};

    fn policy(edge: &str, sidecars: &str) -> Result<Policy, String> {
        let text = format!(
            "listeners: [{{name: a, bind: 127.0.0.1:1, limits: {{idle_timeout: {edge}}}}}]\nsidecars: {sidecars}"
        );
        parse(&text).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn they_end_no_session_that_edges_keep() {
        for (edge, sidecars) in
            [("30m", "{idle_timeout: 30m}"), ("0", "{idle_timeout: 1s}"), ("48h", "{connections: 5}")]
        {
            policy(edge, sidecars).unwrap();
        }
        let why = policy("30m", "{idle_timeout: 10m}").unwrap_err();
        assert!(
            why.contains("sidecars.idle_timeout: is shorter than listeners[0].limits.idle_timeout, 30m"),
            "{why}"
        );
        assert!(policy("0", "{idle_timeout: 0}").unwrap_err().contains("must be more than 0"));
    }

    #[test]
    fn what_is_not_said_is_not_written_and_a_change_is_announced() {
        let [none, fewer, shorter, quieter] =
            ["{}", "{connections: 5}", "{idle_timeout: 1h}", "{log_nameless: false}"]
                .map(|sidecars| policy("30m", sidecars).unwrap());
        assert!(!serde_json::to_string(&none).unwrap().contains("sidecars"));
        assert_eq!(diff(&none, &fewer), ["~ sidecars: connections"]);
        for (changed, field) in [(&shorter, "idle_timeout"), (&quieter, "log_nameless")] {
            let drains = format!(
                "~ sidecars: {field} (replaces the listeners of sidecars: their live connections drain)"
            );
            assert_eq!(diff(&none, changed), [drains]);
        }
    }
}
