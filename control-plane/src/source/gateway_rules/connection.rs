//! The two connections to Redis, one for commands and one that is subscribed, each step bounded in time.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use super::RuleOrigin;
use super::entry::{Flaw, Reason};
use super::parse::{self, MAX_DOCUMENT, MAX_RULES, Reading, Stored};

/// Bound on connecting and on every small command: a Redis that takes longer is as good as gone.
const STEP: Duration = Duration::from_secs(2);

/// Bound on fetching a value: the largest document over a link of 20 Mbit/s.
const FETCH: Duration = Duration::from_secs(8);

/// Least time between two readings. What is notified after a quiet time is read at once; what follows close behind,
/// from tools that write several keys and notify for each, is read together.
const SPACING: Duration = Duration::from_millis(20);

/// Why a connection is given up. None of the texts holds credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer to {step} within {} s", limit.as_secs())]
    Silent { step: &'static str, limit: Duration },
    #[error("the subscription was closed")]
    Closed,
    #[error("reading the rules was cut short: {0}")]
    Interrupted(#[from] JoinError),
}

/// The names in Redis, prefix included.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) rules: String,
    mapping: String,
    channels: [String; 2],
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let rules = format!("{prefix}{}", RuleOrigin::Rules.redis_key());
        let mapping = format!("{prefix}{}", RuleOrigin::RealmMapping.redis_key());
        Self { channels: [format!("{rules}:notify"), format!("{mapping}:notify")], rules, mapping }
    }
}

/// A subscribed connection to Redis. Dropping it closes both sockets.
pub(super) struct Connection {
    commands: MultiplexedConnection,
    subscription: PubSubSink,
    notifications: PubSubStream,
    last_read: Instant,
}

impl Connection {
    /// Connects and subscribes. Every change after this is either in the next [`read`](Self::read) or wakes
    /// the next [`changed`](Self::changed).
    pub(super) async fn open(client: &Client, keys: &Keys) -> Result<Self, Lost> {
        // A second connection rather than RESP3 pushes: it works with every Redis the old gateway runs on.
        let mut subscription = within(STEP, "connect", client.get_async_pubsub()).await?;
        within(STEP, "SUBSCRIBE", subscription.subscribe(&keys.channels)).await?;
        let (subscription, notifications) = subscription.split();
        // `within` bounds each command by what it fetches; the client's one bound for all would be too short
        // for a large document or too long for the rest.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let commands =
            within(STEP, "connect", client.get_multiplexed_async_connection_with_config(&config)).await?;
        Ok(Self { commands, subscription, notifications, last_read: Instant::now() })
    }

    /// Reads both keys. Not one transaction: a change in between sends a notification, or is seen by the
    /// next refresh.
    pub(super) async fn read(&mut self, keys: &Keys) -> Result<Reading, Lost> {
        self.last_read = Instant::now();
        // The type first, for it tells a missing key from an empty one and spares us an error for a list.
        let mut types = redis::pipe();
        types.cmd("TYPE").arg(&keys.rules).cmd("TYPE").arg(&keys.mapping);
        let (rules, mapping): (String, String) =
            within(STEP, "TYPE", types.query_async(&mut self.commands)).await?;
        Ok(Reading {
            rules: match rules.as_str() {
                "none" => Stored::Missing,
                "string" => Stored::Present(self.fetch_rules(keys).await?),
                other => wrong_type(other, "string"),
            },
            mapping: match mapping.as_str() {
                "none" => Stored::Missing,
                "hash" => self.fetch_mapping(keys).await?,
                other => wrong_type(other, "hash"),
            },
        })
    }

    async fn fetch_rules(&mut self, keys: &Keys) -> Result<Vec<u8>, Lost> {
        // One byte more than is accepted shows that there is more; `GET` would fetch up to 512 MiB.
        let mut fetch = redis::cmd("GETRANGE");
        fetch.arg(&keys.rules).arg(0).arg(MAX_DOCUMENT);
        within(FETCH, "GETRANGE", fetch.query_async(&mut self.commands)).await
    }

    async fn fetch_mapping(&mut self, keys: &Keys) -> Result<Stored<BTreeMap<Vec<u8>, Vec<u8>>>, Lost> {
        let mut count = redis::cmd("HLEN");
        count.arg(&keys.mapping);
        let fields: usize = within(STEP, "HLEN", count.query_async(&mut self.commands)).await?;
        if fields > MAX_RULES {
            return Ok(Stored::Unusable(parse::too_many_rules()));
        }
        let mut fetch = redis::cmd("HGETALL");
        fetch.arg(&keys.mapping);
        let hash: BTreeMap<_, _> = within(FETCH, "HGETALL", fetch.query_async(&mut self.commands)).await?;
        // Its last field may have gone since `TYPE`.
        Ok(if hash.is_empty() { Stored::Missing } else { Stored::Present(hash) })
    }

    /// Waits for a notification, at most for `refresh`. Notifications that come close together count as one.
    /// A subscription that was cut without a word is noticed here, for it is asked each time.
    pub(super) async fn changed(&mut self, refresh: Duration) -> Result<(), Lost> {
        match timeout(refresh, self.notifications.next()).await {
            Ok(None) => Err(Lost::Closed),
            Ok(Some(_)) => {
                sleep_until(self.last_read + SPACING).await;
                while let Some(message) = self.notifications.next().now_or_never() {
                    message.ok_or(Lost::Closed)?;
                }
                Ok(())
            }
            Err(_elapsed) => within(STEP, "PING", self.subscription.ping()).await,
        }
    }
}

fn wrong_type<T>(found: &str, wanted: &str) -> Stored<T> {
    Stored::Unusable(Flaw::new(Reason::WrongType, format!("the document: a Redis {found}, not a {wanted}")))
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    command: impl Future<Output = RedisResult<T>>,
) -> Result<T, Lost> {
    match timeout(limit, command).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(Lost::Silent { step, limit }),
    }
}
