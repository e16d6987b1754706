//! A backend's address as `host:port`, the host being an IP address or a DNS name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `10.0.0.5:19711`, `[2001:db8::1]:19711` or `game-1.example:19711`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// The address or name, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port, never 0.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The IP address; `None` when the host is a name that has to be resolved.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` is not host:port (the port is missing)"))?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(format!("`{text}`: `{port}` is not a port from 1 to 65535")),
            Ok(port) => port,
        };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(v6) => return Err(format!("`{text}`: `{v6}` is not an IPv6 address")),
            None if host.contains(':') => {
                return Err(format!("`{text}`: an IPv6 address needs brackets, as in [::1]:80"));
            }
            None => host,
        };
        if host.parse::<IpAddr>().is_err() {
            check_name(host).map_err(|why| format!("`{text}`: {why}"))?;
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A DNS name by the letters and lengths of RFC 1123, underscores allowed as service names use them.
fn check_name(host: &str) -> Result<(), String> {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // Numbers and dots alone are a mistyped address, never a name. Resolvers take such for addresses all the same, in octal and
    // in hexadecimal (`0xa9.0xfe.0xa9.0xfe`), so nothing that only looks like a name gets past those who look at addresses.
    let numeric = name.split('.').all(is_number);
    if name.len() > 253 || numeric || !name.split('.').all(label_ok) {
        return Err(format!("`{host}` is neither an IP address nor a host name"));
    }
    Ok(())
}

/// A number as C's `inet_aton` reads it.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_names() {
        for text in ["10.0.0.5:19711", "[2001:db8::1]:80", "game-1.example.com:7777", "a_b:1", "host.:5"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert!("10.0.0.5:1".parse::<Endpoint>().unwrap().ip().is_some());
        assert!("game:1".parse::<Endpoint>().unwrap().ip().is_none());
    }

    #[test]
    fn refuses_what_no_one_can_connect_to() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":80",
            "::1:80",
            "[x]:1",
            "-a:1",
            "a..b:1",
            "300.1.1.1:80",
            "2852039166:80",
            "0xa9fea9fe:80",
            "0XA9.0376.169.254:80",
            "0251.0376.0251.0376:80",
            "169.254.169.254.:80",
            "0x7f.1:80",
            "[fe80::1%eth0]:80",
            "a b:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
