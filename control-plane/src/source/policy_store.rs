//! The policy store: versions of the policy document, the latest of which is published.
//!
//! It keeps text, exactly as given; whether the text is a valid policy is the caller's question, asked before
//! [`PolicyStore::put`].

mod database;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use database::Store;

/// Versions that are kept; older ones go as new ones come.
pub const KEPT_VERSIONS: u64 = 100;

/// Longest text of one version in bytes: 32,767 worlds listed one by one take a quarter of it.
pub const MAX_TEXT: usize = 4 << 20;

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
    /// A latest version with this etag: `If-Match`.
    Etag(String),
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
    /// The text is longer than [`MAX_TEXT`]; nothing was changed.
    #[error("the document has {bytes} bytes, more than {MAX_TEXT}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The disk failed. The version may be stored or not, but not in part; putting the same again tells.
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
}

/// A store in one file of `data_dir`, embedded in this process. Clones share it. The file is closed when the
/// last clone is dropped.
#[derive(Clone, Debug)]
pub struct PolicyStore {
    store: Arc<Store>,
}

impl PolicyStore {
    /// Opens `data_dir/policy.redb`; makes it and the directory if they are missing. After a crash this takes
    /// as long as reading the file.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let data_dir = data_dir.to_owned();
        let store = blocking(move || Store::open(&data_dir)).await?;
        Ok(Self { store: Arc::new(store) })
    }

    /// The latest version; `None` = nothing was ever put. From memory.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<StoredPolicy>> {
        self.store.latest.borrow().clone()
    }

    /// The latest version, now and whenever there is a new one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<StoredPolicy>>> {
        self.store.latest.subscribe()
    }

    /// A version by number; `None` = not there, or no longer.
    pub async fn get(&self, version: u64) -> Result<Option<StoredPolicy>, StoreError> {
        let store = Arc::clone(&self.store);
        blocking(move || store.get(version)).await
    }

    /// All versions that are kept, latest first.
    pub async fn history(&self) -> Result<Vec<PolicyInfo>, StoreError> {
        let store = Arc::clone(&self.store);
        blocking(move || store.history()).await
    }

    /// Stores a version and publishes it. When this answers, it is on disk.
    ///
    /// A text equal to the latest one's makes no new version: the latest is the answer, whatever is expected,
    /// so that a put whose answer was lost can be repeated. Dropping the future does not undo a put that was
    /// begun.
    pub async fn put(
        &self,
        policy: NewPolicy,
        expected: Precondition,
    ) -> Result<Arc<StoredPolicy>, PutError> {
        let bytes = policy.text.len();
        if bytes > MAX_TEXT {
            return Err(PutError::TooLarge { bytes });
        }
        let store = Arc::clone(&self.store);
        blocking(move || store.put(policy, &expected)).await
    }
}

/// Runs a call that waits for the disk where it blocks nobody.
async fn blocking<T: Send + 'static, E: From<StoreError> + Send + 'static>(
    call: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    spawn_blocking(call).await.unwrap_or_else(|_| Err(StoreError::Stopping.into()))
}
