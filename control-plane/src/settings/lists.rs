//! Settings that are lists, as one text with commas between the entries: a flag and a variable hold no other.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// CIDR ranges; a bare address is the range of it alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ranges(pub Vec<IpNet>);

impl Ranges {
    /// Loopback and private networks: RFC 1918, RFC 6598 (pods in some clouds) and RFC 4193.
    pub(super) fn private() -> Self {
        let v4 = |octets: [u8; 4], bits| (IpAddr::from(octets), bits);
        let v6 = |first: u16, last: u16, bits| (IpAddr::from([first, 0, 0, 0, 0, 0, 0, last]), bits);
        let nets: [(IpAddr, u8); 7] = [
            v4([127, 0, 0, 0], 8),
            v4([10, 0, 0, 0], 8),
            v4([172, 16, 0, 0], 12),
            v4([192, 168, 0, 0], 16),
            v4([100, 64, 0, 0], 10),
            v6(0, 1, 128),
            v6(0xfc00, 0, 7),
        ];
        Self(nets.into_iter().filter_map(|(address, bits)| IpNet::new(address, bits).ok()).collect())
    }
}

/// TCP ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Ports(pub Vec<u16>);

impl TryFrom<String> for Ranges {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let range = |text: &str| {
            let range = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            range.map_err(|_| format!("`{text}` is no CIDR range, such as 10.0.0.0/8 or fd00::/8"))
        };
        entries(&text, range).map(Self)
    }
}

impl From<Ranges> for String {
    fn from(Ranges(ranges): Ranges) -> Self {
        joined(&ranges)
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("`{text}` is no port from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        entries(&text, port).map(Self)
    }
}

impl From<Ports> for String {
    fn from(Ports(ports): Ports) -> Self {
        joined(&ports)
    }
}

fn entries<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|entry| read(entry.trim())).collect()
}

fn joined(entries: &[impl ToString]) -> String {
    entries.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_networks_are_those_that_the_internet_has_not() {
        let Ranges(private) = Ranges::private();
        assert_eq!(private.len(), 7);
        let is_private =
            |text: &str| private.iter().any(|net| net.contains(&text.parse::<IpAddr>().unwrap()));
        assert!(
            ["10.1.2.3", "172.31.0.1", "192.168.0.1", "100.64.0.1", "127.0.0.1", "::1", "fd00::1"]
                .iter()
                .all(|a| is_private(a))
        );
        assert!(
            !["172.32.0.1", "8.8.8.8", "100.128.0.1", "2001:db8::1", "::2"].iter().any(|a| is_private(a))
        );
    }

    #[test]
    fn reads_and_prints() {
        for (text, shown) in [
            ("", ""),
            (" ", ""),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1,fd00::/8 , ::1", "10.0.0.1/32, fd00::/8, ::1/128"),
        ] {
            assert_eq!(String::from(text.parse::<Ranges>().unwrap()), shown);
        }
        for wrong in ["10.0.0.0/33", "a", "10.0.0.0/8,", "10.0.0.0/8 fd00::/8"] {
            assert!(wrong.parse::<Ranges>().unwrap_err().contains("CIDR range"), "{wrong}");
        }
        let ports = |text: &str| Ports::try_from(text.to_owned());
        assert_eq!(ports("9901, 19000").unwrap().0, [9901, 19_000]);
        for wrong in ["0", "65536", "a", "1,,2"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
