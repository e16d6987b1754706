//! A game server's side of the framings: frames as they come from a gateway, and what goes back.

use std::io;

use bytes::{BufMut, BytesMut};
use realmgate_filter::config::Framing;
use realmgate_wire::{ServerFraming, ServerHeader, ServerParsed, TraceContext};

use crate::frame::Frame;

/// What a message of a framing with session ids says beside its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionOf {
    /// The session id.
    pub id: i64,
    /// Its trace, in the traced framing.
    pub trace: Option<TraceContext>,
}

/// Takes the first frame off `input`; `None` if it is not whole yet. In a framing with session ids the frame's server
/// id holds no more than the compressed bit.
///
/// # Errors
/// A length or an opcode that no gateway may send.
pub fn take(framing: Framing, input: &mut BytesMut) -> io::Result<Option<(Frame, Option<SessionOf>)>> {
    let framing = match framing {
        Framing::Client => return Ok(Frame::take(input).map(|frame| (frame, None))),
        Framing::Server => ServerFraming::Plain,
        Framing::ServerTraced => ServerFraming::Traced,
    };
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let parsed = ServerHeader::parse(input, framing).map_err(|error| bad(error.to_string()))?;
    let ServerParsed::Complete(header) = parsed else { return Ok(None) };
    let whole = framing.header_len() + usize::from(header.body_len);
    if input.len() < whole {
        return Ok(None);
    }
    if header.opcode != 1 || header.object_id != header.session_id {
        return Err(bad(format!("{header:?}")));
    }
    let mut frame = input.split_to(whole);
    let body = frame.split_off(framing.header_len()).freeze();
    let message_id = header.to_client().message_id;
    let session = SessionOf { id: header.session_id, trace: header.trace };
    Ok(Some((Frame { message_id, server_id: header.server_id, body }, Some(session))))
}

/// Puts a reply at the end of `output`: as the client's frame, or in 20 + 9 bytes for a session.
///
/// # Errors
/// The body is too long to be announced.
pub fn reply(frame: &Frame, session: Option<SessionOf>, output: &mut BytesMut) -> io::Result<()> {
    let Some(session) = session else { return frame.encode(output) };
    let body_len = u16::try_from(frame.body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let header = ServerHeader {
        server_id: frame.server_id,
        ..ServerHeader::reply(frame.message_id.into(), body_len, session.id)
    };
    output.put_slice(header.to_bytes().as_slice());
    output.put_slice(&frame.body);
    Ok(())
}
