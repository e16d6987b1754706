//! The filter module as a source: a file whose hash says when it was replaced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::mesh::{FilterModule, ModuleLocation};

/// How often the file is looked at; a replaced module is a deployment, not an emergency.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The module's file and what was read of it.
pub struct FilterModuleSource {
    path: PathBuf,
    location: ModuleLocation,
    publish: watch::Sender<FilterModule>,
    content: watch::Sender<Arc<Content>>,
}

/// What the file held when it was last read.
#[derive(Debug, Default)]
pub struct Content {
    /// SHA-256 in hex; empty if it could not be read.
    pub sha256: String,
    /// The module itself.
    pub bytes: Bytes,
    /// Why it could not be read.
    pub error: Option<String>,
}

/// Size and time of a file: what changes when it is replaced.
type Stamp = Option<(u64, SystemTime)>;

impl FilterModuleSource {
    /// Reads the module at `path` once.
    #[must_use]
    pub fn new(path: PathBuf, location: ModuleLocation) -> Self {
        let content = Arc::new(read(&path));
        let module = FilterModule { sha256: content.sha256.clone(), location: location.clone() };
        if let Some(error) = &content.error {
            tracing::warn!(path = %path.display(), error, "cannot read the filter module");
        }
        Self { path, location, publish: watch::channel(module).0, content: watch::channel(content).0 }
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

    /// Looks at the file for ever. A file that vanishes or is half written keeps the last module in force.
    pub async fn watch(&self) {
        let mut seen = stamp(&self.path);
        let mut last = seen;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = stamp(&self.path);
            // Only a file that stood still for a whole look is read: a copy in progress is not a module.
            let settled = now == last && now != seen && now.is_some();
            last = now;
            if !settled {
                continue;
            }
            seen = now;
            let path = self.path.clone();
            let Ok(content) = tokio::task::spawn_blocking(move || read(&path)).await else { continue };
            if content.error.is_none() {
                tracing::info!(sha256 = content.sha256, "the filter module was replaced");
                let module = FilterModule { sha256: content.sha256.clone(), location: self.location.clone() };
                self.content.send_replace(Arc::new(content));
                self.publish.send_if_modified(|current| {
                    let changed = *current != module;
                    *current = module;
                    changed
                });
            }
        }
    }
}

fn read(path: &Path) -> Content {
    match std::fs::read(path) {
        Ok(bytes) if bytes.starts_with(b"\0asm") => {
            Content { sha256: hex::encode(Sha256::digest(&bytes)), bytes: bytes.into(), error: None }
        }
        Ok(_) => Content { error: Some("not a WebAssembly module".to_owned()), ..Content::default() },
        Err(error) => Content { error: Some(error.to_string()), ..Content::default() },
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}
