//! The subscribed connection. Whatever comes over it says one thing, "read again", so nothing of it is kept: a flood of
//! notifications, or one without an end, takes no more memory than one.

use std::time::Duration;

use redis::{Cmd, RedisError, Value, cmd, parse_redis_value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::connection::{STEP, silent};
use super::lost::Lost;
use crate::source::redis_link::{Stream, Target};

/// Longest line that is an answer: a status, or an error's words.
const LINE: usize = 4 << 10;

/// What is read at once and forgotten.
const BUFFER: usize = 64 << 10;

/// What became of the wish to be notified.
pub(super) enum Attempt {
    Subscribed(Notifications),
    /// Redis does not allow it. Rules can be read without.
    Refused {
        reason: String,
        since: Instant,
    },
}

/// A subscription, or the refusal of one.
pub(super) struct Subscription {
    pub(super) attempt: Attempt,
}

impl Subscription {
    /// Connects and subscribes to `channels`.
    pub(super) async fn open(target: &Target, channels: &[String]) -> Result<Self, Lost> {
        let connected = timeout(STEP, target.connect()).await;
        let mut stream = connected.map_err(|_elapsed| silent("connect", STEP))??;
        let login = timeout(STEP, log_in(&mut stream, target));
        login.await.map_err(|_elapsed| silent("AUTH", STEP))??;
        let subscribed = timeout(STEP, subscribe(&mut stream, channels)).await;
        let attempt = match subscribed.map_err(|_elapsed| silent("SUBSCRIBE", STEP))? {
            Ok(()) => Attempt::Subscribed(Notifications::of(stream)),
            Err(refused @ Lost::Redis(_)) => {
                Attempt::Refused { reason: refused.to_string(), since: Instant::now() }
            }
            Err(lost) => return Err(lost),
        };
        Ok(Self { attempt })
    }
}

async fn log_in(stream: &mut Stream, target: &Target) -> Result<(), Lost> {
    let login = target.login();
    let Some(password) = login.password() else { return Ok(()) };
    let auth = |user: Option<&str>| {
        let mut auth = cmd("AUTH");
        for word in user.into_iter().chain([password]) {
            auth.arg(word);
        }
        auth
    };
    say(stream, &auth(login.username())).await?;
    match status(stream).await {
        // Redis before 6 has no users, as the library knows of the other connection.
        Err(Lost::Redis(error))
            if login.username().is_some() && error.to_string().contains("wrong number") =>
        {
            say(stream, &auth(None)).await?;
            status(stream).await
        }
        status => status,
    }
}

async fn subscribe(stream: &mut Stream, channels: &[String]) -> Result<(), Lost> {
    say(stream, cmd("SUBSCRIBE").arg(channels)).await?;
    for (n, channel) in (1..).zip(channels) {
        let wanted = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:{n}\r\n", channel.len());
        let first = stream.read_u8().await?;
        if first == b'-' {
            return error(&line(stream, first).await?);
        }
        let mut rest = vec![0; wanted.len() - 1];
        stream.read_exact(&mut rest).await?;
        if wanted.as_bytes().strip_prefix(&[first]) != Some(rest.as_slice()) {
            return Err(Lost::Unconfirmed);
        }
    }
    Ok(())
}

async fn say(stream: &mut Stream, command: &Cmd) -> Result<(), Lost> {
    stream.write_all(&command.get_packed_command()).await?;
    stream.flush().await.map_err(Lost::Io)
}

/// An answer of one line, which has to be good.
async fn status(stream: &mut Stream) -> Result<(), Lost> {
    let first = stream.read_u8().await?;
    let line = line(stream, first).await?;
    if first == b'-' { error(&line) } else { Ok(()) }
}

/// The line that begins with `first`, its end included.
async fn line(stream: &mut Stream, first: u8) -> Result<Vec<u8>, Lost> {
    let mut line = vec![first];
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE {
            return Err(Lost::TooMuch { step: "SUBSCRIBE", limit: LINE });
        }
        line.push(stream.read_u8().await?);
    }
    Ok(line)
}

/// What an error's line says.
fn error(line: &[u8]) -> Result<(), Lost> {
    match parse_redis_value(line)? {
        Value::ServerError(error) => Err(RedisError::from(error).into()),
        _ => Err(Lost::Unconfirmed),
    }
}

/// That something was notified. Dropping it closes the socket.
pub(super) struct Notifications {
    write: WriteHalf<Stream>,
    woken: mpsc::Receiver<()>,
    reader: AbortHandle,
}

impl Notifications {
    fn of(stream: Stream) -> Self {
        let (read, write) = split(stream);
        // One that waits is as good as a thousand.
        let (wake, woken) = mpsc::channel(1);
        Self { write, woken, reader: tokio::spawn(drain(read, wake)).abort_handle() }
    }

    /// Whether a notification comes within `time`. Where none does, Redis is asked whether it is still there.
    pub(super) async fn next(&mut self, time: Duration) -> Result<bool, Lost> {
        match timeout(time, self.woken.recv()).await {
            Ok(Some(())) => Ok(true),
            Ok(None) => Err(Lost::Closed),
            Err(_elapsed) => {
                let ping = async {
                    self.write.write_all(&cmd("PING").get_packed_command()).await?;
                    self.write.flush().await?;
                    // Whatever comes, it is there, and what it may have notified is read now.
                    self.woken.recv().await.ok_or(Lost::Closed)
                };
                timeout(STEP, ping).await.map_err(|_elapsed| silent("PING", STEP))??;
                Ok(false)
            }
        }
    }

    /// Forgets what came until now: what it tells of is about to be read.
    pub(super) fn forget(&mut self) {
        while self.woken.try_recv().is_ok() {}
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads on also while nobody waits: Redis closes subscribers that are slow.
async fn drain(mut stream: ReadHalf<Stream>, wake: mpsc::Sender<()>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(1..) = stream.read(&mut buffer).await {
        // A full channel already says so.
        let _ = wake.try_send(());
    }
}
