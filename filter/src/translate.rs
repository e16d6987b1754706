//! Translation between the client's framing and a game server's, while the bytes stream by.
//!
//! Headers are exchanged, bodies are left where they are. What is kept of a connection is the header that has not
//! fully arrived, at most 28 bytes, and how much of the current body is still to come: a message of any length needs
//! no more memory than one without a body. Data is never held back.
//!
//! A chunk that holds body alone costs no call. One that holds a message, or the end of one and the beginning of the
//! next, costs two: a read of the bytes up to the last header, and their replacement. Only where several messages lie
//! further apart than one look reaches is the whole chunk read and written.

use realmgate_wire::{
    ClientHeader, HeaderBytes, LengthError, ServerFraming, ServerHeader, ServerParsed, TraceContext,
};

use crate::config::Framing;
use crate::host::{HostError, Stream, Way};

/// How far the first look into a chunk reaches. Copying so little costs less than a second look would.
const LOOK: usize = 2048;

/// Up to this length a body is copied in blocks.
const SHORT: usize = 256;

/// How much of a chunk is in the filter's memory at a time; Envoy's chunks can be a megabyte.
const WINDOW: usize = 32 * 1024;

/// Why a session was closed by the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The client announced a body above `max_message_bytes`.
    MessageTooLarge,
    /// The game server announced a length that is negative or less than the header that it counts.
    ReplyTooShort,
    /// The game server announced a body that no client header can: more than 65,535 bytes.
    ReplyTooLarge,
    /// The host refused a call that the session cannot do without.
    HostError,
}

impl Fault {
    /// Short stable name, used in metrics and access logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::MessageTooLarge => "message_too_large",
            Self::ReplyTooShort => "reply_too_short",
            Self::ReplyTooLarge => "reply_too_large",
            Self::HostError => "host_error",
        }
    }
}

impl From<HostError> for Fault {
    fn from(_: HostError) -> Self {
        Self::HostError
    }
}

impl From<LengthError> for Fault {
    fn from(error: LengthError) -> Self {
        match error {
            LengthError::TooShort(_) => Self::ReplyTooShort,
            LengthError::TooLarge(_) => Self::ReplyTooLarge,
        }
    }
}

/// Both ways of one session.
#[derive(Debug)]
pub struct Translation {
    to_server: Requests,
    to_server_at: Cursor,
    to_client_at: Cursor,
    messages: Messages,
}

/// Messages by their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// From the client.
    pub to_server: u64,
    /// From the game server.
    pub to_client: u64,
}

impl Messages {
    /// Adds as many.
    pub const fn add(&mut self, way: Way, messages: u64) {
        let count = match way {
            Way::ToServer => &mut self.to_server,
            Way::ToClient => &mut self.to_client,
        };
        *count = count.saturating_add(messages);
    }
}

impl Translation {
    /// For a session of this id and trace; `None` where the framing is the client's.
    #[must_use]
    pub fn new(
        framing: Framing,
        max_message_bytes: u32,
        session_id: i64,
        trace: TraceContext,
    ) -> Option<Self> {
        let trace = match framing {
            Framing::Client => return None,
            Framing::Server => None,
            Framing::ServerTraced => Some(trace),
        };
        Some(Self {
            to_server: Requests { max_message_bytes, headers: HeaderBytes::of_session(session_id, trace) },
            to_server_at: Cursor::default(),
            to_client_at: Cursor::default(),
            messages: Messages::default(),
        })
    }

    /// Messages so far, each counted when its header is whole.
    #[must_use]
    pub const fn messages(&self) -> Messages {
        self.messages
    }

    /// Translates the data that the host has on its way, `size` bytes, in place; returns how many headers became
    /// whole in it. `out` is scratch space.
    ///
    /// # Errors
    /// [`Fault`]: nothing behind it can be told apart, the session has to be closed.
    pub fn pass(
        &mut self,
        way: Way,
        size: usize,
        out: &mut Vec<u8>,
        host: &mut impl Stream,
    ) -> Result<u64, Fault> {
        let passed = match way {
            Way::ToServer => self.to_server_at.pass(&mut self.to_server, way, size, out, host),
            Way::ToClient => self.to_client_at.pass(&mut Replies, way, size, out, host),
        }?;
        self.messages.add(way, passed);
        Ok(passed)
    }
}

/// One way of exchanging headers of so many bytes, at most those that a [`Cursor`] can hold.
trait Headers<const LEN: usize> {
    /// Adds the header that takes the place of `header` to `out`; returns the length of the body behind it.
    fn exchange(&mut self, header: &[u8; LEN], out: &mut Vec<u8>) -> Result<u16, Fault>;

    /// Refuses the front of a header as soon as it can.
    fn foresee(&self, front: &[u8]) -> Result<(), Fault>;
}

#[derive(Debug)]
struct Requests {
    max_message_bytes: u32,
    headers: HeaderBytes,
}

impl Headers<{ ClientHeader::LEN }> for Requests {
    fn exchange(&mut self, header: &[u8; ClientHeader::LEN], out: &mut Vec<u8>) -> Result<u16, Fault> {
        let header = ClientHeader::from_bytes(*header);
        if self.max_message_bytes > 0 && u32::from(header.body_len) > self.max_message_bytes {
            return Err(Fault::MessageTooLarge);
        }
        let (bytes, len) = self.headers.of_message_padded(header);
        let end = out.len() + len;
        // All of them: a copy of known length needs no call.
        out.extend_from_slice(bytes);
        out.truncate(end);
        Ok(header.body_len)
    }

    fn foresee(&self, _: &[u8]) -> Result<(), Fault> {
        Ok(())
    }
}

const REPLY: usize = ServerFraming::Plain.header_len();

#[derive(Debug)]
struct Replies;

impl Headers<REPLY> for Replies {
    fn exchange(&mut self, header: &[u8; REPLY], out: &mut Vec<u8>) -> Result<u16, Fault> {
        match ServerHeader::parse(header, ServerFraming::Plain)? {
            // Not with as many bytes as it has.
            ServerParsed::Incomplete(_) => Err(Fault::ReplyTooShort),
            ServerParsed::Complete(header) => {
                out.extend_from_slice(&header.to_client().to_bytes());
                Ok(header.body_len)
            }
        }
    }

    fn foresee(&self, front: &[u8]) -> Result<(), Fault> {
        ServerHeader::parse(front, ServerFraming::Plain)?;
        Ok(())
    }
}

/// Where in its messages a stream is.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Bytes of the current body that are still to come; while there are any, no part of a header is held.
    body: usize,
    /// The header that is not whole yet, taken out of the stream. There is room for the longer of the two.
    held: [u8; REPLY],
    held_len: usize,
    messages: u64,
}

impl Cursor {
    /// Translates a chunk; returns how many headers became whole in it.
    fn pass<const LEN: usize>(
        &mut self,
        headers: &mut impl Headers<LEN>,
        way: Way,
        size: usize,
        out: &mut Vec<u8>,
        host: &mut impl Stream,
    ) -> Result<u64, Fault> {
        if size <= self.body {
            self.body -= size;
            return Ok(0);
        }
        self.messages = 0;
        let before = *self;
        // As far as the next header, even behind a long rest of a body: mostly there is only one.
        let look = LOOK.max(self.body.saturating_add(LEN)).min(size);
        if self.in_place(headers, way, look, size, out, host)? {
            return Ok(self.messages);
        }
        *self = before;
        if look < size && size <= WINDOW && self.in_place(headers, way, size, size, out, host)? {
            return Ok(self.messages);
        }
        *self = before;
        // The front is taken out and put in translated at the end, until all has been once around.
        let mut done = 0;
        while done < size {
            let window = WINDOW.min(size - done);
            let input = look_at(way, window, host)?;
            out.clear();
            let used = self.walk(headers, &input, out)?;
            out.extend_from_slice(input.get(used..).unwrap_or_default());
            host.replace(way, window, &[])?;
            host.append(way, out)?;
            done += window;
        }
        Ok(self.messages)
    }

    /// Looks at the first `look` of `size` bytes and, if all behind them is body, replaces those up to the last header.
    /// Otherwise the stream is left as it was, the cursor is not.
    fn in_place<const LEN: usize>(
        &mut self,
        headers: &mut impl Headers<LEN>,
        way: Way,
        look: usize,
        size: usize,
        out: &mut Vec<u8>,
        host: &mut impl Stream,
    ) -> Result<bool, Fault> {
        let input = look_at(way, look, host)?;
        out.clear();
        let used = self.walk(headers, &input, out)?;
        let Some(body) = self.body.checked_sub(size - look) else { return Ok(false) };
        self.body = body;
        host.replace(way, used, out)?;
        Ok(true)
    }

    /// Translates `input` into `out`, but for the body at its end: the number returned is where that begins.
    fn walk<const LEN: usize>(
        &mut self,
        headers: &mut impl Headers<LEN>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, Fault> {
        let mut rest = input;
        while rest.len() > self.body {
            rest = copy(rest, self.body, out);
            let body_len = match rest.split_first_chunk() {
                Some((header, behind)) if self.held_len == 0 => {
                    rest = behind;
                    headers.exchange(header, out)?
                }
                _ => {
                    rest = self.hold(LEN, rest);
                    let held = self.held.get(..self.held_len).unwrap_or_default();
                    let Ok(header) = held.try_into() else {
                        // Nothing is left of the input, either.
                        self.body = 0;
                        headers.foresee(held)?;
                        break;
                    };
                    self.held_len = 0;
                    headers.exchange(header, out)?
                }
            };
            self.body = usize::from(body_len);
            self.messages += 1;
        }
        // The end is body, or empty.
        self.body -= rest.len();
        Ok(input.len() - rest.len())
    }

    /// Takes from the front of `input` what the held header lacks of `len` bytes; returns what is behind.
    fn hold<'a>(&mut self, len: usize, input: &'a [u8]) -> &'a [u8] {
        let (taken, behind) = input.split_at(len.saturating_sub(self.held_len).min(input.len()));
        let end = self.held_len + taken.len();
        if let Some(place) = self.held.get_mut(self.held_len..end) {
            place.copy_from_slice(taken);
            self.held_len = end;
        }
        behind
    }
}

/// Adds the first `len` bytes of `input` to `out`; returns what is behind.
///
/// Bodies are mostly short, and a copy whose length the compiler does not know is a call out of the module: they go in
/// blocks, which run over their end as far as `input` reaches, and are cut.
fn copy<'a>(input: &'a [u8], len: usize, out: &mut Vec<u8>) -> &'a [u8] {
    const BLOCK: usize = 32;
    let (body, behind) = input.split_at(len.min(input.len()));
    match input.get(..len.next_multiple_of(BLOCK)) {
        Some(blocks) if len <= SHORT => {
            let end = out.len() + len;
            for block in blocks.as_chunks::<BLOCK>().0 {
                out.extend_from_slice(block);
            }
            out.truncate(end);
        }
        _ => out.extend_from_slice(body),
    }
    behind
}

/// Fewer bytes than the host announced would put every later message out of step.
fn look_at(way: Way, len: usize, host: &mut impl Stream) -> Result<Vec<u8>, Fault> {
    let input = host.read(way, len)?;
    if input.len() == len { Ok(input) } else { Err(Fault::HostError) }
}
