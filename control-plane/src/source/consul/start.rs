//! The source as a whole: starts its tasks and hands out what they publish.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus::Registry;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::catalog::{self, Published};
use super::certificates::Keyring;
use super::client::Client;
use super::error::ConsulError;
use super::follow::Context;
use super::intentions::{self, Intentions};
use super::metrics::Metrics;
use super::parts::{Part, Parts};
use super::snapshot::{Left, Snapshot};
use super::{entries, topology};
use crate::mesh::Wanted;
use crate::mesh::catalog::Catalog;
use crate::mesh::identity::Identities;
use crate::source::Health;
use crate::source::backoff::Backoff;

/// Which Consul, and where its last good values are kept.
#[derive(Clone, Debug)]
pub struct ConsulConfig {
    /// `http://127.0.0.1:8500`, or `https://` for TLS.
    pub address: String,
    /// File of the token; read again when it changes.
    pub token_file: Option<PathBuf>,
    /// File of the authorities of Consul's certificate, PEM; read again when it changes. Needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// Our datacenter; empty = the agent's.
    pub datacenter: String,
    /// Directory of the snapshot; made if it is missing.
    pub data_dir: PathBuf,
}

/// Why the source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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

/// The running source. Dropping it ends its tasks.
#[derive(Debug)]
pub struct ConsulSource {
    catalog: watch::Receiver<Arc<Catalog>>,
    intentions: watch::Receiver<Arc<Intentions>>,
    identities: watch::Receiver<Arc<Identities>>,
    health: watch::Receiver<Health>,
    waits: watch::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl ConsulSource {
    /// Loads the snapshot and starts the tasks; call it inside a tokio runtime. Does not wait for Consul. What is asked
    /// for follows `wanted`.
    pub fn start(
        config: &ConsulConfig,
        wanted: watch::Receiver<Wanted>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let snapshot = Snapshot::new(&config.data_dir, &config.address)
            .map_err(|error| StartError::DataDir { path: config.data_dir.clone(), error })?;
        let metrics = Arc::new(Metrics::register(registry)?);
        let left = snapshot.load();
        let known = left.is_some();
        let leaves: Vec<_> = wanted.borrow().leaves.iter().cloned().map(Part::Leaf).collect();
        let required = [Part::Agent, Part::Intentions, Part::Roots].into_iter();
        let required = required.chain(entries::KINDS.map(Part::Entries)).map(|part| (part, known));
        // Keys are not kept.
        let required = required.chain(leaves.into_iter().map(|leaf| (leaf, false)));
        let parts = Arc::new(Parts::new(required.collect(), Arc::clone(&metrics)));
        let client = Arc::new(Client::new(config, metrics.requests.clone()));
        let context = Context { client, parts: Arc::clone(&parts) };

        let Left { catalog, intentions, identities } = left.unwrap_or_else(nothing);
        let published = Arc::new(Published::new(catalog, Arc::clone(&metrics)));
        let (identities, identities_receiver) = watch::channel(Arc::new(identities));
        let (intentions, intentions_receiver) = watch::channel(Arc::new(intentions));
        let keyring = Keyring::new(context.clone(), identities, Arc::clone(&metrics));
        let source = Self {
            catalog: published.subscribe(),
            intentions: intentions_receiver,
            identities: identities_receiver,
            health: parts.health(),
            waits: parts.waits(),
            _tasks: JoinSet::new(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(intentions::follow(context.clone(), intentions, Arc::clone(&metrics)));
        tasks.spawn(keyring.clone().follow_roots());
        tasks.spawn(keyring.follow_leaves(wanted.clone()));
        tasks.spawn(entries::follow(context.clone(), Arc::clone(&published), Arc::clone(&metrics)));
        let mut health = source.health();
        let complete = async move {
            // An error means that the tasks have ended, and this one with them.
            let _ = health.wait_for(|health| *health != Health::Starting).await;
        };
        tasks.spawn(snapshot.follow(source.catalog(), source.intentions(), source.identities(), complete));
        tasks.spawn(follow_catalog(context, published, metrics, config.datacenter.clone(), wanted));
        Ok(Self { _tasks: tasks, ..source })
    }

    /// The catalog. While [`Self::health`] is `Starting` it is not to be served.
    #[must_use]
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// The intentions and the default.
    #[must_use]
    pub fn intentions(&self) -> watch::Receiver<Arc<Intentions>> {
        self.intentions.clone()
    }

    /// Roots and leaves.
    #[must_use]
    pub fn identities(&self) -> watch::Receiver<Arc<Identities>> {
        self.identities.clone()
    }

    /// How the source is doing.
    ///
    /// - `Starting`: something that is needed has not been heard, neither now nor by an earlier run.
    /// - `Degraded`: a part cannot be had; its last good value is served. Published after the values that it speaks of.
    /// - `Ok`: all is up to date.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Why it is still `Starting`: what has not been heard, and what keeps it away. Empty after that.
    #[must_use]
    pub fn waits(&self) -> watch::Receiver<String> {
        self.waits.clone()
    }
}

fn nothing() -> Left {
    Left { catalog: Catalog::default(), intentions: Intentions::default(), identities: Identities::default() }
}

/// Finds out where we are, then follows the catalog for ever.
async fn follow_catalog(
    context: Context,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    configured: String,
    wanted: watch::Receiver<Wanted>,
) {
    let mut backoff = Backoff::new();
    let local = loop {
        if !configured.is_empty() {
            break configured;
        }
        match agents_datacenter(&context.client).await {
            Ok(local) => break local,
            Err(error) => context.parts.lost(&Part::Agent, &error),
        }
        sleep(backoff.wait()).await;
    };
    published.change(|catalog| catalog.local.clone_from(&local));
    // Before the agent counts as heard, so that the catalog is waited for.
    context.parts.expect(Part::Catalog { datacenter: local.clone(), local: true });
    context.parts.ok(&Part::Agent);
    tokio::join!(
        catalog::follow(context.clone(), Arc::clone(&published), metrics, local.clone(), wanted),
        topology::follow(context.clone(), published, local),
    );
}

/// Which datacenter the agent is in; wants `agent:read`.
pub(in crate::source) async fn agents_datacenter(client: &Client) -> Result<String, ConsulError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Own {
        config: OwnConfig,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct OwnConfig {
        datacenter: String,
    }
    Ok(client.get("/v1/agent/self").await?.json::<Own>()?.config.datacenter)
}
