//! A child process that cannot outlive its guard, with its output in a log file.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;
use crate::wait::poll;

/// Time to end after SIGTERM before SIGKILL. Every part ends within milliseconds when it is well and has a processor; what is
/// killed leaves a log without its end.
const GRACE: Duration = Duration::from_secs(20);

/// How much of a log an error message shows.
const TAIL_LINES: usize = 25;

/// A running child. It stays in our process group, so that Ctrl-C reaches it even when no destructor runs.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    grace: Duration,
}

impl Process {
    /// Starts `command`, appending what it prints to `<dir>/<name>.log`.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Self, Failure> {
        let log = dir.join(format!("{name}.log"));
        let because = |e| Failure::new(format!("cannot start {name} ({}): {e}", program(command)));
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let (out, err): (File, File) = open().and_then(|out| Ok((out.try_clone()?, out))).map_err(because)?;
        let spawned = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child =
            spawned.map_err(|e| Failure::new(format!("cannot start {name} ({}): {e}", program(command))))?;
        Ok(Self { name: name.to_owned(), child, log, grace: GRACE })
    }

    /// Blocks until `ready` holds; fails at once when the process ends, and shows its log either way.
    pub fn wait_ready(
        &mut self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), Failure> {
        let outcome = poll(what, timeout, || match self.exit_status() {
            Some(status) => Err(Failure::new(format!("{} ended ({status}) before {what}", self.name))),
            None => Ok(ready().then_some(())),
        });
        outcome.map_err(|failure| Failure::new(format!("{failure}\n{}", self.log_tail())))
    }

    /// Changes how long it may take to end.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last lines of the log, under a line that says where it is.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
        format!("--- end of {} ---\n{}", self.log.display(), tail.join("\n"))
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none() {
            // Not reaped yet, so the id is still this process's and nobody else's.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Ends it the hard way, as a power cut would, and reaps it.
    pub fn kill9(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM), then makes it; reaped in both cases.
    pub fn terminate(&mut self) {
        if self.exit_status().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        let ended = poll("it ends", self.grace, || Ok(self.exit_status()));
        if ended.is_err() {
            self.kill9();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
