//! Load: fifty clients that exchange messages, or connect anew for each, as fast as they are answered.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{Failure, Frame, GameClient};

/// Enough to keep an Envoy with one worker busy all the time.
pub(super) const CLIENTS: u16 = 50;

/// The whole message: header and body.
pub(super) const MESSAGE_BYTES: usize = 64;

/// Messages per second over standing connections.
pub(super) async fn messages(to: SocketAddr, time: Duration) -> Result<f64, Failure> {
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let frame = message(number);
        let mut client = GameClient::connect(to).await.map_err(Failure::because("connect"))?;
        // The connection to the game server is made before the clock starts.
        client.exchange(&frame).await.map_err(Failure::because("first exchange"))?;
        clients.push((client, frame));
    }
    let start = Instant::now();
    let work = clients.into_iter().map(|(mut client, frame)| async move {
        let mut done = 0_u32;
        while start.elapsed() < time {
            client.exchange(&frame).await?;
            done += 1;
        }
        Ok(done)
    });
    rate(work, start).await
}

/// Connections per second: each sends one message, reads its answer and closes.
pub(super) async fn connections(to: SocketAddr, time: Duration) -> Result<f64, Failure> {
    let start = Instant::now();
    let work = (0..CLIENTS).map(|number| async move {
        let frame = message(number);
        let mut done = 0_u32;
        while start.elapsed() < time {
            GameClient::connect(to).await?.exchange(&frame).await?;
            done += 1;
        }
        Ok(done)
    });
    rate(work, start).await
}

/// A message to a world of the client's own, spread over all of them.
fn message(client: u16) -> Frame {
    Frame::to_world(1 + client * 650, 1, vec![0; MESSAGE_BYTES - realmgate_wire::ClientHeader::LEN])
}

async fn rate<W>(work: impl Iterator<Item = W>, start: Instant) -> Result<f64, Failure>
where
    W: Future<Output = io::Result<u32>> + Send + 'static,
{
    let mut clients: JoinSet<_> = work.collect();
    let mut done = 0.0;
    while let Some(client) = clients.join_next().await {
        let client = client.map_err(Failure::because("a client"))?;
        done += f64::from(client.map_err(Failure::because("a client"))?);
    }
    Ok(done / start.elapsed().as_secs_f64())
}
