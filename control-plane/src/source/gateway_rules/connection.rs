//! The connections to Redis: one for commands, whose answers are bounded before they are read, and one that is subscribed.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, Pipeline, RedisResult};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::RuleOrigin;
use super::entry::{self, Flaw, Reason};
use super::lost::Lost;
use super::mapping;
use super::parse::{self, MAX_DOCUMENT, MAX_RULES, Mapped, Reading, Stored};
use super::subscription::{Attempt, Subscription};
use crate::source::redis_link::{Allowance, Bounded, Target};

/// Bound on connecting and on every small command: a Redis that takes longer is as good as gone.
pub(super) const STEP: Duration = Duration::from_secs(2);

/// Bound on fetching a value: the largest document over a link of 20 Mbit/s.
pub(super) const FETCH: Duration = Duration::from_secs(8);

/// What a small answer may be long, an error's words included.
pub(super) const SMALL: usize = 64 << 10;

/// Least time between two readings. What is notified after a quiet time is read at once; what follows close behind,
/// from tools that write several keys and notify for each, is read together.
const SPACING: Duration = Duration::from_millis(20);

/// Of the time, at most one part in this many goes into readings that are notified of, unless that is less than one in each
/// refresh interval.
const SHARE: u32 = 5;

/// How often a subscription is asked for again that Redis refused.
const ASK_AGAIN: Duration = Duration::from_secs(10);

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

/// Connections to Redis. Dropping it closes both sockets.
pub(super) struct Connection {
    target: Target,
    commands: Commands,
    subscription: Subscription,
    last_read: Instant,
}

impl Connection {
    /// Connects and subscribes. Every change after this is either in the next [`read`](Self::read) or wakes
    /// the next [`changed`](Self::changed), or is seen after `refresh` where Redis refuses the subscription.
    pub(super) async fn open(target: &Target, keys: &Keys) -> Result<Self, Lost> {
        // First, since its library has the better words for what is wrong with a login.
        let commands = Commands::open(target).await?;
        // A second connection rather than RESP3 pushes: it works with every Redis the old gateway runs on.
        let subscription = Subscription::open(target, &keys.channels).await?;
        Ok(Self { target: target.clone(), commands, subscription, last_read: Instant::now() })
    }

    /// Why changes are not notified; `None` = they are.
    pub(super) fn unsubscribed(&self) -> Option<&str> {
        match &self.subscription.attempt {
            Attempt::Subscribed(_) => None,
            Attempt::Refused { reason, .. } => Some(reason),
        }
    }

    /// Reads both keys. Not one transaction: a change in between sends a notification, or is seen by the
    /// next refresh.
    pub(super) async fn read(&mut self, keys: &Keys) -> Result<Reading, Lost> {
        self.last_read = Instant::now();
        // The type first, for it tells a missing key from an empty one and spares us an error for a list.
        let mut types = redis::pipe();
        types.cmd("TYPE").arg(&keys.rules).cmd("TYPE").arg(&keys.mapping);
        let (rules, mapping): (String, String) = self.commands.ask("TYPE", STEP, SMALL, &types).await?;
        let rules = match rules.as_str() {
            "none" => Stored::Missing,
            "string" => self.fetch_rules(keys).await?,
            other => wrong_type(other, "string"),
        };
        let mapping = match mapping.as_str() {
            "none" => Stored::Missing,
            "hash" => self.fetch_mapping(keys).await?,
            other => wrong_type(other, "hash"),
        };
        Ok(Reading { rules, mapping })
    }

    async fn fetch_rules(&mut self, keys: &Keys) -> Result<Stored<Vec<u8>>, Lost> {
        let length = self.commands.small("STRLEN", &[keys.rules.as_bytes()]).await;
        match length {
            Ok(length) if length > MAX_DOCUMENT => {
                return Ok(Stored::Unusable(parse::document_too_large(Some(length))));
            }
            // Without the right to ask, what is read is bounded still.
            Err(lost) if !lost.is_refusal() => return Err(lost),
            _ => {}
        }
        // One byte more than is accepted shows that there is more; `GET` would fetch up to 512 MiB.
        let mut fetch = redis::pipe();
        fetch.cmd("GETRANGE").arg(&keys.rules).arg(0).arg(MAX_DOCUMENT);
        let document: Result<(Vec<u8>,), Lost> =
            self.commands.ask("GETRANGE", FETCH, MAX_DOCUMENT + SMALL, &fetch).await;
        match document {
            Err(Lost::TooMuch { .. }) => {
                self.commands = Commands::open(&self.target).await?;
                Ok(Stored::Unusable(parse::document_too_large(None)))
            }
            document => Ok(Stored::Present(document?.0)),
        }
    }

    async fn fetch_mapping(&mut self, keys: &Keys) -> Result<Stored<BTreeMap<Vec<u8>, Mapped>>, Lost> {
        let key = keys.mapping.as_bytes();
        let fields: usize = self.commands.small("HLEN", &[key]).await?;
        if fields > MAX_RULES {
            return Ok(Stored::Unusable(parse::too_many_rules()));
        }
        let hash = match mapping::fetch(&mut self.commands, key, fields).await {
            Err(Lost::TooMuch { step, limit }) => {
                self.commands = Commands::open(&self.target).await?;
                let detail = format!("the hash: {step} answers with more than {limit} bytes");
                return Ok(Stored::Unusable(Flaw::new(Reason::OutOfRange, detail)));
            }
            hash => hash?,
        };
        // Its last field may have gone since `TYPE`.
        Ok(if hash.is_empty() { Stored::Missing } else { Stored::Present(hash) })
    }

    /// Waits for a notification, at most for `refresh`. Notifications that come close together count as one.
    /// A subscription that was cut without a word is noticed here, for it is asked each time.
    pub(super) async fn changed(&mut self, keys: &Keys, refresh: Duration) -> Result<(), Lost> {
        let took = self.last_read.elapsed();
        match &mut self.subscription.attempt {
            Attempt::Subscribed(notifications) => {
                if notifications.next(refresh).await? {
                    sleep_until(self.last_read + spacing(took).min(refresh)).await;
                    notifications.forget();
                }
            }
            Attempt::Refused { since, .. } => {
                let again = since.elapsed() >= ASK_AGAIN;
                tokio::time::sleep(refresh).await;
                if again {
                    self.subscription = Subscription::open(&self.target, &keys.channels).await?;
                }
            }
        }
        Ok(())
    }
}

/// The time from the beginning of a reading to the next, for one that `took` so long.
fn spacing(took: Duration) -> Duration {
    SPACING.max(took.saturating_mul(SHARE))
}

fn wrong_type<T>(found: &str, wanted: &str) -> Stored<T> {
    let found = entry::clip_message(found);
    Stored::Unusable(Flaw::new(Reason::WrongType, format!("the document: a Redis {found}, not a {wanted}")))
}

/// A connection for commands. Each says how long its answer may be; what is longer ends the connection before it is read.
pub(super) struct Commands {
    connection: MultiplexedConnection,
    allowance: Allowance,
    driver: AbortHandle,
}

impl Commands {
    async fn open(target: &Target) -> Result<Self, Lost> {
        let allowance = Allowance::new(SMALL);
        let connected = timeout(STEP, target.connect()).await;
        let stream = connected.map_err(|_elapsed| silent("connect", STEP))??;
        // `ask` bounds each command by what it fetches; the client's one bound for all would be too short
        // for a large document or too long for the rest.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let bounded = Bounded::new(stream, allowance.clone());
        let login = MultiplexedConnection::new_with_config(target.login(), bounded, config);
        let login = within(STEP, "connect", login).await;
        let (connection, driver) = too_much(&allowance, "connect", SMALL, login)?;
        let driver = tokio::spawn(driver).abort_handle();
        Ok(Self { connection, allowance, driver })
    }

    /// A command without arguments beyond bytes, whose answer is small.
    pub(super) async fn small<T: FromRedisValue>(
        &mut self,
        name: &'static str,
        arguments: &[&[u8]],
    ) -> Result<T, Lost> {
        let mut pipeline = redis::pipe();
        // `MEMORY USAGE` is a command of two words.
        let mut words = name.split(' ');
        pipeline.cmd(words.next().unwrap_or_default());
        for word in words {
            pipeline.arg(word);
        }
        pipeline.arg(arguments);
        let (answer,) = self.ask(name, STEP, SMALL, &pipeline).await?;
        Ok(answer)
    }

    /// Commands whose answers together are at most `limit` bytes long.
    pub(super) async fn ask<T: FromRedisValue>(
        &mut self,
        step: &'static str,
        time: Duration,
        limit: usize,
        commands: &Pipeline,
    ) -> Result<T, Lost> {
        self.allowance.allow(limit);
        let answer = within(time, step, commands.query_async(&mut self.connection)).await;
        too_much(&self.allowance, step, limit, answer)
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        // Otherwise it would wait for a Redis that hangs.
        self.driver.abort();
    }
}

/// The answer, or that it was too long where that is why there is none.
fn too_much<T>(
    allowance: &Allowance,
    step: &'static str,
    limit: usize,
    answer: Result<T, Lost>,
) -> Result<T, Lost> {
    match answer {
        Err(_) if allowance.is_exceeded() => Err(Lost::TooMuch { step, limit }),
        answer => answer,
    }
}

pub(super) const fn silent(step: &'static str, limit: Duration) -> Lost {
    Lost::Silent { step, limit }
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    command: impl Future<Output = RedisResult<T>>,
) -> Result<T, Lost> {
    match timeout(limit, command).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(silent(step, limit)),
    }
}
