//! The line protocol by which a program drives a fleet in another process: a JSON object a line, and one back.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::catalogue::Kind;
use super::crew::Crew;
use super::tally::{Acknowledged, Traffic};
use crate::Failure;

/// What a fleet shall do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Command {
    /// Add proxies.
    Connect {
        /// How many.
        count: usize,
        /// How many of them may be on their way to be in sync at a time.
        at_once: usize,
    },
    /// Wait until all proxies are in sync.
    Synced {
        /// How long.
        timeout_ms: u64,
    },
    /// Wait for a change from now on.
    Watch {
        /// Of this type.
        #[serde(rename = "type")]
        kind: Kind,
        /// Of this resource; any when it is not given.
        #[serde(default)]
        name: Option<String>,
    },
    /// Wait until all proxies have acknowledged the change.
    Acknowledged {
        /// How long.
        timeout_ms: u64,
    },
    /// Say what was received since the last watch or connect.
    Traffic,
    /// Connect all proxies anew, at once, with what they have.
    Reconnect,
    /// End all connections; the proxies forget what they had.
    Disconnect,
}

/// What a fleet answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "lowercase")]
pub enum Reply {
    /// It is done, or begun where waiting is another command.
    Done,
    /// All are in sync.
    Synced {
        /// Since this moment.
        last_ns: u64,
    },
    /// All have the change.
    Acknowledged(Acknowledged),
    /// What was received.
    Traffic(Traffic),
    /// It cannot, or not in time.
    Failed {
        /// The reason.
        why: String,
    },
}

/// Obeys commands from standard input until it ends.
pub async fn serve(mut crew: Crew) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::unbounded_channel();
    // A thread of its own, since reading blocks; it goes with the process.
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    while let Some(line) = lines.recv().await {
        let reply = match serde_json::from_str(&line) {
            Ok(command) => obey(&mut crew, command).await,
            Err(error) => Err(Failure::new(format!("no command: {error}"))),
        };
        let reply = reply.unwrap_or_else(|failure| Reply::Failed { why: failure.to_string() });
        let reply = serde_json::to_string(&reply).map_err(Failure::because("reply"))?;
        println!("{reply}");
    }
    Ok(())
}

async fn obey(crew: &mut Crew, command: Command) -> Result<Reply, Failure> {
    match command {
        Command::Connect { count, at_once } => crew.connect(count, at_once),
        Command::Watch { kind, name } => crew.watch(kind, name.as_deref()),
        Command::Reconnect => crew.reconnect(),
        Command::Disconnect => crew.disconnect().await,
        Command::Traffic => return Ok(Reply::Traffic(crew.traffic())),
        Command::Synced { timeout_ms } => {
            let last_ns = crew.synced(Duration::from_millis(timeout_ms)).await?;
            return Ok(Reply::Synced { last_ns });
        }
        Command::Acknowledged { timeout_ms } => {
            let acknowledged = crew.acknowledged(Duration::from_millis(timeout_ms)).await?;
            return Ok(Reply::Acknowledged(acknowledged));
        }
    }
    Ok(Reply::Done)
}

#[cfg(test)]
mod tests {
    use super::{Command, Kind};

    #[test]
    fn commands_are_written_as_the_help_says() {
        let command: Command = serde_json::from_str(r#"{"do":"watch","type":"eds","name":"blue"}"#).unwrap();
        assert_eq!(command, Command::Watch { kind: Kind::Eds, name: Some("blue".to_owned()) });
        let any: Command = serde_json::from_str(r#"{"do":"watch","type":"cds"}"#).unwrap();
        assert_eq!(any, Command::Watch { kind: Kind::Cds, name: None });
        assert!(serde_json::from_str::<Command>(r#"{"do":"connect","count":1,"at":2}"#).is_err());
    }
}
