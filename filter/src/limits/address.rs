//! Who is counted: an IPv4 address, or the /64 of an IPv6 address, at one listener.

use std::net::{IpAddr, Ipv6Addr};

use crate::route::sticky_point;

/// A client address at a listener, in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(u64);

/// What tells the addresses of one listener from the same ones of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener(u64);

impl Listener {
    /// The listener of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(sticky_point(name))
    }
}

impl Address {
    /// Reads `ip:port`, `[ip]:port` or an IP alone; `None` for what has no IP, such as a Unix socket.
    ///
    /// Within a listener two addresses are never one. An IPv4 address takes the place of a network in `::/32`,
    /// which nobody is given; an IPv4 address written as IPv6 is the IPv4 address.
    #[must_use]
    pub fn parse(text: &str, listener: Listener) -> Option<Self> {
        // Link-local addresses come with their interface.
        let ip = ip_of(text).split('%').next()?;
        let number = match ip.parse::<IpAddr>().ok()?.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => network(ip),
        };
        Some(Self(number ^ listener.0))
    }

    /// From and to what is stored.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The 64 bits.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The bucket of so many that the address belongs to. Without the seed nobody can choose addresses that
    /// share one.
    #[must_use]
    pub fn bucket(self, seed: u64, of: u64) -> u64 {
        mix(mix(self.0 ^ seed).wrapping_add(seed)) % of
    }
}

/// A household or a phone has a /64 at least, so a single address of it says nothing.
fn network(ip: Ipv6Addr) -> u64 {
    let [a, b, c, d, ..] = ip.segments();
    [a, b, c, d].into_iter().fold(0, |number, part| number << 16 | u64::from(part))
}

/// The IP of `ip:port` or `[ip]:port`; an address of another shape is taken whole.
pub(crate) fn ip_of(address: &str) -> &str {
    if let Some(inner) = address.strip_prefix('[') {
        return inner.split_once(']').map_or(address, |(ip, _)| ip);
    }
    match address.split_once(':') {
        // A second colon: an IPv6 address without a port.
        Some((ip, port)) if !port.contains(':') => ip,
        _ => address,
    }
}

/// The finalizer of `SplitMix64`: each bit of the result depends on each bit of the number.
const fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<Address> {
        Address::parse(text, Listener::named("edge"))
    }

    #[test]
    fn ipv4_is_told_apart_exactly_and_ipv6_by_its_network() {
        for (one, other, same) in [
            ("192.0.2.1:5", "192.0.2.1:6", true),
            ("192.0.2.1:5", "192.0.2.2:5", false),
            ("[2001:db8:1:2::1]:5", "[2001:db8:1:2:ffff::9]:6", true),
            ("[2001:db8:1:2::1]:5", "[2001:db8:1:3::1]:5", false),
            ("192.0.2.1:5", "[::ffff:192.0.2.1]:5", true),
            ("2001:db8::1", "[2001:db8::1]:5", true),
            ("[fe80::1%eth0]:5", "[fe80::2]:5", true),
        ] {
            assert!(at(one).is_some() && at(other).is_some(), "{one} {other}");
            assert_eq!(at(one) == at(other), same, "{one} {other}");
        }
        for text in ["", "/run/socket", "1.2.3", "[::1", "envoy_internal:5"] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    #[test]
    fn listeners_do_not_share_addresses() {
        let other = Address::parse("192.0.2.1:5", Listener::named("edge-2"));
        assert_ne!(at("192.0.2.1:5"), other);
        assert_eq!(Listener::named("edge"), Listener::named("edge"));
    }
}
