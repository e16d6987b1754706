//! What happens at the listener before a scenario's own connection comes.
//!
//! ```json
//! {"name": "the third of two", "before": [{"open": 2}],
//!  "steps": [], "expect": {"closed": "connections_per_ip"}}
//! ```

use serde::Deserialize;

/// One thing that happens, to connections from the client's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// So many connections come and send nothing; they are let in.
    Open(u32),
    /// So many of them leave, the oldest first.
    Close(u32),
    /// Nothing happens for so many milliseconds.
    WaitMs(u32),
}

/// The client's address where a scenario with other connections names none.
pub(super) const SOURCE: &str = "127.0.0.1:40000";
