//! Network namespaces: machines of their own as far as the network goes, whose links can be cut.
//!
//! ```text
//!   here (10.231.x.1) === link === (10.231.x.2) namespace     each link a /30 of its own; no routes between links
//! ```
//! A namespace needs root. Where it cannot be made, a test says so and ends.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Failure;

/// A network namespace. Dropping it ends its links; whatever runs in it must have been stopped before.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// A cable between two namespaces, or a namespace and the machine itself.
#[derive(Debug)]
pub struct Link {
    /// The namespace and the device of each end.
    devices: [(Option<String>, String); 2],
    /// Its addresses, in the order in which the ends were named.
    pub ends: [Ipv4Addr; 2],
}

/// How often another number is tried for a link.
const ATTEMPTS: u32 = 20;

/// Counts everything that needs a name of its own in this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

fn next() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    /// There is no `ip`, or no right to use it.
    pub fn new() -> Result<Self, Failure> {
        let namespace = Self { name: format!("rg{}-{}", std::process::id(), next()) };
        ip(&["netns", "add", &namespace.name])?;
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// What the system calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a property of its network: its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// There is none of this name, or it cannot be this.
    pub fn set(&self, property: &str, value: &str) -> Result<(), Failure> {
        let set = format!("echo {value} > /proc/sys/net/{property}");
        run(command(Some(&self.name), Path::new("sh")).args(["-c", &set]), &set)
    }

    /// A link from the machine itself to this one.
    pub fn link_here(&self) -> Result<Link, Failure> {
        Link::new(None, self)
    }

    /// A link from `other` to this one.
    pub fn link_with(&self, other: &Self) -> Result<Link, Failure> {
        Link::new(Some(other), self)
    }
}

/// A command that runs `program` in the namespace of this name; without one, here.
#[must_use]
pub fn command(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    // It becomes the program: the process is the same, and so are its signals.
    command.args([OsStr::new("netns"), "exec".as_ref(), namespace.as_ref(), program.as_os_str()]);
    command
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its devices go with it, and with them their other ends.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

impl Link {
    fn new(one: Option<&Namespace>, two: &Namespace) -> Result<Self, Failure> {
        // 10.231.0.0/16 in pieces of four addresses. A device of the number is what claims it: who finds one goes on to the next.
        let mut attempts = 0;
        let (devices, ends) = loop {
            let number = std::process::id().wrapping_mul(8).wrapping_add(next()) % (1 << 14);
            let base = u32::from(Ipv4Addr::new(10, 231, 0, 0)) + 4 * number;
            // Names of devices have 15 letters at most.
            let devices = [format!("rg{number}a"), format!("rg{number}b")];
            let [device, other] = &devices;
            match ip(&["link", "add", device, "type", "veth", "peer", "name", other, "netns", &two.name]) {
                Ok(()) => break (devices, [Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2)]),
                Err(failure) if attempts == ATTEMPTS => return Err(failure),
                Err(_) => attempts += 1,
            }
        };
        let [device, other] = &devices;
        if let Some(one) = one {
            ip(&["link", "set", device, "netns", &one.name])?;
        }
        let one = one.map(|namespace| namespace.name.clone());
        for ((namespace, device), address) in
            [(one.as_ref(), device), (Some(&two.name), other)].iter().zip(ends)
        {
            ip_in(*namespace, &["address", "add", &format!("{address}/30"), "dev", device])?;
            ip_in(*namespace, &["link", "set", device, "up"])?;
        }
        let [device, other] = devices;
        Ok(Self { devices: [(one, device), (Some(two.name.clone()), other)], ends })
    }

    /// Cuts it: from now on, whatever is sent over it is lost, and nobody is told.
    ///
    /// # Panics
    /// The device is gone.
    pub fn cut(&self) {
        self.set("down");
    }

    /// Mends it.
    ///
    /// # Panics
    /// The device is gone.
    pub fn mend(&self) {
        self.set("up");
    }

    /// Has what arrives at each end taken in by a processor of its own, by their numbers, as two machines would. The kernel
    /// otherwise does the work of both ends on the processor of whoever sends.
    ///
    /// # Errors
    /// The kernel does not let itself be told.
    pub fn take_in_on(&self, processors: [usize; 2]) -> Result<(), Failure> {
        for ((namespace, device), processor) in self.devices.iter().zip(processors) {
            let set = format!("echo {:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus", 1_u64 << processor);
            run(command(namespace.as_deref(), Path::new("sh")).args(["-c", &set]), &set)?;
        }
        Ok(())
    }

    fn set(&self, state: &str) {
        let [(namespace, device), _] = &self.devices;
        let done = ip_in(namespace.as_ref(), &["link", "set", device, state]);
        done.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

fn ip_in(namespace: Option<&String>, arguments: &[&str]) -> Result<(), Failure> {
    let within = namespace.map(|name| ["-n", name.as_str()]);
    ip(&[within.as_ref().map_or(&[][..], |within| &within[..]), arguments].concat())
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    run(Command::new("ip").args(arguments), &format!("ip {}", arguments.join(" ")))
}

fn run(command: &mut Command, doing: &str) -> Result<(), Failure> {
    let Output { status, stderr, .. } = command.output().map_err(Failure::because(doing))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("{doing}: {}", String::from_utf8_lossy(&stderr).trim())))
}
