//! A fleet in a process of its own, as tests and benchmarks hold it.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio};
use std::time::Duration;

use super::catalogue::Kind;
use super::command::{Command, Reply};
use super::tally::{Acknowledged, Traffic};
use crate::{Failure, parts};

/// Longer than a server takes to be killed and started, so that a test decides when all come back; short enough
/// that a connection lost otherwise does not end a measurement.
const RECONNECT_AFTER_MS: &str = "10000";

/// A running fleet. Ends with its guard, and by itself when we are gone, since its standard input ends then.
#[derive(Debug)]
pub struct Fleet {
    child: Child,
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Fleet {
    /// Starts a fleet without proxies for the server at `address`. A connection that is lost is made anew by
    /// [`Fleet::reconnect`], or by itself after ten seconds.
    pub fn start(address: SocketAddr) -> Result<Self, Failure> {
        let binary = parts::FLEET.find()?;
        let mut program = Program::new(&binary);
        program.args([
            "--commands",
            "--reconnect-after",
            RECONNECT_AFTER_MS,
            "--address",
            &address.to_string(),
        ]);
        let spawned = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(Failure::because(binary.display()))?;
        let (commands, replies) = (child.stdin.take(), child.stdout.take());
        let replies = replies.ok_or_else(|| Failure::new("the fleet has no standard output"))?;
        Ok(Self { child, commands, replies: BufReader::new(replies) })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Adds proxies, of which so many may be on their way to be in sync at once.
    pub fn connect(&mut self, count: usize, at_once: usize) -> Result<(), Failure> {
        self.done(&Command::Connect { count, at_once })
    }

    /// Waits until all are in sync; the moment when the last came to be.
    pub fn synced(&mut self, patience: Duration) -> Result<Duration, Failure> {
        match self.ask(&Command::Synced { timeout_ms: milliseconds(patience) })? {
            Reply::Synced { last_ns } => Ok(Duration::from_nanos(last_ns)),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits for a change of this resource, or of any of the type, from now on.
    pub fn watch(&mut self, kind: Kind, name: Option<&str>) -> Result<(), Failure> {
        self.done(&Command::Watch { kind, name: name.map(str::to_owned) })
    }

    /// Waits until all have acknowledged the change.
    pub fn acknowledged(&mut self, patience: Duration) -> Result<Acknowledged, Failure> {
        match self.ask(&Command::Acknowledged { timeout_ms: milliseconds(patience) })? {
            Reply::Acknowledged(acknowledged) => Ok(acknowledged),
            other => Err(unexpected(&other)),
        }
    }

    /// What was received since the last watch or connect.
    pub fn traffic(&mut self) -> Result<Traffic, Failure> {
        match self.ask(&Command::Traffic)? {
            Reply::Traffic(traffic) => Ok(traffic),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes all connect anew at once, with what they have.
    pub fn reconnect(&mut self) -> Result<(), Failure> {
        self.done(&Command::Reconnect)
    }

    /// Ends all connections and forgets the proxies.
    pub fn disconnect(&mut self) -> Result<(), Failure> {
        self.done(&Command::Disconnect)
    }

    fn done(&mut self, command: &Command) -> Result<(), Failure> {
        match self.ask(command)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, command: &Command) -> Result<Reply, Failure> {
        let because = Failure::because::<std::io::Error>;
        let mut line = serde_json::to_string(command).map_err(Failure::because("a command"))?;
        line.push('\n');
        let commands = self.commands.as_mut().ok_or_else(|| Failure::new("the fleet takes no commands"))?;
        commands.write_all(line.as_bytes()).map_err(because("the fleet has ended"))?;
        line.clear();
        self.replies.read_line(&mut line).map_err(because("the fleet has ended"))?;
        match serde_json::from_str(&line).map_err(Failure::because("the fleet has ended"))? {
            Reply::Failed { why } => Err(Failure::new(why)),
            reply => Ok(reply),
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Ten thousand connections take their time to close in order; nobody waits for that.
        drop(self.commands.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::new(format!("the fleet answers another question: {reply:?}"))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
