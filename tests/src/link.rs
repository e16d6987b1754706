//! A link between a proxy and its control plane that takes its time, and can be cut.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::Failure;

/// Chunks on their way: more than any test has at once.
const ON_THE_WAY: usize = 4096;

/// A running link.
#[derive(Debug)]
pub struct Link {
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Link {
    /// Passes on to `server` what connects to `at`; every byte takes `one_way`.
    pub async fn start(at: SocketAddr, server: SocketAddr, one_way: Duration) -> Result<Self, Failure> {
        let listener = TcpListener::bind(at).await.map_err(Failure::because("link"))?;
        let (cuts, cut) = watch::channel(0);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    // A connection that breaks is the client's to make again.
                    tokio::select! { _ = pass(client, server, one_way) => {}, _ = cut.changed() => {} }
                });
            }
        });
        Ok(Self { cuts, task })
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, one_way: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::select! {
        ended = late(from_client, to_server, one_way) => ended,
        ended = late(from_server, to_client, one_way) => ended,
    }
}

async fn late(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way: Duration) -> std::io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let read = async {
        let mut chunk = vec![0; 1 << 16];
        loop {
            let length = from.read(&mut chunk).await?;
            let bytes = chunk.get(..length).unwrap_or_default().to_vec();
            if bytes.is_empty() || sender.send((Instant::now() + one_way, bytes)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((at, bytes)) = chunks.recv().await {
            tokio::time::sleep_until(at.into()).await;
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::select! { ended = read => ended, ended = write => ended }
}
