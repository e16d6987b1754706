//! The filter module as a source: a file that is checked before proxies are told of it, and the last good one until then.

mod check;
mod file;
mod metrics;
mod places;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

pub use check::{ModuleError, check};
pub use file::Problem;
use file::{Module, Stamp};
use metrics::Metrics;
pub use places::{listed, places_here};

use crate::mesh::{FilterModule, ModuleLocation};

/// How often the file is looked at unless said otherwise; a replaced module is a deployment, not an emergency.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How proxies come by the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleDelivery {
    /// They have the file at the same path.
    Path,
    /// They fetch it from this `host:port`.
    Http(String),
}

/// Where the module is and where it goes.
#[derive(Clone, Debug)]
pub struct FilterModuleConfig {
    /// Where it may be; the first that exists is it.
    pub places: Vec<PathBuf>,
    /// How proxies come by it.
    pub delivery: ModuleDelivery,
    /// Where the copy of the last good one is kept.
    pub data_dir: PathBuf,
    /// How often the file is looked at.
    pub look_every: Duration,
}

/// The module's file and what was read of it.
pub struct FilterModuleSource {
    config: FilterModuleConfig,
    metrics: Metrics,
    /// The file as it was when the process started to read it first.
    first: Option<Stamp>,
    publish: watch::Sender<FilterModule>,
    content: watch::Sender<Arc<Content>>,
}

/// What is served, and what is wrong with what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 in hex; empty while there never was a good one.
    pub sha256: String,
    /// The module itself.
    pub bytes: Bytes,
    /// Where it was read; `None` while there never was a good one.
    pub path: Option<PathBuf>,
    /// Why what stands there now cannot be used; the last good one is then served.
    pub problem: Option<Problem>,
}

impl Content {
    /// Whether proxies can be given a module.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        !self.sha256.is_empty()
    }

    /// What comes after it: a good module replaces everything, a bad one nothing.
    fn then(&self, read: Result<Module, Problem>) -> Self {
        match read {
            Ok(module) => Self::of(module),
            Err(problem) => Self { problem: Some(problem), ..self.clone() },
        }
    }

    fn of(Module { sha256, bytes, path }: Module) -> Self {
        Self { sha256, bytes, path: Some(path), problem: None }
    }
}

/// Whether an earlier run left a copy of the last good module.
#[must_use]
pub fn has_copy(data_dir: &Path) -> bool {
    data_dir.join(file::COPY).is_file()
}

impl FilterModuleSource {
    /// Reads the module once; where there is no good one, the copy that an earlier run left is served. Fails when its metrics
    /// are registered already.
    pub fn new(config: FilterModuleConfig, registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let metrics = Metrics::register(registry)?;
        // Before it is read: what changes while it is read is read again.
        let first = file::stamp(&config.places);
        let read = file::read(&config.places);
        let last_good = match &read {
            Ok(_) => Content::default(),
            Err(_) => file::saved_copy(&config.data_dir).map(Content::of).unwrap_or_default(),
        };
        let content = last_good.then(read);
        note(&content, &config, &metrics);
        let module = module(&content, &config);
        let content = watch::channel(Arc::new(content)).0;
        Ok(Self { publish: watch::channel(module).0, content, config, metrics, first })
    }

    /// The module and its successors, for the mesh.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<FilterModule> {
        self.publish.subscribe()
    }

    /// The module itself, for serving it.
    #[must_use]
    pub fn content(&self) -> Arc<Content> {
        self.content.borrow().clone()
    }

    /// Looks at the file for ever. One that vanishes, is half written or is no good keeps the last module in force.
    pub async fn watch(&self) {
        let mut look = Look { seen: self.first.clone(), last: self.first.clone() };
        loop {
            tokio::time::sleep(self.config.look_every).await;
            // A module that was found stays where it is: an installed one is no stand-in while it is built anew.
            let found = place(&self.content(), &self.config).map(|path| vec![path.to_owned()]);
            let places = found.unwrap_or_else(|| self.config.places.clone());
            let now = file::stamp(&places);
            if !look.is_due(now.as_ref()) {
                continue;
            }
            let (current, config, metrics) = (self.content(), self.config.clone(), self.metrics.clone());
            let read = tokio::task::spawn_blocking(move || {
                let read = file::read(&places);
                if file::stamp(&places) != now {
                    return None;
                }
                let content = current.then(read);
                note(&content, &config, &metrics);
                Some((content, now))
            });
            let Ok(Some((content, now))) = read.await else { continue };
            look.seen = now;
            let module = module(&content, &self.config);
            self.content.send_replace(Arc::new(content));
            self.publish.send_if_modified(|current| {
                let changed = *current != module;
                *current = module;
                changed
            });
        }
    }
}

/// When a file is to be read: once it stood still for a whole look, and is not what was read last. A copy in progress is no
/// module.
struct Look {
    seen: Option<Stamp>,
    last: Option<Stamp>,
}

impl Look {
    fn is_due(&mut self, now: Option<&Stamp>) -> bool {
        let settled = now == self.last.as_ref() && now != self.seen.as_ref();
        self.last = now.cloned();
        settled
    }
}

/// What proxies are told.
fn module(content: &Content, config: &FilterModuleConfig) -> FilterModule {
    // Proxies may have a file that this machine has not: whoever has it not either refuses it, and says so.
    let elsewhere = || matches!(&content.problem, Some(Problem { reason: "missing" | "unreadable", .. }));
    let location = match &config.delivery {
        ModuleDelivery::Http(host) if content.is_known() => ModuleLocation::Http(host.clone()),
        ModuleDelivery::Path if content.is_known() || elsewhere() => match place(content, config) {
            Some(path) => ModuleLocation::Path(path.display().to_string()),
            None => ModuleLocation::Nowhere,
        },
        _ => ModuleLocation::Nowhere,
    };
    FilterModule { sha256: content.sha256.clone(), location }
}

/// Where the module is, or would be if there were one; `None` while it may be in several places.
fn place<'a>(content: &'a Content, config: &'a FilterModuleConfig) -> Option<&'a Path> {
    match &*config.places {
        [only] => Some(only),
        many => content.path.as_deref().filter(|path| many.iter().any(|place| place == path)),
    }
}

/// Says what came of a look at the file, and keeps what is good. Blocks on the disk.
fn note(content: &Content, config: &FilterModuleConfig, metrics: &Metrics) {
    let data_dir = &config.data_dir;
    metrics.up(content.problem.is_none());
    match &content.problem {
        None => {
            let (sha256, path) = (&content.sha256, content.path.clone().unwrap_or_default());
            tracing::info!(sha256, path = %path.display(), "filter module read");
            let (sha256, bytes) = (content.sha256.clone(), content.bytes.clone());
            if let Err(error) = file::save(data_dir, &Module { sha256, bytes, path }) {
                tracing::warn!(%error, data_dir = %data_dir.display(), "cannot keep a copy of the filter module for the next start");
            }
        }
        Some(Problem { reason, message }) => {
            metrics.refused(reason);
            let sha256 = &content.sha256;
            match (&config.delivery, content.is_known()) {
                (ModuleDelivery::Http(_), true) => {
                    tracing::warn!(
                        reason,
                        sha256,
                        "filter module refused: {message}; serving the last good one"
                    );
                }
                // A proxy reads the file at its path with each configuration of its filter.
                (ModuleDelivery::Path, true) => tracing::error!(
                    reason,
                    sha256,
                    "filter module refused: {message}; proxies that read this file keep the filter that they run, and take no change of routes until a good one stands there"
                ),
                (_, false) => tracing::error!(
                    reason,
                    "filter module refused: {message}; edges without a filter get none until there is a good one"
                ),
            }
        }
    }
}
