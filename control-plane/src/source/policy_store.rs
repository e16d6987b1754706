//! The policy store: versions of the policy document, the latest of which is published.
//!
//! It keeps text, exactly as given; whether the text is a valid policy is the caller's question, asked before
//! [`PolicyStore::put`]. It is a file of this process, or a prefix of Consul's KV store that replicas share and
//! operators write to: what comes from elsewhere is told like what was put here.

mod consul;
mod database;
mod guard;
mod held;
mod seal;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use consul::ConsulStore;
use database::Store;

use super::consul::{ConsulConfig, ConsulError};

pub use guard::{Guard, Unconfirmed};
pub use held::{Held, OverlayText, Slot, Trouble, Written};

/// Versions that are kept; older ones go as new ones come.
pub const KEPT_VERSIONS: u64 = 100;

/// Longest text of one version in bytes: 32,767 worlds listed one by one take a quarter of it.
pub const MAX_TEXT: usize = 4 << 20;

/// How often the embedded store looks whether its file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How versions are signed that began as a document which somebody wrote past every control plane.
pub const BY_HAND: &str = "consul kv";

/// What is known of a version besides its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// 1 for the first, then one more each; never used twice.
    pub version: u64,
    /// SHA-256 of the text in hexadecimal: equal texts have equal etags, on every replica.
    pub etag: String,
    /// Who put it.
    pub author: String,
    /// When, in seconds of Unix time.
    pub time: u64,
    /// Why, in the author's words; may be empty.
    pub message: String,
}

/// One version of the policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPolicy {
    /// Number, etag, author, time and message.
    pub info: PolicyInfo,
    /// The document as it was given, byte for byte.
    pub text: Arc<str>,
}

/// A version to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPolicy {
    /// The document, valid, at most [`MAX_TEXT`] bytes.
    pub text: String,
    /// Who puts it.
    pub author: String,
    /// Why; may be empty.
    pub message: String,
}

/// What must be stored for a put to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing at all: `If-None-Match: *`.
    None,
    /// Whatever there is, or nothing: no condition.
    Any,
    /// A version, whichever: `If-Match: *`.
    Exists,
    /// A latest version with this etag: `If-Match`.
    Etag(String),
}

impl Precondition {
    /// Whether it holds where this is stored.
    fn holds(&self, current: Option<&PolicyInfo>) -> bool {
        match self {
            Self::Any => true,
            Self::None => current.is_none(),
            Self::Exists => current.is_some(),
            Self::Etag(etag) => current.is_some_and(|info| info.etag == *etag),
        }
    }
}

/// The etag of a text.
pub fn etag(text: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(text.as_ref()))
}

/// Now, as [`PolicyInfo::time`] has it.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why a put was not made, or not certainly.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The precondition does not hold; nothing was changed.
    #[error("the stored policy is not the expected one: {}", describe(current.as_ref()))]
    Conflict {
        /// The latest version; `None` = nothing is stored.
        current: Option<PolicyInfo>,
    },
    /// It takes too much away without being confirmed; nothing was changed.
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
    /// The text is longer than [`MAX_TEXT`]; nothing was changed.
    #[error("the document has {bytes} bytes, more than {MAX_TEXT}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The disk or Consul failed. The version may be stored or not, but not in part; putting the same again tells.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn describe(current: Option<&PolicyInfo>) -> String {
    current.map_or_else(
        || "nothing is stored".to_owned(),
        |info| format!("version {} by {} has etag {}", info.version, info.author, info.etag),
    )
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("{} is in use by another process; each control plane needs a data_dir of its own", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The directory cannot be made or flushed.
    #[error("{}: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// The file cannot be read or written. It is opened anew at the next call.
    #[error("{}: {error}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        error: Box<redb::Error>,
    },
    /// The open file is no longer the one at its path, or not as we left it: what is written to it is lost. Nothing was put,
    /// or not where a restart finds it.
    #[error(
        "the policy store {} is lost: {problem}. What was in force serves on, and nothing can be put. Put the file back, or \
         save the policy with `realmgate policy show`, restart this control plane and put it again; proxies keep what they \
         have meanwhile",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// What was done to it.
        problem: String,
    },
    /// The file is no database, or its content makes no sense.
    #[error(
        "the policy store {} is damaged: {problem}. Move the file away, restart this control plane and put the policy again; \
         proxies keep what they have meanwhile",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database says.
        problem: String,
    },
    /// The file is of a newer release, or damaged in a way that the database does not see.
    #[error("{}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The process is stopping and takes no more work.
    #[error("the policy store is stopping")]
    Stopping,
    /// Consul does not answer, or says no.
    #[error("the policy store: {0}")]
    Consul(#[from] ConsulError),
    /// What stands below a key is not what we write there.
    #[error("{key}: {problem}")]
    Unusable {
        /// The key.
        key: String,
        /// What was found.
        problem: String,
    },
    /// Others put at the same time, again and again; nothing was changed.
    #[error("others are changing the policy at the same time; try again")]
    Contended,
    /// A second store on one registry.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl StoreError {
    /// Whether the same may work later without anybody changing anything here.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Stopping | Self::Consul(_) | Self::Contended | Self::Lost { .. })
    }
}

/// A store of either kind. Clones share it.
#[derive(Clone, Debug)]
pub struct PolicyStore(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// The file is closed when the last clone is dropped.
    Embedded(Arc<Store>),
    Consul(Arc<ConsulStore>),
}

impl PolicyStore {
    /// Opens `data_dir/policy.redb`; makes it and the directory if they are missing. After a crash this takes
    /// as long as reading the file.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let data_dir = data_dir.to_owned();
        let store = blocking(move || Store::open(&data_dir)).await?;
        Ok(Self(Kind::Embedded(Arc::new(store))))
    }

    /// A store below `prefix` (such as `realmgate/`) in the KV store of the agent's datacenter. Does not wait for Consul: it
    /// starts with the last good copy in `data_dir`, if there is one, and follows once [`Self::follow`] runs.
    pub fn consul(
        config: &ConsulConfig,
        prefix: &str,
        registry: &prometheus::Registry,
    ) -> Result<Self, StoreError> {
        Ok(Self(Kind::Consul(Arc::new(ConsulStore::open(config, prefix, registry)?))))
    }

    /// What it is called in settings.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match &self.0 {
            Kind::Embedded(_) => "embedded",
            Kind::Consul(_) => "consul",
        }
    }

    /// What is said where no policy was ever put: where that is, and what to do.
    #[must_use]
    pub fn never_put(&self) -> String {
        let (place, settings) = match &self.0 {
            Kind::Embedded(store) => (store.path().display().to_string(), "data_dir"),
            Kind::Consul(store) => (store.place(), "policy.consul_prefix and consul.address"),
        };
        format!(
            "no policy was ever put in the policy store {place}: if one was put before, check {settings}; else put it \
             (`realmgate policy apply FILE`, or `--empty` where none is meant)"
        )
    }

    /// The latest version; `None` = nothing was ever put, or it is not known. From memory.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<StoredPolicy>> {
        self.held().borrow().latest().cloned()
    }

    /// What the store holds, now and whenever it changes, whoever changes it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Held> {
        self.held().subscribe()
    }

    fn held(&self) -> &watch::Sender<Held> {
        match &self.0 {
            Kind::Embedded(store) => &store.held,
            Kind::Consul(store) => store.held(),
        }
    }

    /// Follows what others write, for ever. Of the embedded store nobody else may, and this sees whether somebody did.
    pub async fn follow(&self) {
        match &self.0 {
            Kind::Embedded(store) => loop {
                let store = Arc::clone(store);
                // It ends in error only where the process does.
                let _ = spawn_blocking(move || store.check()).await;
                sleep(LOOK_EVERY).await;
            },
            Kind::Consul(store) => store.follow().await,
        }
    }

    /// Keeps what is in force on disk, for a start without the store. The embedded store is on disk.
    pub async fn keep_good(&self, policy: Option<Arc<StoredPolicy>>, overlay: Option<Arc<OverlayText>>) {
        match &self.0 {
            Kind::Embedded(_) => {}
            Kind::Consul(store) => store.keep_good(policy, overlay).await,
        }
    }

    /// A version by number; `None` = not there, or no longer.
    pub async fn get(&self, version: u64) -> Result<Option<StoredPolicy>, StoreError> {
        match &self.0 {
            Kind::Embedded(store) => {
                let store = Arc::clone(store);
                blocking(move || store.get(version)).await
            }
            Kind::Consul(store) => store.get(version).await,
        }
    }

    /// All versions that are kept, latest first.
    pub async fn history(&self) -> Result<Vec<PolicyInfo>, StoreError> {
        match &self.0 {
            Kind::Embedded(store) => {
                let store = Arc::clone(store);
                blocking(move || store.history()).await
            }
            Kind::Consul(store) => store.history().await,
        }
    }

    /// The same as [`Self::put_guarded`], whatever it takes away.
    pub async fn put(
        &self,
        policy: NewPolicy,
        expected: Precondition,
    ) -> Result<Arc<StoredPolicy>, PutError> {
        self.put_guarded(policy, expected, Guard::none()).await
    }

    /// Stores a version and publishes it, if the guard lets it replace the latest one. When this answers, it is on disk, or a
    /// majority of Consul's servers has it.
    ///
    /// A text equal to the latest one's makes no new version: the latest is the answer, whatever is expected,
    /// so that a put whose answer was lost can be repeated. Dropping the future does not undo a put that was
    /// begun.
    pub async fn put_guarded(
        &self,
        policy: NewPolicy,
        expected: Precondition,
        guard: Guard,
    ) -> Result<Arc<StoredPolicy>, PutError> {
        let bytes = policy.text.len();
        if bytes > MAX_TEXT {
            return Err(PutError::TooLarge { bytes });
        }
        match &self.0 {
            Kind::Embedded(store) => {
                let store = Arc::clone(store);
                blocking(move || store.put(policy, &expected, &guard)).await
            }
            Kind::Consul(store) => store.put(policy, &expected, &guard).await,
        }
    }
}

/// Runs a call that waits for the disk where it blocks nobody.
async fn blocking<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    call: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    spawn_blocking(call).await.unwrap_or_else(|_| Err(StoreError::Stopping.into()))
}
