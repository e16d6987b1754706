//! Why a connection to Redis is given up, and what an operator does about it.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::task::JoinError;

use super::entry;

/// Why a connection is given up. None of the texts holds credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{}", words(.0))]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer to {step} within {} s", limit.as_secs())]
    Silent { step: &'static str, limit: Duration },
    #[error("it sent more than {limit} bytes in answer to {step}")]
    TooMuch { step: &'static str, limit: usize },
    #[error("the subscription was closed")]
    Closed,
    #[error("the subscription was answered with something else than its confirmation")]
    Unconfirmed,
    #[error("reading the rules was cut short: {0}")]
    Interrupted(#[from] JoinError),
}

impl Lost {
    /// Whether Redis itself refuses the command to us, by its rights or because it does not know it.
    pub(super) fn is_refusal(&self) -> bool {
        let Self::Redis(error) = self else { return false };
        matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)
                | ErrorKind::Extension
        )
    }
}

/// What Redis or the client says, bounded, and what to do where that is known.
fn words(error: &RedisError) -> String {
    let said = entry::clip_message(&error.to_string());
    match remedy(error) {
        Some(remedy) => format!("{said}; {remedy}"),
        None => said,
    }
}

fn remedy(error: &RedisError) -> Option<&'static str> {
    // Of a pipeline it is in the first command's error alone.
    let code = error.code().map(str::to_owned);
    let first = error.clone().into_server_errors();
    let first = first.as_deref().and_then(|errors| Some(errors.first()?.1.code().to_owned()));
    match (error.kind(), code.or(first).as_deref()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
            Some("check user and password in redis.url")
        }
        (_, Some("NOPERM")) => {
            Some("its user lacks rights: docs/game-gateway.md has the least that are needed")
        }
        (_, Some("MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN")) => Some(
            "this is a Redis Cluster, where no single node has both keys: name a Redis without cluster mode in redis.url",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_comes_with_what_to_do() {
        for (line, remedy) in [
            ("-NOPERM this user has no permissions to run the 'type' command\r\n", "least that are needed"),
            ("-NOAUTH Authentication required.\r\n", "check user and password"),
            ("-WRONGPASS invalid username-password pair or user is disabled.\r\n", "check user and password"),
            ("-MOVED 866 10.0.0.1:6379\r\n", "Redis Cluster"),
            ("-CLUSTERDOWN Hash slot not served\r\n", "Redis Cluster"),
        ] {
            let redis::Value::ServerError(error) = redis::parse_redis_value(line.as_bytes()).unwrap() else {
                panic!()
            };
            let text = Lost::Redis(error.into()).to_string();
            assert!(text.contains(remedy), "{text}");
        }
        let long = format!("-ERR {}\r\n", "x".repeat(10_000));
        let redis::Value::ServerError(error) = redis::parse_redis_value(long.as_bytes()).unwrap() else {
            panic!()
        };
        assert!(Lost::Redis(error.into()).to_string().len() < 400);
    }
}
