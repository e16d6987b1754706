//! A game server as a process of its own: it can be killed as by a power cut, and stopped so that its port lives on.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::netns::{self, Namespace};
use crate::process::Process;
use crate::{Failure, parts};

const READY: Duration = Duration::from_secs(30);

/// A running game server.
#[derive(Debug)]
pub struct GameProcess {
    process: Process,
    name: String,
    address: SocketAddr,
}

impl GameProcess {
    /// Starts it on `address`, its log in `dir`, and waits until it listens.
    pub fn start(name: &str, address: SocketAddr, dir: &Path) -> Result<Self, Failure> {
        Self::start_in(None, name, address, dir)
    }

    /// The same in a network namespace.
    pub fn start_in(
        namespace: Option<&Namespace>,
        name: &str,
        address: SocketAddr,
        dir: &Path,
    ) -> Result<Self, Failure> {
        let mut command = netns::command(namespace.map(Namespace::name), &parts::GAME_SERVER.find()?);
        command.args(["--name", name, "--listen", &address.to_string()]);
        let mut process = Process::start(name, &mut command, dir)?;
        process.wait_ready("the game server listens", READY, || TcpStream::connect(address).is_ok())?;
        Ok(Self { process, name: name.to_owned(), address })
    }

    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Stops it where it is: the kernel goes on accepting connections for it, and nobody answers.
    pub fn hang(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.process.signal(Signal::CONT);
    }
}

impl Drop for GameProcess {
    fn drop(&mut self) {
        // One that hangs does not hear that it is to end.
        self.kill9();
    }
}
