//! The framing between gateway and game server: 20 bytes of `ServerMessageHeader` and 9 or 33 of `GateMsgHeader` in
//! front of each body, little endian.
//!
//! | offset | field |
//! |---|---|
//! | 0 | length, i32: all that follows these first 20 bytes |
//! | 4 | type, i32: the message id |
//! | 8 | server id, u32: 0 but for the compressed bit |
//! | 12 | object id, i64: the session id |
//! | 20 | opcode, u8: 1 |
//! | 21 | session id, i64 |
//! | 29 | the body; in [`ServerFraming::Traced`] trace id (16 bytes), span id (8 bytes), then the body at 53 |
//!
//! Nothing on the wire tells the two apart: each game server has to be configured for one. Replies always have the
//! short one.

use crate::{ClientHeader, ServerId};

/// Bytes of the header that [`length`](ServerHeader::body_len) leaves out.
const MESSAGE_HEADER: usize = 20;

/// The only opcode there is: a message to be handed on.
const OPCODE_TRANS: u8 = 1;

/// How messages to a game server are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerFraming {
    /// 20 + 9 bytes in front of the body.
    Plain,
    /// 20 + 33 bytes: the same, then a trace id and a span id.
    Traced,
}

impl ServerFraming {
    /// Bytes in front of the body.
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::Plain => 29,
            Self::Traced => 53,
        }
    }

    /// Those of them that the length on the wire counts, beside the body.
    const fn counted(self) -> u16 {
        match self {
            Self::Plain => 9,
            Self::Traced => 33,
        }
    }
}

/// A W3C trace context without its flags: 16 bytes of trace id, 8 of span id, as they stand on the wire and in a
/// `traceparent`. Neither may be all zero there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct TraceContext {
    /// Names the whole trace.
    pub trace_id: [u8; 16],
    /// Names the gateway's part of it, the parent of what the game server adds.
    pub span_id: [u8; 8],
}

impl TraceContext {
    /// The trace of a session: the trace id is the session id, most significant byte first, then `random`, which W3C
    /// wants in the rightmost bytes. It is unique as the session id is, and tells which session it belongs to.
    ///
    /// `span` 0 stands for 1, which is as good and allowed.
    #[must_use]
    pub const fn of_session(session_id: i64, random: u64, span: u64) -> Self {
        let trace = (session_id.cast_unsigned() as u128) << 64 | random as u128;
        let span = if span == 0 { 1 } else { span };
        Self { trace_id: trace.to_be_bytes(), span_id: span.to_be_bytes() }
    }
}

/// The headers in front of one message between gateway and game server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerHeader {
    /// Bytes of the body alone.
    pub body_len: u16,
    /// Message id. To a game server the 16 bits of the client's; of a reply's the client gets the low 16.
    pub message_type: i32,
    /// 0 but for the [compressed bit](ServerId::compressed).
    pub server_id: ServerId,
    /// The session id, or whatever a game server put there.
    pub object_id: i64,
    /// 1; not looked at in replies.
    pub opcode: u8,
    /// The session id; not looked at in replies, since a connection carries one session.
    pub session_id: i64,
    /// In [`ServerFraming::Traced`] alone.
    pub trace: Option<TraceContext>,
}

/// What [`ServerHeader::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerParsed {
    /// More bytes are needed, this many at least.
    Incomplete(usize),
    /// The whole headers; the body starts at [`ServerFraming::header_len`].
    Complete(ServerHeader),
}

/// A length that no message may have. Whoever sent it is at fault, and nothing behind it can be told apart any
/// more: the connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthError {
    /// Negative, or less than the header that it counts. Holds the length.
    TooShort(i32),
    /// A body of more than 65,535 bytes, which no client header can announce. Holds the length.
    TooLarge(i32),
}

impl core::fmt::Display for LengthError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooShort(length) => {
                write!(f, "length {length} is negative or leaves no room for the header that it counts")
            }
            Self::TooLarge(length) => {
                write!(f, "length {length} is a body of more than 65535 bytes, which no client can be sent")
            }
        }
    }
}

impl core::error::Error for LengthError {}

impl ServerHeader {
    /// What a game server replies with: the framing of replies is always the plain one.
    #[must_use]
    pub const fn reply(message_type: i32, body_len: u16, session_id: i64) -> Self {
        Self {
            body_len,
            message_type,
            server_id: ServerId(0),
            object_id: session_id,
            opcode: OPCODE_TRANS,
            session_id,
            trace: None,
        }
    }

    /// Reads the headers at the start of `input`; anything behind them is left alone. The length is looked at as
    /// soon as its four bytes are there.
    ///
    /// # Errors
    /// [`LengthError`] for a length that no message may have.
    #[inline]
    pub fn parse(input: &[u8], framing: ServerFraming) -> Result<ServerParsed, LengthError> {
        let whole = framing.header_len();
        let missing = Ok(ServerParsed::Incomplete(whole.saturating_sub(input.len())));
        let Some((&length, rest)) = input.split_first_chunk() else { return missing };
        let body_len = body_len(i32::from_le_bytes(length), framing)?;
        let Some((&message_type, rest)) = rest.split_first_chunk() else { return missing };
        let Some((&server_id, rest)) = rest.split_first_chunk() else { return missing };
        let Some((&object_id, rest)) = rest.split_first_chunk() else { return missing };
        let Some((&[opcode], rest)) = rest.split_first_chunk() else { return missing };
        let Some((&session_id, rest)) = rest.split_first_chunk() else { return missing };
        let trace = match framing {
            ServerFraming::Plain => None,
            ServerFraming::Traced => {
                let Some((&trace_id, rest)) = rest.split_first_chunk() else { return missing };
                let Some((&span_id, _)) = rest.split_first_chunk() else { return missing };
                Some(TraceContext { trace_id, span_id })
            }
        };
        Ok(ServerParsed::Complete(Self {
            body_len,
            message_type: i32::from_le_bytes(message_type),
            server_id: ServerId(u32::from_le_bytes(server_id)),
            object_id: i64::from_le_bytes(object_id),
            opcode,
            session_id: i64::from_le_bytes(session_id),
            trace,
        }))
    }

    /// The header that the client gets in front of the same body: the low 16 bits of the type, and of the server id
    /// the compressed bit alone.
    #[must_use]
    pub const fn to_client(self) -> ClientHeader {
        let [low, high, ..] = self.message_type.to_le_bytes();
        ClientHeader {
            body_len: self.body_len,
            message_id: u16::from_le_bytes([low, high]),
            server_id: ServerId::new(0, 0, 0, self.server_id.compressed()),
        }
    }

    /// Writes the headers as they stand on the wire: the first [`ServerFraming::header_len`] bytes, in the traced
    /// framing where there is a trace.
    #[must_use]
    pub fn to_bytes(self) -> HeaderBytes {
        let framing = if self.trace.is_some() { ServerFraming::Traced } else { ServerFraming::Plain };
        let mut bytes = HeaderBytes { bytes: [0; 53], framing };
        let rest = bytes.bytes.as_mut_slice();
        let rest = put(rest, wire_length(self.body_len, framing).to_le_bytes());
        let rest = put(rest, self.message_type.to_le_bytes());
        let rest = put(rest, self.server_id.0.to_le_bytes());
        let rest = put(rest, self.object_id.to_le_bytes());
        let rest = put(rest, [self.opcode]);
        let rest = put(rest, self.session_id.to_le_bytes());
        if let Some(trace) = self.trace {
            let rest = put(rest, trace.trace_id);
            put(rest, trace.span_id);
        }
        bytes
    }
}

/// The headers of one session's messages to its game server. All but the first 12 bytes stay the same, so each
/// message costs the writing of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderBytes {
    bytes: [u8; 53],
    framing: ServerFraming,
}

impl HeaderBytes {
    /// For the messages of a session; traced where there is a trace.
    #[must_use]
    pub fn of_session(session_id: i64, trace: Option<TraceContext>) -> Self {
        ServerHeader { trace, ..ServerHeader::reply(0, 0, session_id) }.to_bytes()
    }

    /// The headers in front of the body that `client` announces.
    #[must_use]
    pub fn of_message(&mut self, client: ClientHeader) -> &[u8] {
        let (bytes, len) = self.of_message_padded(client);
        bytes.get(..len).unwrap_or_default()
    }

    /// The same in an array, and how many of its bytes they are: one of known length is copied without a call.
    #[inline]
    #[must_use]
    pub fn of_message_padded(&mut self, client: ClientHeader) -> (&[u8; 53], usize) {
        let rest = self.bytes.as_mut_slice();
        let rest = put(rest, wire_length(client.body_len, self.framing).to_le_bytes());
        let rest = put(rest, i32::from(client.message_id).to_le_bytes());
        put(rest, ServerId::new(0, 0, 0, client.server_id.compressed()).0.to_le_bytes());
        (&self.bytes, self.framing.header_len())
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // Shorter than the array in either framing.
        self.bytes.get(..self.framing.header_len()).unwrap_or_default()
    }
}

fn wire_length(body_len: u16, framing: ServerFraming) -> i32 {
    i32::from(body_len) + i32::from(framing.counted())
}

fn body_len(length: i32, framing: ServerFraming) -> Result<u16, LengthError> {
    match length.checked_sub(i32::from(framing.counted())) {
        None | Some(..0) => Err(LengthError::TooShort(length)),
        Some(body) => u16::try_from(body).map_err(|_| LengthError::TooLarge(length)),
    }
}

/// Writes to the front of `rest` and gives what is behind.
fn put<const N: usize>(rest: &mut [u8], bytes: [u8; N]) -> &mut [u8] {
    // Always long enough.
    let Some((place, behind)) = rest.split_first_chunk_mut() else { return &mut [] };
    *place = bytes;
    behind
}

const _: () = assert!(ServerFraming::Plain.header_len() == MESSAGE_HEADER + 9);
const _: () = assert!(ServerFraming::Traced.header_len() == MESSAGE_HEADER + 33);
