//! A whole message of the game protocol: the client header and its body.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use realmgate_wire::{ClientHeader, Parsed, ServerId};

/// The longest frame: the header announces at most 65,535 bytes of body.
pub const MAX_FRAME: usize = ClientHeader::LEN + u16::MAX as usize;

/// The message id that a [`crate::GameServer`] answers with its name instead of an echo.
pub const WHO_ARE_YOU: u16 = 0x7fff;

/// A message; the header's length is that of the body.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Opaque to routing.
    pub message_id: u16,
    /// Where it wants to go.
    pub server_id: ServerId,
    /// At most 65,535 bytes.
    pub body: Bytes,
}

impl Frame {
    /// A frame with this content.
    pub fn new(server_id: ServerId, message_id: u16, body: impl Into<Bytes>) -> Self {
        Self { message_id, server_id, body: body.into() }
    }

    /// A message to a game server (type 200) of `world`.
    pub fn to_world(world: u16, message_id: u16, body: impl Into<Bytes>) -> Self {
        Self::new(ServerId::new(200, world, 1, false), message_id, body)
    }

    /// Puts the frame at the end of `output`; an error if the body is too long to be announced.
    pub fn encode(&self, output: &mut BytesMut) -> io::Result<()> {
        let body_len = u16::try_from(self.body.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a body of more than 65,535 bytes"))?;
        let header = ClientHeader { body_len, message_id: self.message_id, server_id: self.server_id };
        output.reserve(ClientHeader::LEN + self.body.len());
        output.put_slice(&header.to_bytes());
        output.put_slice(&self.body);
        Ok(())
    }

    /// The frame as it stands on the wire.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        let mut output = BytesMut::new();
        self.encode(&mut output)?;
        Ok(output.freeze())
    }

    /// Takes the first frame off `input`; `None` if it is not whole yet. The caller's buffer never needs to
    /// hold more than [`MAX_FRAME`].
    pub fn take(input: &mut BytesMut) -> Option<Self> {
        let Parsed::Complete(header) = ClientHeader::parse(input) else { return None };
        let whole = ClientHeader::LEN + usize::from(header.body_len);
        if input.len() < whole {
            return None;
        }
        let mut frame = input.split_to(whole);
        let body = frame.split_off(ClientHeader::LEN).freeze();
        Some(Self { message_id: header.message_id, server_id: header.server_id, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_it_encodes_at_every_split() {
        let frames =
            [Frame::to_world(7, 1, "hello"), Frame::to_world(8, 2, ""), Frame::to_world(9, 3, vec![5; 300])];
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut wire).unwrap();
        }
        for split in 0..=wire.len() {
            let mut input = BytesMut::from(&wire[..split]);
            let mut taken: Vec<_> = std::iter::from_fn(|| Frame::take(&mut input)).collect();
            input.extend_from_slice(&wire[split..]);
            taken.extend(std::iter::from_fn(|| Frame::take(&mut input)));
            assert_eq!(taken, frames);
            assert!(input.is_empty());
        }
    }

    #[test]
    fn refuses_a_body_that_no_header_can_announce() {
        assert!(Frame::to_world(1, 1, vec![0; 65_535]).to_bytes().is_ok());
        assert!(Frame::to_world(1, 1, vec![0; 65_536]).to_bytes().is_err());
    }
}
