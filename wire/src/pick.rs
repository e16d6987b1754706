//! The old gateway's endpoint hashes, pick for pick.
//!
//! They are plain modulo hashes: when the number of endpoints changes, almost every player moves. They
//! exist so that a fleet can change over without moving anyone; ring hash and Maglev are the better choice
//! afterwards.

/// CRC-32 (IEEE 802.3, reflected, as in zlib) of `bytes`.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    !text(!0, bytes)
}

/// Strategy `consistent_hash`: the index of the endpoint, of `endpoints`, that serves `instance`.
///
/// `None` where the old gateway falls back to round robin (no instance named) or there is no endpoint.
#[must_use]
pub fn consistent_hash(instance: u8, endpoints: u32) -> Option<u32> {
    if instance == 0 {
        return None;
    }
    (!decimal(!0, u32::from(instance))).checked_rem(endpoints)
}

/// Strategy `realm_based`: the index of the endpoint, of `endpoints`, that serves this instance of `world`.
///
/// `None` where the old gateway falls back to round robin (world or instance is 0) or there is no endpoint.
#[must_use]
pub fn realm_based(world: u16, instance: u8, endpoints: u32) -> Option<u32> {
    if world == 0 || instance == 0 {
        return None;
    }
    let crc = text(!0, b"world:");
    let crc = decimal(crc, u32::from(world));
    let crc = text(crc, b":inst:");
    (!decimal(crc, u32::from(instance))).checked_rem(endpoints)
}

const fn crc32_step(crc: u32, byte: u8) -> u32 {
    let mut crc = crc ^ byte as u32;
    let mut bit = 0;
    while bit < 8 {
        crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        bit += 1;
    }
    crc
}

fn text(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| crc32_step(crc, byte))
}

/// Feeds `number` in decimal digits, most significant first.
fn decimal(crc: u32, number: u32) -> u32 {
    let crc = if number >= 10 { decimal(crc, number / 10) } else { crc };
    // A single digit always fits a byte.
    crc32_step(crc, b'0' + (number % 10).to_le_bytes()[0])
}
