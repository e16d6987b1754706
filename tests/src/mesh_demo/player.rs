//! The demo's player: keeps one session, and comes back at once when it ends, to whichever edge takes it.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::cast::game;
use crate::{Failure, GameClient};

/// Between two messages of a session.
const PACE: Duration = Duration::from_millis(100);

/// Between two attempts to come back.
const AGAIN: Duration = Duration::from_millis(50);

/// A player gives up on an edge that does not answer for so long.
const PATIENCE: Duration = Duration::from_secs(1);

/// A player and its session.
#[derive(Debug)]
pub(super) struct Player {
    edges: [SocketAddr; 2],
    session: Option<GameClient>,
    on: String,
}

impl Player {
    /// A player of the first of these edges, who tries the second when that fails.
    pub(super) const fn new(edges: [SocketAddr; 2]) -> Self {
        Self { edges, session: None, on: String::new() }
    }

    /// Ends the session.
    pub(super) fn leave(&mut self) {
        self.session = None;
    }

    /// Plays until it is served by a server whose name begins so.
    pub(super) async fn served_by(&mut self, place: &str, limit: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        while !(self.play().await && self.on.starts_with(place)) {
            if start.elapsed() > limit {
                return Err(Failure::new(format!("the player is not served by {place} within {limit:?}")));
            }
            // A session elsewhere would go on for ever.
            self.leave();
            sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Plays until `end`, and gives what it gives.
    pub(super) async fn play_until<T>(&mut self, end: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::pin!(end);
        loop {
            tokio::select! {
                given = &mut end => return Ok(given),
                () = sleep(PACE) => { self.play().await; }
            }
        }
    }

    /// A message on the session, or on a new one; says when another server answers.
    async fn play(&mut self) -> bool {
        if let Some(session) = &mut self.session
            && session.who_are_you(game(1, 1)).await.is_ok()
        {
            return true;
        }
        self.session = None;
        for edge in self.edges {
            let Ok(session) = GameClient::connect(edge).await else { continue };
            let mut session = session.patience(PATIENCE);
            if let Ok(on) = session.who_are_you(game(1, 1)).await {
                if on != self.on {
                    println!("  player -> edge {edge} -> {on}");
                }
                (self.session, self.on) = (Some(session), on);
                return true;
            }
        }
        false
    }
}
