//! The address of a Redis server, which may hold a password and therefore never shows itself whole.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, IntoConnectionInfo};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// What a URL of Redis over TLS begins with.
const TLS: &str = "rediss://";

/// A valid Redis URL. `Debug`, `Display` and serialisation leave the password out; [`RedisUrl::expose`] does not.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RedisUrl {
    whole: Zeroizing<String>,
    shown: String,
    /// The host where what is said to it crosses a network in the clear, a password among it.
    exposed_to: Option<String>,
}

impl RedisUrl {
    /// The whole URL, password included: for connecting, never for printing.
    #[must_use]
    pub fn expose(&self) -> &Zeroizing<String> {
        &self.whole
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.whole.starts_with(TLS)
    }

    /// The host to which a password of this URL would go in the clear.
    #[must_use]
    pub fn exposed_to(&self) -> Option<&str> {
        self.exposed_to.as_deref()
    }
}

impl Default for RedisUrl {
    fn default() -> Self {
        let url = "redis://127.0.0.1:6379".to_owned();
        Self { whole: url.clone().into(), shown: url, exposed_to: None }
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No message here may quote the text: a URL that is wrong in one place still holds its password.
        let wrong = "not a Redis URL such as redis://user:password@host:6379/0";
        let mut url = redis::parse_redis_url(text).ok_or_else(|| wrong.to_owned())?;
        // The TLS is ours, and the library knows none.
        let plain = text.strip_prefix(TLS).map_or_else(|| text.to_owned(), |rest| format!("redis://{rest}"));
        let plain = Zeroizing::new(plain);
        let info = plain.as_str().into_connection_info().map_err(|e| format!("{wrong}: {e}"))?;
        if url.fragment().is_some() {
            return Err(format!("{wrong}: it ends in `#...`; certificates are always checked"));
        }
        let exposed_to = match info.addr() {
            ConnectionAddr::Tcp(host, _) if !text.starts_with(TLS) && url.password().is_some() => {
                super::cleartext::crosses_a_network(host).then(|| host.clone())
            }
            _ => None,
        };
        let hidden = url.password().is_some() && url.set_password(Some("***")).is_err();
        if hidden {
            return Err(wrong.to_owned());
        }
        // A Unix socket's URL carries its password in the query.
        url.set_query(None);
        Ok(Self { whole: text.to_owned().into(), shown: url.to_string(), exposed_to })
    }
}

impl TryFrom<String> for RedisUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.shown)
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_shown() {
        for (text, shown) in [
            ("redis://ops:s3cret@cache:6379/2", "redis://ops:***@cache:6379/2"),
            ("redis://:s3cret@cache", "redis://:***@cache"),
            ("rediss://ops:s3cret@cache:6380", "rediss://ops:***@cache:6380"),
            ("redis+unix:///run/redis.sock?pass=s3cret", "redis+unix:///run/redis.sock"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.expose().as_str(), text);
            assert_eq!(url.is_tls(), text.starts_with("rediss"));
            assert_eq!(url.to_string(), shown);
            let all = format!("{url:?} {}", serde_json::to_string(&url).unwrap());
            assert!(!all.contains("s3cret"), "{all}");
        }
    }

    #[test]
    fn errors_do_not_quote_it_either() {
        for text in [
            "http://:s3cret@cache",
            "s3cret",
            "redis://:s3cret@",
            "redis://:s3cret@c/x",
            "rediss://:s3cret@",
            "rediss://:s3cret@c#insecure",
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_password_is_exposed_where_it_crosses_a_network_in_the_clear() {
        for (text, host) in [
            ("redis://ops:s3cret@cache.internal:6379/2", Some("cache.internal")),
            ("redis://:s3cret@10.0.0.5", Some("10.0.0.5")),
            ("redis://cache.internal:6379", None),
            ("redis://:s3cret@127.0.0.1", None),
            ("redis://:s3cret@[::1]:6379", None),
            ("redis://:s3cret@localhost", None),
            ("rediss://:s3cret@cache.internal", None),
            ("redis+unix:///run/redis.sock?pass=s3cret", None),
        ] {
            assert_eq!(text.parse::<RedisUrl>().unwrap().exposed_to(), host, "{text}");
        }
    }
}
