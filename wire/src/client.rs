//! The 8-byte client header: body length, message id and the server id that names a world.

/// The server id of a client header: `compressed(1) | world(15) | server type(8) | instance(8)`,
/// from the highest bit to the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ServerId(pub u32);

impl ServerId {
    /// The highest world id that the 15 bits can name. World 0 means "any world".
    pub const MAX_WORLD: u16 = 0x7fff;

    /// Puts the four fields together; bits of `world` above the 15th are dropped.
    #[must_use]
    pub const fn new(server_type: u8, world: u16, instance: u8, compressed: bool) -> Self {
        let world = world & Self::MAX_WORLD;
        Self((compressed as u32) << 31 | (world as u32) << 16 | (server_type as u32) << 8 | instance as u32)
    }

    /// Whether the body is compressed. Opaque to routing; carried through as received.
    #[must_use]
    pub const fn compressed(self) -> bool {
        self.0 >> 31 == 1
    }

    /// World id, 0 (any world) to [`Self::MAX_WORLD`].
    #[must_use]
    pub const fn world(self) -> u16 {
        (self.0 >> 16) as u16 & Self::MAX_WORLD
    }

    /// Server type; in use are 10 (account), 15 (version) and 200 (game).
    #[must_use]
    pub const fn server_type(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Instance id within the world; 0 means "none named".
    #[must_use]
    pub const fn instance(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
}

/// The header in front of every client message, little endian on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ClientHeader {
    /// Bytes of the body that follows, these 8 excluded; 0 is legal.
    pub body_len: u16,
    /// Message id, opaque to routing.
    pub message_id: u16,
    /// Where the message wants to go. Only a connection's first message routes it.
    pub server_id: ServerId,
}

/// What [`ClientHeader::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed, this many at least.
    Incomplete(usize),
    /// A whole header; its body starts at [`ClientHeader::LEN`].
    Complete(ClientHeader),
}

impl ClientHeader {
    /// Bytes of a header on the wire.
    pub const LEN: usize = 8;

    /// Reads the header at the start of `input`; anything behind it is left alone.
    #[must_use]
    pub fn parse(input: &[u8]) -> Parsed {
        match input.first_chunk() {
            Some(bytes) => Parsed::Complete(Self::from_bytes(*bytes)),
            None => Parsed::Incomplete(Self::LEN - input.len()),
        }
    }

    /// The header that stands so on the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [l0, l1, m0, m1, s0, s1, s2, s3] = bytes;
        Self {
            body_len: u16::from_le_bytes([l0, l1]),
            message_id: u16::from_le_bytes([m0, m1]),
            server_id: ServerId(u32::from_le_bytes([s0, s1, s2, s3])),
        }
    }

    /// The header as it stands on the wire.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let [l0, l1] = self.body_len.to_le_bytes();
        let [m0, m1] = self.message_id.to_le_bytes();
        let [s0, s1, s2, s3] = self.server_id.0.to_le_bytes();
        [l0, l1, m0, m1, s0, s1, s2, s3]
    }
}
