//! The address of a Redis server, which may hold a password and therefore never shows itself whole.

use std::fmt;
use std::str::FromStr;

use redis::IntoConnectionInfo;
use serde::{Deserialize, Serialize, Serializer};

/// A valid Redis URL. `Debug`, `Display` and serialisation leave the password out; [`RedisUrl::expose`] does not.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RedisUrl {
    whole: String,
    shown: String,
}

impl RedisUrl {
    /// The whole URL, password included: for connecting, never for printing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.whole
    }
}

impl Default for RedisUrl {
    fn default() -> Self {
        let url = "redis://127.0.0.1:6379".to_owned();
        Self { whole: url.clone(), shown: url }
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No message here may quote the text: a URL that is wrong in one place still holds its password.
        let wrong = "not a Redis URL such as redis://user:password@host:6379/0";
        let mut url = redis::parse_redis_url(text).ok_or_else(|| wrong.to_owned())?;
        url.clone().into_connection_info().map_err(|e| format!("{wrong}: {e}"))?;
        let hidden = url.password().is_some() && url.set_password(Some("***")).is_err();
        if hidden {
            return Err(wrong.to_owned());
        }
        // A Unix socket's URL carries its password in the query.
        url.set_query(None);
        Ok(Self { whole: text.to_owned(), shown: url.to_string() })
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
            ("redis+unix:///run/redis.sock?pass=s3cret", "redis+unix:///run/redis.sock"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.expose(), text);
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
            "rediss://:s3cret@c",
        ] {
            let error = text.parse::<RedisUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
