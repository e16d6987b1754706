//! Game servers in one thread: each sends messages back as they came, and its name to whoever asks who it is.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use realmgate_filter::config::Framing;
use realmgate_wire::{ClientHeader, Parsed, ServerFraming, ServerHeader, ServerParsed};
use slab::Slab;

use crate::frame::WHO_ARE_YOU;

/// One read's worth.
const READ: usize = 64 * 1024;

/// Beyond it a connection keeps no memory between messages.
const KEPT: usize = 4096;

const STOP: Token = Token(usize::MAX);

/// Which world and instance a server says it is; as text `WORLD/INSTANCE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// World; 0 stands for any.
    pub world: u16,
    /// Instance.
    pub instance: u8,
}

/// Running game servers; dropping it ends them.
#[derive(Debug)]
pub struct Servers {
    addresses: Vec<SocketAddr>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Servers {
    /// Serves in a thread of its own.
    pub fn start(servers: &[(SocketAddr, Identity)], framing: Framing) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        let mut listeners = Vec::new();
        for (token, (address, identity)) in servers.iter().enumerate() {
            let mut listener = TcpListener::bind(*address)?;
            poll.registry().register(&mut listener, Token(token), Interest::READABLE)?;
            listeners.push((listener, format!("{}/{}", identity.world, identity.instance)));
        }
        let addresses =
            listeners.iter().map(|(listener, _)| listener.local_addr()).collect::<Result<_, _>>()?;
        let room = Room { poll, listeners, framing, guests: Slab::new() };
        let thread = std::thread::Builder::new().name("game-servers".to_owned()).spawn(|| room.run())?;
        Ok(Self { addresses, waker, thread: Some(thread) })
    }

    /// Where they listen.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Blocks until they end, which they do only on an error.
    pub fn wait(mut self) -> io::Result<()> {
        let ended = || io::Error::other("the servers' thread ended");
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(ended())))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Without a waker the thread has ended already.
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Room {
    poll: Poll,
    listeners: Vec<(TcpListener, String)>,
    framing: Framing,
    guests: Slab<Guest>,
}

/// A connection.
struct Guest {
    stream: TcpStream,
    listener: usize,
    /// A message that is not whole yet.
    input: Vec<u8>,
    /// Answers that the system did not take yet: while there are any nothing is read.
    output: Vec<u8>,
}

impl Room {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                if event.token() == STOP {
                    return Ok(());
                }
                let Some(key) = event.token().0.checked_sub(self.listeners.len()) else {
                    self.accept(event.token().0);
                    continue;
                };
                let Some(guest) = self.guests.get_mut(key) else { continue };
                let name = self.listeners.get(guest.listener).map_or("", |(_, name)| name);
                if guest.serve(self.framing, name, event.is_read_closed(), &mut buffer).is_err() {
                    self.guests.remove(key);
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        let offset = self.listeners.len();
        let Some((socket, _)) = self.listeners.get(listener) else { return };
        // Any error is one client's, or passes, or says that all were accepted.
        while let Ok((mut stream, _)) = socket.accept() {
            let place = self.guests.vacant_entry();
            let token = Token(offset + place.key());
            let interest = Interest::READABLE | Interest::WRITABLE;
            if stream.set_nodelay(true).is_ok()
                && self.poll.registry().register(&mut stream, token, interest).is_ok()
            {
                place.insert(Guest { stream, listener, input: Vec::new(), output: Vec::new() });
            }
        }
    }
}

impl Guest {
    /// Answers all that can be answered now; an error = the connection is over. `ended`: nothing comes after what is there.
    fn serve(&mut self, framing: Framing, name: &str, ended: bool, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            if !self.flush()? {
                return Ok(());
            }
            let got = match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let input = buffer.get(..got).unwrap_or_default();
            if self.input.is_empty() {
                let used = answer_all(framing, name, input, &mut self.output)?;
                self.input.extend_from_slice(input.get(used..).unwrap_or_default());
            } else {
                self.input.extend_from_slice(input);
                let used = answer_all(framing, name, &self.input, &mut self.output)?;
                self.input.drain(..used);
                if self.input.is_empty() {
                    self.input.shrink_to(KEPT);
                }
            }
            // A short read has emptied the socket: whatever comes later is another event. An end that came with the data is none.
            if got < buffer.len() && !ended {
                return self.flush().map(|_| ());
            }
        }
    }

    /// Sends answers; whether all are sent.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(sent) if sent == self.output.len() => {
                    self.output.clear();
                    self.output.shrink_to(KEPT);
                }
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Answers the whole messages of `input` into `output`; how many bytes they take.
fn answer_all(framing: Framing, name: &str, input: &[u8], output: &mut Vec<u8>) -> io::Result<usize> {
    let mut used = 0;
    while let Some(taken) = answer(framing, name, input.get(used..).unwrap_or_default(), output)? {
        used += taken;
    }
    Ok(used)
}

/// Answers the first message; how many bytes it takes, `None` = it is not whole.
fn answer(framing: Framing, name: &str, input: &[u8], output: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let framing = match framing {
        Framing::Client => return Ok(answer_client(name, input, output)),
        Framing::Server => ServerFraming::Plain,
        Framing::ServerTraced => ServerFraming::Traced,
    };
    let parsed = ServerHeader::parse(input, framing);
    let ServerParsed::Complete(header) = parsed.map_err(|_| io::ErrorKind::InvalidData)? else {
        return Ok(None);
    };
    let whole = framing.header_len() + usize::from(header.body_len);
    let Some(body) = input.get(framing.header_len()..whole) else { return Ok(None) };
    let who = header.to_client().message_id == WHO_ARE_YOU;
    let body = if who { name.as_bytes() } else { body };
    let reply = ServerHeader {
        server_id: header.server_id,
        ..ServerHeader::reply(header.message_type, body.len() as u16, header.session_id)
    };
    output.extend_from_slice(reply.to_bytes().as_slice());
    output.extend_from_slice(body);
    Ok(Some(whole))
}

fn answer_client(name: &str, input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
    let Parsed::Complete(header) = ClientHeader::parse(input) else { return None };
    let whole = ClientHeader::LEN + usize::from(header.body_len);
    let message = input.get(..whole)?;
    if header.message_id == WHO_ARE_YOU {
        let header = ClientHeader { body_len: name.len() as u16, ..header };
        output.extend_from_slice(&header.to_bytes());
        output.extend_from_slice(name.as_bytes());
    } else {
        output.extend_from_slice(message);
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::Frame;

    #[test]
    fn who_ends_with_its_last_message_is_answered_and_let_go() {
        let at = "127.0.0.1:0".parse().unwrap();
        let servers = Servers::start(&[(at, Identity { world: 1, instance: 1 })], Framing::Client).unwrap();
        let message = Frame::to_world(1, 1, "goodbye").to_bytes().unwrap();
        for _ in 0..20 {
            let mut client = std::net::TcpStream::connect(servers.addresses()[0]).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Corked, so that the end comes in the same segment.
            SockRef::from(&client).set_tcp_cork(true).unwrap();
            client.write_all(&message).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).expect("the server ends, too");
            assert_eq!(answer, message);
        }
    }
}
