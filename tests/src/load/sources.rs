//! Sockets on local addresses, in turn.
//!
//! Ports are chosen here and not by the system: it would give out each port of an address only once, however many
//! destinations there are, and refuse those that closed connections keep for a minute.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// Below are services, above is the system's own choice as well, which is tried past.
const FIRST_PORT: u16 = 10_000;

/// A port that is taken is another connection's or a service's: rarely several in a row.
const ATTEMPTS: u32 = 2000;

/// Local addresses with the port that is next.
#[derive(Debug)]
pub(super) struct Sources {
    addresses: Vec<(IpAddr, u16)>,
    next: usize,
}

impl Sources {
    /// From these addresses; none = the system chooses address and port. Parts of a run start at ports of their own.
    pub(super) fn new(addresses: &[IpAddr], part: usize) -> Self {
        let first = FIRST_PORT.wrapping_add((part as u16).wrapping_mul(6007)).max(FIRST_PORT);
        Self { addresses: addresses.iter().map(|address| (*address, first)).collect(), next: 0 }
    }

    /// Begins to connect.
    pub(super) fn connect(&mut self, to: SocketAddr) -> io::Result<TcpStream> {
        let count = self.addresses.len();
        let next = self.next;
        self.next = (next + 1).checked_rem(count).unwrap_or(0);
        let Some((address, port)) = self.addresses.get_mut(next) else { return TcpStream::connect(to) };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for _ in 0..ATTEMPTS {
            let from = SocketAddr::new(*address, *port);
            *port = port.checked_add(1).unwrap_or(FIRST_PORT);
            match connect(from, to) {
                Ok(stream) => return Ok(stream),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) =>
                {
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        // EINPROGRESS, which has no kind of its own in stable Rust.
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
