//! A game server: sends every frame back unchanged, tells its name when asked, and can misbehave.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use realmgate_filter::config::Framing;

use crate::frame::{Frame, WHO_ARE_YOU};
use crate::framing::{self, SessionOf};

/// What a server does with its connections, live ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// Sends every frame back.
    Echo,
    /// Reads everything and answers nothing.
    Silent,
    /// Reads nothing; what was sent meanwhile is answered once it echoes again.
    Hold,
    /// Closes new connections at once and the live ones now.
    Close,
}

/// One connection as the server saw it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The address it came from: Envoy's, not the player's.
    pub peer: SocketAddr,
    /// Its first frames, as many as the server was told to keep.
    pub frames: Vec<Frame>,
    /// The session of those frames, where the framing tells.
    pub session: Option<SessionOf>,
    /// How many frames came.
    pub frame_count: u64,
    /// Whether it is still open.
    pub open: bool,
}

/// A running server; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct GameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    conduct: watch::Sender<Conduct>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    name: Bytes,
    framing: Framing,
    keep: usize,
    live: AtomicUsize,
    total: AtomicU64,
    frames: AtomicU64,
    connections: Mutex<Vec<Arc<Mutex<Connection>>>>,
}

impl GameServer {
    /// Serves on `address` and keeps counts only, which is what load needs.
    pub async fn start(name: &str, address: SocketAddr) -> io::Result<Self> {
        Self::recording(name, address, 0).await
    }

    /// Serves on `address` and keeps a record of every connection with its first `keep` frames; 0 = none.
    pub async fn recording(name: &str, address: SocketAddr, keep: usize) -> io::Result<Self> {
        Self::speaking(Framing::Client, name, address, keep).await
    }

    /// The same in another framing than the client's. A connection that does not speak it is closed.
    pub async fn speaking(
        framing: Framing,
        name: &str,
        address: SocketAddr,
        keep: usize,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            name: Bytes::copy_from_slice(name.as_bytes()),
            framing,
            keep,
            live: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            connections: Mutex::new(Vec::new()),
        });
        let (conduct, orders) = watch::channel(Conduct::Echo);
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), orders));
        Ok(Self { address, shared, conduct, accepting })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.shared.name).unwrap_or_default()
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Open connections.
    #[must_use]
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::SeqCst)
    }

    /// Connections since the start.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.shared.total.load(Ordering::SeqCst)
    }

    /// Frames since the start.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.shared.frames.load(Ordering::SeqCst)
    }

    /// The record of every connection, in the order they came; empty unless it was started to keep one.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        lock(&self.shared.connections).iter().map(|connection| lock(connection).clone()).collect()
    }

    /// Changes what it does.
    pub fn set_conduct(&self, conduct: Conduct) {
        self.conduct.send_replace(conduct);
    }
}

impl Drop for GameServer {
    fn drop(&mut self) {
        // The task owns the port and the set of all connections.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, orders: watch::Receiver<Conduct>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here is one client's (reset before it was accepted) or passes (open files).
                if let Ok((stream, peer)) = accepted {
                    connections.spawn(serve(stream, peer, Arc::clone(&shared), orders.clone()));
                }
            }
            // Ended connections are taken out at once, or the set would grow with every player.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, orders: watch::Receiver<Conduct>) {
    let open = Open::new(&shared, peer);
    // A broken connection ends like a closed one: the player's side tells the difference.
    let _ = exchange(stream, &open, orders).await;
}

async fn exchange(
    mut stream: TcpStream,
    open: &Open<'_>,
    mut orders: watch::Receiver<Conduct>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::new();
    let mut output = BytesMut::new();
    loop {
        // Looked at anew after every read: what arrives after an order is treated by that order.
        let conduct = *orders.borrow_and_update();
        match conduct {
            Conduct::Close => return Ok(()),
            Conduct::Hold => {}
            Conduct::Echo | Conduct::Silent => {
                while let Some((frame, session)) = framing::take(open.shared.framing, &mut input)? {
                    open.note(&frame, session)?;
                    if conduct == Conduct::Echo {
                        framing::reply(&open.shared.answer(frame), session, &mut output)?;
                    }
                }
                stream.write_all_buf(&mut output).await?;
            }
        }
        // Whole frames have left the buffer above, so it never holds more than a frame and one read.
        input.reserve(READ);
        tokio::select! {
            biased;
            changed = orders.changed() => if changed.is_err() { return Ok(()) },
            read = stream.read_buf(&mut input), if conduct != Conduct::Hold => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

impl Shared {
    fn answer(&self, mut frame: Frame) -> Frame {
        if frame.message_id == WHO_ARE_YOU {
            frame.body = self.name.clone();
        }
        frame
    }
}

/// One read's worth: small, since 10,000 connections have one each.
const READ: usize = 4096;

/// A connection's place in the counts, given back when it ends, in whatever way.
struct Open<'a> {
    shared: &'a Shared,
    record: Option<Arc<Mutex<Connection>>>,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, peer: SocketAddr) -> Self {
        shared.total.fetch_add(1, Ordering::SeqCst);
        shared.live.fetch_add(1, Ordering::SeqCst);
        let record = (shared.keep > 0).then(|| {
            let connection =
                Connection { peer, frames: Vec::new(), session: None, frame_count: 0, open: true };
            let record = Arc::new(Mutex::new(connection));
            lock(&shared.connections).push(Arc::clone(&record));
            record
        });
        Self { shared, record }
    }

    /// A connection has one session: another's message would be a gateway's gravest fault.
    fn note(&self, frame: &Frame, session: Option<SessionOf>) -> io::Result<()> {
        self.shared.frames.fetch_add(1, Ordering::SeqCst);
        if let Some(record) = &self.record {
            let mut record = lock(record);
            record.frame_count += 1;
            if record.frame_count == 1 {
                record.session = session;
            } else if record.session != session {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of another session"));
            }
            if record.frames.len() < self.shared.keep {
                record.frames.push(frame.clone());
            }
        }
        Ok(())
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            lock(record).open = false;
        }
        self.shared.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The data behind the locks is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
