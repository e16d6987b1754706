//! The task that follows the old gateway's rules in Redis and publishes them.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::connection::{Connection, Keys};
use super::lost::Lost;
use super::metrics::Metrics;
use super::parse::{self, Outcome, Reading};
use super::snapshot::Snapshot;
use super::{GatewayRules, Refusal};
use crate::source::Health;
use crate::source::backoff::Backoff;
use crate::source::redis_link::{RedisTlsFiles, Target};

/// Below this the source would do little but read.
const SHORTEST_REFRESH: Duration = Duration::from_millis(50);

/// Refusals logged at once; a broken tool can break every rule in one write.
const MAX_LOGGED: usize = 20;

/// Where the rules are and how often they are read.
#[derive(Clone)]
pub struct GatewayRulesConfig {
    /// `redis://[user:password@]host:port[/db]`, `rediss://` for TLS, or `unix:///path`.
    pub url: Zeroizing<String>,
    /// For `rediss`.
    pub tls: RedisTlsFiles,
    /// What the names of keys and channels start with, for instance `game-gateway:`.
    pub key_prefix: String,
    /// Longest time between two readings, and until a silently cut connection is noticed; at least 50 ms.
    pub refresh_interval: Duration,
    /// Directory of the snapshot; made if it is missing.
    pub data_dir: PathBuf,
}

impl fmt::Debug for GatewayRulesConfig {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayRulesConfig")
            .field("key_prefix", &self.key_prefix)
            .field("refresh_interval", &self.refresh_interval)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// Why the source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The URL is none of Redis. The text does not repeat it.
    #[error("the Redis URL cannot be used: {0}")]
    Url(#[source] redis::RedisError),
    /// The data directory cannot be made.
    #[error("cannot make {}: {error}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A source was started on this registry before.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The running source. Dropping it ends its task.
#[derive(Debug)]
pub struct GatewayRulesSource {
    rules: watch::Receiver<Arc<GatewayRules>>,
    health: watch::Receiver<Health>,
    trouble: watch::Receiver<String>,
    never_there: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl GatewayRulesSource {
    /// Loads the snapshot and starts the task; call it inside a tokio runtime. Reads one file and does not
    /// wait for Redis.
    pub fn start(config: &GatewayRulesConfig, registry: &Registry) -> Result<Self, StartError> {
        let target = Target::new(&config.url, &config.tls).map_err(StartError::Url)?;
        let snapshot = Snapshot::new(&config.data_dir, &config.key_prefix)
            .map_err(|error| StartError::DataDir { path: config.data_dir.clone(), error })?;
        let metrics = Metrics::register(registry)?;
        let left = snapshot.load();
        let known =
            GatewayRules { unheard: left.is_none(), rules: left.unwrap_or_default(), refused: Vec::new() };
        if !known.rules.is_empty() {
            tracing::info!(
                rules = known.rules.len(),
                "serving the last good gateway rules until Redis answers"
            );
        }
        metrics.served(&known);
        let (rules, rules_receiver) = watch::channel(Arc::new(known));
        let (health, health_receiver) = watch::channel(Health::Starting);
        let (trouble, trouble_receiver) = watch::channel(String::new());
        let (stop, stopped) = oneshot::channel();
        let (address, keys) = (target.address(), Keys::new(&config.key_prefix));
        let never_there = format!(
            "the game-gateway rules were never there: Redis at {address} never had the key {}. If it was written before, check \
             redis.url and game_gateway.key_prefix; else write it (`{{}}` says that there are no rules)",
            keys.rules
        );
        let follower = Follower {
            address,
            target,
            keys,
            refresh: config.refresh_interval.max(SHORTEST_REFRESH),
            rules,
            health,
            trouble,
            metrics,
            last: None,
            snapshot,
            saving: None,
            unsaved: false,
        };
        let task = tokio::spawn(follower.run(stopped));
        Ok(Self {
            rules: rules_receiver,
            health: health_receiver,
            trouble: trouble_receiver,
            never_there,
            stop,
            task,
        })
    }

    /// The rules that are served. It changes only when they or the refusals do.
    #[must_use]
    pub fn rules(&self) -> watch::Receiver<Arc<GatewayRules>> {
        self.rules.clone()
    }

    /// Why Redis has not told anything yet, where nothing is known of an earlier run; empty = it has, or is still being asked.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<String> {
        self.trouble.clone()
    }

    /// What is said where the rules key was never there: where that is, and what to do.
    #[must_use]
    pub fn never_there(&self) -> &str {
        &self.never_there
    }

    /// How the source is doing.
    ///
    /// - `Starting`: Redis has not answered yet. The rules are those of the snapshot, if there is one; while
    ///   there is none, it lasts until Redis answers.
    /// - `Degraded`: Redis cannot be reached, or a key is missing or unreadable as a whole; its last good
    ///   rules are served.
    /// - `Ok`: both keys were read. Single refused rules are in [`GatewayRules::refused`].
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Ends the task and waits until it has let go of Redis and its file.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the gateway rules task ended badly");
        }
    }
}

struct Follower {
    target: Target,
    /// Host and port without credentials, for messages.
    address: String,
    keys: Keys,
    refresh: Duration,
    rules: watch::Sender<Arc<GatewayRules>>,
    health: watch::Sender<Health>,
    /// Why nothing is known yet.
    trouble: watch::Sender<String>,
    metrics: Metrics,
    /// The last reading and what came of it: most readings are the same again.
    last: Option<(Reading, Outcome)>,
    snapshot: Snapshot,
    /// The write that is going on; its blocking thread outlives a cancelled wait.
    saving: Option<JoinHandle<io::Result<()>>>,
    /// Whether the rules differ from the file's.
    unsaved: bool,
}

impl Follower {
    async fn run(mut self, stopped: oneshot::Receiver<()>) {
        // The channel carries nothing: it ends when its other side goes.
        tokio::select! {
            _ = stopped => {}
            () = self.follow() => {}
        }
        if let Some(saving) = self.saving.take() {
            // Otherwise a source started next could write the same temporary file.
            let _ = saving.await;
        }
    }

    /// Connects again and again.
    async fn follow(&mut self) {
        let mut backoff = Backoff::new();
        let mut known = String::new();
        loop {
            let Err(lost) = self.follow_connection(&mut backoff, &mut known).await;
            self.metrics.lost();
            let problem = lost.to_string();
            if problem == known {
                tracing::debug!(redis = self.address, problem, "Redis is still gone");
            } else {
                let serving = if self.knows_rules() {
                    "lost Redis; serving the last good gateway rules"
                } else {
                    "cannot reach Redis, and no gateway rules are known from an earlier run; proxies are served once it answers"
                };
                tracing::warn!(redis = self.address, problem, "{serving}");
            }
            self.report_lost(&problem);
            known = problem;
            sleep(backoff.wait()).await;
        }
    }

    /// Follows the rules over one connection until it is lost.
    async fn follow_connection(
        &mut self,
        backoff: &mut Backoff,
        known: &mut String,
    ) -> Result<Infallible, Lost> {
        let mut connection = Connection::open(&self.target, &self.keys).await?;
        loop {
            self.metrics.connected(connection.unsubscribed().is_none());
            let reading = connection.read(&self.keys).await?;
            // Only now: a Redis that is loading its data, or that denies us, accepts connections too.
            backoff.reset();
            if !known.is_empty() {
                tracing::info!(redis = self.address, "Redis is back");
                known.clear();
            }
            self.take(reading, connection.unsubscribed()).await?;
            connection.changed(&self.keys, self.refresh).await?;
        }
    }

    async fn take(&mut self, reading: Reading, unsubscribed: Option<&str>) -> Result<(), Lost> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != reading) {
            let previous = Arc::clone(&self.rules.borrow());
            // A document of 16 MiB would keep a thread of the runtime from everything else.
            let parse = move || (parse::apply(&reading, &previous), reading);
            let (outcome, reading) = spawn_blocking(parse).await?;
            self.publish(&outcome.rules);
            self.last = Some((reading, outcome));
        }
        if let Some((_, outcome)) = &self.last {
            self.metrics.read(outcome);
            let unnotified = unsubscribed.map(|why| {
                let every = self.refresh.as_secs_f64();
                format!("changes are seen every {every} s alone, since Redis refuses the subscription: {why}")
            });
            let unread =
                [&outcome.routing_rules, &outcome.realm_mapping].into_iter().filter_map(|r| r.clone().err());
            let problems: Vec<_> = unread.chain(unnotified).collect();
            let health = match problems.as_slice() {
                [] => Health::Ok,
                problems => Health::Degraded { reason: problems.join("; ") },
            };
            if let Health::Degraded { reason } = &health
                && *self.health.borrow() != health
            {
                tracing::warn!(reason, "gateway rules are degraded");
            }
            set(&self.health, health);
            set(&self.trouble, String::new());
        }
        self.save().await;
        Ok(())
    }

    fn publish(&mut self, rules: &GatewayRules) {
        let previous = Arc::clone(&self.rules.borrow());
        if *previous == *rules {
            return;
        }
        self.report_refusals(&previous.refused, &rules.refused);
        tracing::info!(rules = rules.rules.len(), refused = rules.refused.len(), "gateway rules changed");
        self.metrics.served(rules);
        self.unsaved |= previous.rules != rules.rules || previous.unheard != rules.unheard;
        self.rules.send_replace(Arc::new(rules.clone()));
    }

    /// Logs and counts the refusals that were not there before.
    fn report_refusals(&self, before: &[Refusal], now: &[Refusal]) {
        let identity = |refusal: &Refusal| {
            (refusal.origin, refusal.key.clone(), refusal.reason.clone(), refusal.detail.clone())
        };
        let known: HashSet<_> = before.iter().map(identity).collect();
        let mut appeared = 0;
        for refusal in now.iter().filter(|refusal| !known.contains(&identity(refusal))) {
            self.metrics.refusal(&refusal.reason);
            appeared += 1;
            if appeared <= MAX_LOGGED {
                tracing::warn!(
                    origin = refusal.origin.redis_key(),
                    key = refusal.key,
                    reason = refusal.reason,
                    last_good_served = refusal.last_good_served,
                    "gateway rule refused: {}",
                    refusal.detail
                );
            }
        }
        if appeared > MAX_LOGGED {
            tracing::warn!(more = appeared - MAX_LOGGED, "further gateway rules refused");
        }
    }

    fn knows_rules(&self) -> bool {
        self.last.is_some() || !self.rules.borrow().rules.is_empty()
    }

    fn report_lost(&self, problem: &str) {
        let (rules, address) = (self.rules.borrow().rules.len(), &self.address);
        // Without snapshot and before the first reading nothing is known: that is still the start.
        if self.knows_rules() {
            let served = match rules {
                0 => "there were no rules before".to_owned(),
                rules => format!("the last {rules} good rules are served"),
            };
            let reason = format!("Redis at {address}: {problem}; {served}, retrying");
            set(&self.health, Health::Degraded { reason });
        } else {
            set(&self.trouble, format!("Redis at {address}: {problem}; retrying"));
        }
    }

    /// Writes the snapshot if it is outdated. A disk that fails is tried again at the next reading.
    async fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        let (snapshot, rules) = (self.snapshot.clone(), Arc::clone(&self.rules.borrow()));
        let saving = self.saving.insert(spawn_blocking(move || snapshot.save(&rules.rules)));
        let saved = saving.await;
        self.saving = None;
        match saved {
            Ok(Ok(())) => self.unsaved = false,
            Ok(Err(error)) => tracing::error!(%error, "cannot save the last good gateway rules"),
            Err(error) => tracing::error!(%error, "saving the last good gateway rules was cut short"),
        }
    }
}

/// Publishes a value if it differs.
fn set<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let changed = *current != value;
        *current = value;
        changed
    });
}
