//! Where a test lives: a loopback address of its own, a temporary folder, and its turn on the machine.
//!
//! With an address per test, ports are fixed numbers: no two tests can want the same one, however many test
//! processes run. All are below 32768, where the kernel's ephemeral ports begin, so that no outgoing
//! connection can sit on one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tempfile::TempDir;

/// Held while an address is in use; whoever finds it taken goes on to the next address.
const CLAIM_PORT: u16 = 20_000;

/// Tests that measure time run alone, all others side by side.
static MACHINE: RwLock<()> = RwLock::new(());

#[derive(Debug)]
enum Turn {
    Shared { _held: RwLockReadGuard<'static, ()> },
    Alone { _held: RwLockWriteGuard<'static, ()> },
}

/// One test's place. Make one per test, before everything that lives in it.
#[derive(Debug)]
pub struct TestNet {
    address: Address,
    dir: Option<TempDir>,
    _turn: Turn,
}

impl TestNet {
    /// A place beside those of other tests.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Turn::Shared { _held: MACHINE.read().unwrap_or_else(PoisonError::into_inner) })
    }

    /// A place for a test that measures time: it waits until no other test of this process runs.
    #[must_use]
    pub fn alone() -> Self {
        Self::with(Turn::Alone { _held: MACHINE.write().unwrap_or_else(PoisonError::into_inner) })
    }

    fn with(turn: Turn) -> Self {
        let dir = tempfile::Builder::new().prefix("realmgate-").tempdir().expect("a temporary folder");
        Self { address: Address::claim(), dir: Some(dir), _turn: turn }
    }

    /// The address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// A port on the address.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        assert!(port < 32_768, "{port} may be taken by an outgoing connection");
        SocketAddr::new(self.ip(), port)
    }

    /// The folder for logs and data. It goes with the test, except when the test fails.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("only drop takes it").path()
    }
}

impl Default for TestNet {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestNet {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("logs of the failed test: {}", dir.keep().display());
        }
    }
}

/// An address of 127.0.0.0/8 that nobody else has claimed, for as long as it lives.
#[derive(Debug)]
pub struct Address {
    claim: TcpListener,
}

impl Address {
    /// Claims the next free address.
    #[must_use]
    pub fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes start far apart, so that the search almost never meets another's claim.
        let first = process::id().wrapping_mul(509);
        let taken = |number: u32| {
            let [_, high, middle, low] = first.wrapping_add(number).to_be_bytes();
            // 127.64.0.0/10: away from 127.0.0.1 and what distributions put beside it.
            let ip = Ipv4Addr::new(127, 64 | high & 63, middle, low);
            TcpListener::bind((ip, CLAIM_PORT)).ok()
        };
        let claim = (0..1000).find_map(|_| taken(NEXT.fetch_add(1, Ordering::Relaxed)));
        Self { claim: claim.expect("one of a thousand loopback addresses is free (Linux has 127.0.0.0/8)") }
    }

    /// The address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.claim.local_addr().expect("a bound socket has an address").ip()
    }
}
