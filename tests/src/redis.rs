//! A real Redis server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use redis::{Client, Connection, FromRedisValue, cmd};

use crate::process::Process;
use crate::{Failure, parts};

const READY: Duration = Duration::from_secs(30);

/// A running server. It writes every command to disk before it answers, so that it has everything again
/// after a kill.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    address: SocketAddr,
    dir: PathBuf,
}

impl Redis {
    /// Starts a server on `address` with its data in `<dir>`.
    pub fn start(dir: &Path, address: SocketAddr) -> Result<Self, Failure> {
        let process = run(dir, address)?;
        Ok(Self { process, address, dir: dir.to_owned() })
    }

    /// The address as settings take it.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// Stops it at once, as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again with the data it had.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.terminate();
        self.process = run(&self.dir, self.address)?;
        Ok(())
    }

    /// SET.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        self.command::<()>(&["SET", key, value]);
    }

    /// HSET of one field.
    #[track_caller]
    pub fn hset(&self, key: &str, field: &str, value: &str) {
        self.command::<i64>(&["HSET", key, field, value]);
    }

    /// HDEL of one field.
    #[track_caller]
    pub fn hdel(&self, key: &str, field: &str) {
        self.command::<i64>(&["HDEL", key, field]);
    }

    /// DEL.
    #[track_caller]
    pub fn del(&self, key: &str) {
        self.command::<i64>(&["DEL", key]);
    }

    /// PUBLISH; how many subscribers got it.
    #[track_caller]
    pub fn publish(&self, channel: &str, payload: &str) -> i64 {
        self.command(&["PUBLISH", channel, payload])
    }

    /// Any command.
    #[track_caller]
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let [name, arguments @ ..] = words else { panic!("a command has a name") };
        let answer = connect(self.address).and_then(|mut redis| cmd(name).arg(arguments).query(&mut redis));
        answer.unwrap_or_else(|e| panic!("Redis, {name}: {e}\n{}", self.process.log_tail()))
    }
}

fn run(dir: &Path, address: SocketAddr) -> Result<Process, Failure> {
    let mut command = Command::new(parts::REDIS.find()?);
    command.args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]).arg("--dir").arg(dir);
    let mut process = Process::start("redis", &mut command, dir)?;
    process.wait_ready("Redis answers", READY, || {
        connect(address).and_then(|mut redis| cmd("PING").query::<String>(&mut redis)).is_ok()
    })?;
    Ok(process)
}

fn url(address: SocketAddr) -> String {
    format!("redis://{address}/")
}

fn connect(address: SocketAddr) -> redis::RedisResult<Connection> {
    Client::open(url(address))?.get_connection_with_timeout(Duration::from_secs(5))
}
