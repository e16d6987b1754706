//! An authority of our own, for development and for fleets without Consul: certificates for every wanted service, from
//! roots that are kept in `data_dir`.

mod authority;
mod metrics;
mod plan;
mod store;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::backoff::Backoff;
use crate::mesh::identity::Identities;
use metrics::Metrics;
use plan::Ca;
use store::Store;

pub use plan::CaConfig;
pub use store::StoreError;

/// Longest sleep: clocks are set, and a machine that was suspended wakes up later than it thinks.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The same while the authority is new, so that whoever says that it is meant does not wait.
const LONGEST_SLEEP_NEW: Duration = Duration::from_secs(1);

/// Why the authority cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// What it kept cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics that clash.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Why it could not do what was due.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot keep the new root: {0}")]
    Keep(#[from] io::Error),
}

/// The authority, before it runs.
#[derive(Debug)]
pub struct EmbeddedCa {
    ca: Ca,
    store: Store,
    metrics: Metrics,
    published: watch::Sender<Arc<Identities>>,
}

impl EmbeddedCa {
    /// Takes up what earlier runs left in `data_dir`, which exists.
    pub fn open(config: CaConfig, data_dir: &Path, metrics: &prometheus::Registry) -> Result<Self, CaError> {
        let store = Store::new(data_dir, &config.trust_domain);
        let ca = Ca::new(config, store.load()?);
        Ok(Self { ca, store, metrics: Metrics::register(metrics)?, published: watch::Sender::default() })
    }

    /// The certificates; unknown until it runs.
    #[must_use]
    pub fn identities(&self) -> watch::Receiver<Arc<Identities>> {
        self.published.subscribe()
    }

    /// Makes what is `wanted`, when its time has come; ends with the wanted.
    pub async fn run(mut self, mut wanted: watch::Receiver<BTreeSet<String>>) {
        let mut backoff = Backoff::new();
        loop {
            let services = wanted.borrow_and_update().clone();
            let now = SystemTime::now();
            let sleep = match self.step(&services, now) {
                Ok(()) => {
                    backoff.reset();
                    let until =
                        self.ca.wakes_at(now).and_then(|at| at.duration_since(SystemTime::now()).ok());
                    let longest = if self.store.is_new() { LONGEST_SLEEP_NEW } else { LONGEST_SLEEP };
                    until.unwrap_or_default().min(longest)
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    tracing::error!(%error, "the embedded authority fails; certificates that there are serve on");
                    backoff.wait()
                }
            };
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Does what is due. A millisecond for each certificate, and for a new root a write to the disk.
    fn step(&mut self, wanted: &BTreeSet<String>, now: SystemTime) -> Result<(), StepError> {
        if let Some(roots) = self.ca.next_roots(now)? {
            if self.ca.has_roots() {
                self.store.note_known()?;
                tracing::info!(roots = roots.len(), "the embedded authority has new roots");
            } else {
                self.store.note_new()?;
                tracing::warn!(
                    data_dir = %self.store.directory().display(),
                    "made a new embedded authority, since there is none in data_dir; proxies that come with certificates of \
                     another one keep them: restore mesh-ca.json, or remove mesh-ca.new if the new one is meant"
                );
            }
            self.store.save(&roots)?;
            self.ca.set_roots(roots);
        }
        let made = self.ca.renew(wanted, now, &mut fastrand::f64);
        let identities = Identities { unproven: self.store.is_new(), ..self.ca.identities() };
        self.metrics.roots.set(i64::try_from(identities.roots.len()).unwrap_or(i64::MAX));
        self.metrics.leaves.set(i64::try_from(identities.leaves.len()).unwrap_or(i64::MAX));
        self.published.send_if_modified(|current| {
            let changed = **current != identities;
            if changed {
                *current = Arc::new(identities);
            }
            changed
        });
        self.metrics.issued.inc_by(made? as u64);
        Ok(())
    }
}
