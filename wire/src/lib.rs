//! The game protocol as bytes: the client header that routes a connection, and the hashes that pick
//! a backend the way the old gateway did.
//!
//! Nothing here allocates, panics or knows a socket. Input that has not fully arrived is a value
//! ([`Parsed::Incomplete`]), not an error: the client header has no invalid form, every 8 bytes are one.
#![no_std]

mod client;
mod pick;

pub use client::{ClientHeader, Parsed, ServerId};
pub use pick::{consistent_hash, crc32, realm_based};
