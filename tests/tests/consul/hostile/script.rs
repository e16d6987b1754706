//! A server that answers as it is told to, blocking queries as soon as it is told another thing.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a path is answered with.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Json(Value),
    /// With a further header.
    Headed(&'static str, Value),
    /// Any body.
    Text(&'static str),
    /// A body without an end.
    Endless,
    /// What may be no HTTP.
    Raw(&'static [u8]),
}

#[derive(Default)]
struct State {
    replies: BTreeMap<String, Reply>,
    asked: BTreeMap<String, usize>,
    held: Option<&'static str>,
}

/// A running server. Ends on drop.
pub(super) struct Script {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
    /// The index of all answers.
    index: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Script {
    pub(super) async fn start(at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let index = watch::Sender::new(1);
        let (shared, seen) = (Arc::clone(&state), index.subscribe());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A client that goes away is no fault.
                tokio::spawn(serve(client, Arc::clone(&shared), seen.clone()));
            }
        });
        Self { at, state, index, task }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Answers all paths that begin so, where none that is longer does; gives what was answered before.
    pub(super) fn set(&self, path: &str, reply: Reply) -> Option<Reply> {
        let before = self.state.lock().unwrap().replies.insert(path.to_owned(), reply);
        self.index.send_modify(|index| *index += 1);
        before
    }

    /// Answers no more blocking queries of paths that begin so.
    pub(super) fn hold(&self, path: &'static str) {
        self.state.lock().unwrap().held = Some(path);
    }

    /// How often a path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.get(path).copied().unwrap_or_default()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether this is a request with the whole of its body, of which clients send one at a time.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

async fn serve(
    mut client: TcpStream,
    state: Arc<Mutex<State>>,
    mut index: watch::Receiver<u64>,
) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        while !is_whole(&head) {
            if client.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut head)).into_owned();
        let target = text.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let known = query.split('&').find_map(|part| part.strip_prefix("index=")?.parse::<u64>().ok());
        *state.lock().unwrap().asked.entry(path.to_owned()).or_default() += 1;
        let holds = state.lock().unwrap().held;
        if known.is_some_and(|known| known > 0) && holds.is_some_and(|prefix| path.starts_with(prefix)) {
            // Until the client goes.
            let _ = client.read_buf(&mut head).await?;
            return Ok(());
        }
        if let Some(known) = known {
            // An error means that the test is over.
            let _ = index.wait_for(|index| *index > known).await.map(drop);
        }
        let now = *index.borrow();
        let reply = {
            let state = state.lock().unwrap();
            let of = state.replies.iter().filter(|(prefix, _)| path.starts_with(prefix.as_str()));
            of.max_by_key(|(prefix, _)| prefix.len()).map(|(_, reply)| reply.clone())
        };
        let (header, body) = match reply {
            Some(Reply::Json(value)) => ("X-Nothing: said", value.to_string()),
            Some(Reply::Headed(header, value)) => (header, value.to_string()),
            Some(Reply::Text(text)) => ("X-Nothing: said", text.to_owned()),
            Some(Reply::Raw(bytes)) => {
                client.write_all(bytes).await?;
                return Ok(());
            }
            Some(Reply::Endless) => {
                let head = format!("HTTP/1.1 200 OK\r\nX-Consul-Index: {now}\r\nConnection: close\r\n\r\n");
                client.write_all(head.as_bytes()).await?;
                loop {
                    client.write_all(&[b' '; 1 << 13]).await?;
                }
            }
            None => {
                client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
                continue;
            }
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\n{header}\r\nX-Consul-Index: {now}\r\nContent-Length: {length}\r\n\r\n"
        );
        client.write_all([head, body].concat().as_bytes()).await?;
    }
}
