//! What the access log says of a client's address where it must not say all of it.

use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::limits::address::ip_of;

/// How much of an address is kept: what a provider gives to a town, and to a site.
const V4_BITS: u32 = 24;
const V6_BITS: u32 = 48;

/// How client addresses are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddress {
    /// The network alone: `203.0.113.0/24`, `2001:db8:5::/48`.
    Truncated,
    /// 16 hexadecimal digits that are the same for one address while the key is the same.
    Hashed(HashKey),
}

/// The key of a hash, 128 bits as 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HashKey(u128);

impl HashKey {
    /// The key of these bits.
    #[must_use]
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }
}

impl TryFrom<String> for HashKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let bits = u128::from_str_radix(&text, 16).ok().filter(|_| digits);
        // The text is not repeated: it may be a key with a typing error.
        bits.map(Self)
            .ok_or_else(|| "the key of hashed client addresses is not 32 hexadecimal digits".to_owned())
    }
}

impl From<HashKey> for String {
    fn from(key: HashKey) -> Self {
        format!("{:032x}", key.0)
    }
}

impl std::fmt::Debug for HashKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

impl ClientAddress {
    /// What is written of `ip:port` or `[ip]:port`; nothing of what has no IP, such as a Unix socket.
    #[must_use]
    pub fn shown(&self, address: &str) -> String {
        // Link-local addresses come with their interface.
        let ip = ip_of(address).split('%').next().and_then(|ip| ip.parse::<IpAddr>().ok());
        match (self, ip.map(|ip| ip.to_canonical())) {
            (_, None) => String::new(),
            (Self::Truncated, Some(IpAddr::V4(ip))) => {
                let network = ip.to_bits() & u32::MAX << (u32::BITS - V4_BITS);
                format!("{}/{V4_BITS}", Ipv4Addr::from_bits(network))
            }
            (Self::Truncated, Some(IpAddr::V6(ip))) => {
                let network = ip.to_bits() & u128::MAX << (u128::BITS - V6_BITS);
                format!("{}/{V6_BITS}", Ipv6Addr::from_bits(network))
            }
            (Self::Hashed(key), Some(ip)) => {
                let mut hasher = SipHasher24::new_with_key(&key.0.to_be_bytes());
                match ip {
                    IpAddr::V4(ip) => hasher.write(&ip.octets()),
                    IpAddr::V6(ip) => hasher.write(&ip.octets()),
                }
                format!("{:016x}", hasher.finish())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hashed(key: u128) -> ClientAddress {
        ClientAddress::Hashed(HashKey::new(key))
    }

    #[test]
    fn a_network_is_all_that_is_left() {
        for (address, shown) in [
            ("203.0.113.77:40001", "203.0.113.0/24"),
            ("[2001:db8:5:6:7:8:9:a]:40001", "2001:db8:5::/48"),
            ("[::ffff:203.0.113.77]:1", "203.0.113.0/24"),
            ("[fe80::1%eth0]:1", "fe80::/48"),
            ("/run/socket", ""),
            ("", ""),
        ] {
            assert_eq!(ClientAddress::Truncated.shown(address), shown, "{address}");
            assert_eq!(hashed(7).shown(address).is_empty(), shown.is_empty(), "{address}");
        }
    }

    #[test]
    fn a_hash_is_one_addresss_under_one_key() {
        let one = hashed(1).shown("203.0.113.77:40001");
        assert_eq!(one.len(), 16);
        assert_eq!(one, hashed(1).shown("203.0.113.77:5"), "another connection");
        assert_eq!(one, hashed(1).shown("[::ffff:203.0.113.77]:5"), "written as IPv6");
        assert_ne!(one, hashed(1).shown("203.0.113.78:40001"));
        assert_ne!(one, hashed(2).shown("203.0.113.77:40001"), "the key has changed");
        // The reference's own key, and its vector for 4 bytes.
        let key = HashKey::new(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
        assert_eq!(ClientAddress::Hashed(key).shown("0.1.2.3:1"), "cf2794e0277187b7");
    }

    #[test]
    fn a_key_is_32_digits_and_is_never_printed() {
        let json = r#"{"hashed":"000102030405060708090a0b0c0d0e0f"}"#;
        let address: ClientAddress = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&address).unwrap(), json);
        assert!(!format!("{address:?}").contains("0c0d"));
        for bad in ["", "12", "+00102030405060708090a0b0c0d0e0f", "zz0102030405060708090a0b0c0d0e0f"] {
            let error = HashKey::try_from(bad.to_owned()).unwrap_err();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_address_is_shown_whole(ip: IpAddr, port: u16, key: u128) {
            let address = std::net::SocketAddr::new(ip, port).to_string();
            let whole = ip.to_canonical().to_string();
            for shown in [ClientAddress::Truncated, hashed(key)].map(|how| how.shown(&address)) {
                let network = shown.split('/').next().unwrap_or_default();
                // A network is an address whose last bits are nothing.
                prop_assert!(network != whole || network.ends_with(".0") || network.ends_with(':'), "{}", shown);
                prop_assert!(shown.bytes().all(|b| b.is_ascii_hexdigit() || b".:/".contains(&b)), "{}", shown);
            }
        }
    }
}
