//! The game protocol as bytes: the client header that routes a connection, the framing towards game servers, session
//! ids, and the hashes that pick a backend the way the old gateway did.
//!
//! Nothing here allocates, panics or knows a socket. Input that has not fully arrived is a value
//! ([`Parsed::Incomplete`], [`ServerParsed::Incomplete`]), not an error. The client header has no invalid form, every 8
//! bytes are one; the length in front of a game server's reply has: [`LengthError`].
#![no_std]

mod client;
mod pick;
mod server;
mod session;

pub use client::{ClientHeader, Parsed, ServerId};
pub use pick::{consistent_hash, crc32, realm_based};
pub use server::{HeaderBytes, LengthError, ServerFraming, ServerHeader, ServerParsed, TraceContext};
pub use session::SessionIds;
