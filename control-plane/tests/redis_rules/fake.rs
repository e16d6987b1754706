//! A Redis that misbehaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What it does.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// Answers everybody, and then sends so many bytes to whoever has subscribed, none of them the end of a message.
    Flood(usize),
    /// Never ends the answer to the first command after the login.
    EndlessLine,
}

/// It listens until it is dropped.
pub(crate) struct FakeRedis {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    then: Then,
    asked: AtomicUsize,
    flooded: watch::Sender<usize>,
    cut: watch::Sender<usize>,
}

impl FakeRedis {
    pub(crate) async fn start(then: Then) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flooded, cut) = (watch::Sender::new(0), watch::Sender::new(0));
        let state = Arc::new(State { then, asked: AtomicUsize::new(0), flooded, cut });
        let mut tasks = JoinSet::new();
        let all = Arc::clone(&state);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&all)));
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// How often the types of the keys were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }

    /// How many bytes of the flood were taken.
    pub(crate) fn flooded(&self) -> watch::Receiver<usize> {
        self.state.flooded.subscribe()
    }

    /// How many endless lines were cut.
    pub(crate) fn cut(&self) -> watch::Receiver<usize> {
        self.state.cut.subscribe()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut pending = Vec::new();
    while let Some(words) = command(&mut stream, &mut pending).await {
        let answer = match words[0].as_str() {
            "SUBSCRIBE" => {
                let confirm = |(n, channel): (usize, &String)| {
                    format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:{n}\r\n", channel.len())
                };
                let confirmed: String = (1..).zip(&words[1..]).map(confirm).collect();
                stream.write_all(confirmed.as_bytes()).await.unwrap();
                if let Then::Flood(bytes) = state.then {
                    flood(&mut stream, &state, bytes).await;
                }
                continue;
            }
            "TYPE" if matches!(state.then, Then::EndlessLine) => {
                stream.write_all(b"+").await.unwrap();
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                state.cut.send_modify(|cut| *cut += 1);
                return;
            }
            "TYPE" => {
                state.asked.fetch_add(1, Ordering::Relaxed);
                "+none\r\n"
            }
            _ => "+OK\r\n",
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn flood(stream: &mut TcpStream, state: &State, bytes: usize) {
    let chunk = vec![b'x'; 64 << 10];
    while *state.flooded.borrow() < bytes {
        if stream.write_all(&chunk).await.is_err() {
            return;
        }
        state.flooded.send_modify(|sent| *sent += chunk.len());
    }
}

/// The next command of a client: `*2 $4 TYPE $1 k`, each part a line.
async fn command(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<Vec<String>> {
    loop {
        let text = String::from_utf8_lossy(pending).into_owned();
        let lines: Vec<_> = text.split_inclusive("\r\n").filter(|line| line.ends_with("\r\n")).collect();
        if let Some(count) =
            lines.first().and_then(|line| line.trim().strip_prefix('*')?.parse::<usize>().ok())
            && lines.len() > 2 * count
        {
            let taken: usize = lines[..=2 * count].iter().map(|line| line.len()).sum();
            let words = lines[1..].iter().skip(1).step_by(2).take(count);
            let words = words.map(|line| line.trim().to_owned()).collect();
            pending.drain(..taken);
            return Some(words);
        }
        let mut more = [0; 4096];
        match stream.read(&mut more).await {
            Ok(length @ 1..) => pending.extend_from_slice(&more[..length]),
            _ => return None,
        }
    }
}
