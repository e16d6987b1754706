//! The roots on disk, for their owner's eyes alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::authority::Authority;
use crate::source::saved;

/// Name of the file in `data_dir`.
const FILE: &str = "mesh-ca.json";

/// Beside it while the authority is new: proxies that come with another one keep that. Removing it says that the new one is meant.
const NEW: &str = "mesh-ca.new";

const NEW_SAYS: &str = "The authority in mesh-ca.json was made anew. Proxies that come with certificates of another one keep them.\n\
    Remove this file to give them certificates of the new authority, or restore mesh-ca.json.\n";

/// Raised when older versions could not read the file.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    trust_domain: String,
    roots: Vec<Authority>,
}

/// Why the roots cannot be used. A new authority beside an old one would be believed by nobody, so none is made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its content is not what we wrote.
    #[error("{}: {problem}; restore it, or remove it to start a new authority", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Store {
    path: PathBuf,
    trust_domain: String,
}

impl Store {
    /// Notes that the authority is new, before it is kept for the first time.
    pub(super) fn note_new(&self) -> io::Result<()> {
        saved::replace(self.directory(), NEW, NEW_SAYS.as_bytes())
    }

    /// Whether the authority is new, and nobody has said that it is meant.
    pub(super) fn is_new(&self) -> bool {
        self.path.with_file_name(NEW).exists()
    }

    /// Where it is kept.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Notes that the authority is known to all: it has had a successor since it was new.
    pub(super) fn note_known(&self) -> io::Result<()> {
        match fs::remove_file(self.path.with_file_name(NEW)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn new(data_dir: &Path, trust_domain: &str) -> Self {
        Self { path: data_dir.join(FILE), trust_domain: trust_domain.to_owned() }
    }

    /// The roots of earlier runs; none if there was no run.
    pub(super) fn load(&self) -> Result<Vec<Authority>, StoreError> {
        let unusable = |problem| StoreError::Unusable { path: self.path.clone(), problem };
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::Unreadable { path: self.path.clone(), source }),
        };
        // The position alone: serde's text may quote what it found, which may be a key.
        let document: Document = serde_json::from_slice(&bytes)
            .map_err(|e| unusable(format!("not as it was written (line {})", e.line())))?;
        if document.format != FORMAT {
            return Err(unusable(format!("its format is {}, not {FORMAT}", document.format)));
        }
        if document.trust_domain != self.trust_domain {
            return Err(unusable(format!("it is of the trust domain {}", document.trust_domain)));
        }
        Ok(document.roots)
    }

    /// Replaces the file at once and durably: a crash leaves the old or the new one. Blocks on the disk.
    pub(super) fn save(&self, roots: &[Authority]) -> io::Result<()> {
        let document =
            Document { format: FORMAT, trust_domain: self.trust_domain.clone(), roots: roots.to_vec() };
        let bytes = Zeroizing::new(serde_json::to_vec_pretty(&document)?);
        saved::replace(self.directory(), FILE, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn keeps_roots_for_the_same_trust_domain_and_for_the_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), "a.internal");
        assert_eq!(store.load().unwrap(), []);
        let root = Authority::create("a.internal", SystemTime::now(), Duration::from_mins(1)).unwrap();
        fs::write(directory.path().join("mesh-ca.json.tmp"), "left by a crash").unwrap();
        store.save(std::slice::from_ref(&root)).unwrap();
        assert_eq!(store.load().unwrap(), [root]);
        assert_eq!(fs::metadata(&store.path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = Store::new(directory.path(), "b.internal").load().unwrap_err().to_string();
        assert!(other.contains("it is of the trust domain a.internal"), "{other}");
    }

    #[test]
    fn a_new_authority_is_new_until_somebody_says_that_it_is_meant() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), "a.internal");
        assert!(!store.is_new());
        store.note_new().unwrap();
        assert!(Store::new(directory.path(), "a.internal").is_new(), "after a restart, too");
        store.note_known().unwrap();
        store.note_known().unwrap();
        assert!(!store.is_new());
    }

    #[test]
    fn what_it_cannot_read_it_neither_replaces_nor_shows() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path(), "a.internal");
        for bad in
            ["", "{\"format\": \"PRIVATE\"}", "{\"format\":2,\"trust_domain\":\"a.internal\",\"roots\":[]}"]
        {
            fs::write(&store.path, bad).unwrap();
            let error = store.load().unwrap_err().to_string();
            assert!(error.contains("mesh-ca.json") && !error.contains("PRIVATE"), "{error}");
            assert_eq!(fs::read_to_string(&store.path).unwrap(), bad);
        }
    }
}
