//! What the players of a run do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use realmgate_wire::ServerId;
use serde::Serialize;

/// The kinds of load; [`super::Command`] says what each does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One message at a time.
    Echo,
    /// Several at a time.
    Pipelined,
    /// One message a connection.
    Connect,
    /// Nothing but the first and the last message.
    Idle,
    /// Worlds, sizes, comings and goings.
    Mixed,
    /// Byte by byte.
    Slow,
    /// No message at all.
    Garbage,
    /// Nothing, until the other side ends it.
    Knock,
}

impl Mode {
    /// Whether all players connect before the clock starts, and stay.
    pub(super) const fn stays(self) -> bool {
        matches!(self, Self::Echo | Self::Pipelined | Self::Idle | Self::Mixed)
    }
}

/// What the players of a run do, in values.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kind of load.
    pub mode: Mode,
    /// Where they connect.
    pub to: SocketAddr,
    /// How many there are at a time.
    pub players: usize,
    /// How long, once all that [stay](Mode::stays) are connected.
    pub time: Duration,
    /// Messages or connections that fall due in a second; `None` = whenever the last was answered.
    pub rate: Option<f64>,
    /// Bytes of a message with its header.
    pub size: usize,
    /// Messages of a player under way at a time.
    pub depth: usize,
    /// Pause of slow players, patience with nonsense.
    pub gap: Duration,
    /// In the headers.
    pub server_type: u8,
    /// In the headers, in turn.
    pub worlds: Vec<u16>,
    /// In the headers.
    pub instance: u8,
    /// Local addresses, in turn; empty = the system's choice.
    pub sources: Vec<IpAddr>,
    /// Players that may be connecting at a time.
    pub at_once: usize,
    /// What an answer may take.
    pub patience: Duration,
    /// Whether first messages ask who answers.
    pub who: bool,
    /// Where chance starts.
    pub seed: u64,
    /// Which thread's part of the whole this is.
    pub part: usize,
}

impl Plan {
    /// Fifty players with messages of 64 bytes to world 1, in this mode.
    #[must_use]
    pub fn new(mode: Mode, to: SocketAddr, time: Duration) -> Self {
        Self {
            mode,
            to,
            players: 50,
            time,
            rate: None,
            size: 64,
            depth: if mode == Mode::Pipelined { 16 } else { 1 },
            gap: Duration::from_millis(100),
            server_type: 200,
            worlds: vec![1],
            instance: 1,
            sources: Vec::new(),
            at_once: 500,
            patience: Duration::from_secs(10),
            who: false,
            seed: 1,
            part: 0,
        }
    }

    /// The server id of the `number`-th connection.
    pub(super) fn server_id(&self, number: u64) -> ServerId {
        let at = number.checked_rem(self.worlds.len() as u64).unwrap_or(0);
        let world = self.worlds.get(at as usize).copied().unwrap_or(0);
        ServerId::new(self.server_type, world, self.instance, false)
    }

    /// One plan for each of so many threads, which together are this one.
    pub(super) fn split(&self, threads: usize) -> Vec<Self> {
        let threads = threads.clamp(1, self.players);
        let part = |part: usize| Self {
            players: self.players / threads + usize::from(part < self.players % threads),
            rate: self.rate.map(|rate| rate / threads as f64),
            at_once: self.at_once.div_ceil(threads),
            seed: self.seed.wrapping_add(part as u64),
            part,
            ..self.clone()
        };
        (0..threads).map(part).collect()
    }
}
