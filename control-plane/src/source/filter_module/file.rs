//! The module's file: reading it when it stands still, and the copy of the last good one.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::check::check;
use super::places::listed;
use crate::source::saved;

/// Larger files are not read: no build of the filter comes near.
const MAX_BYTES: u64 = 64 << 20;

/// The copy of the last good module in `data_dir`, and where it came from.
pub(super) const COPY: &str = "filter-module.wasm";
const COPY_OF: &str = "filter-module.json";

/// A module that may be given to proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// SHA-256 in hex.
    pub(super) sha256: String,
    pub(super) bytes: Bytes,
    /// Where it was read, absolute.
    pub(super) path: PathBuf,
}

/// Why there is no module, or no new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A short name for metrics: `missing`, `unreadable`, `too_large`, or what is wrong with the content.
    pub reason: &'static str,
    /// What is wrong, and where.
    pub message: String,
}

/// What changes when a file is replaced or written: place, inode, size, time of its content and of its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(PathBuf, u64, u64, [i64; 4]);

/// The first of `places` that exists, as it is now.
pub(super) fn stamp(places: &[PathBuf]) -> Option<Stamp> {
    let found = |path: &PathBuf| Some((path.clone(), fs::metadata(path).ok().filter(Metadata::is_file)?));
    let (path, file) = places.iter().find_map(found)?;
    let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
    Some(Stamp(path, file.ino(), file.size(), times))
}

/// Reads and checks what stands at the first of `places` that has a file.
pub(super) fn read(places: &[PathBuf]) -> Result<Module, Problem> {
    let path = match stamp(places) {
        Some(Stamp(path, _, size, _)) if size <= MAX_BYTES => path,
        Some(Stamp(path, _, size, _)) => {
            let message = format!(
                "{} has {size} bytes, more than {MAX_BYTES}: no build of the filter has",
                path.display()
            );
            return Err(Problem { reason: "too_large", message });
        }
        None => return Err(missing(places)),
    };
    let bytes = fs::read(&path).map_err(|error| unreadable(&path, &error))?;
    good(path, bytes.into())
}

fn good(path: PathBuf, bytes: Bytes) -> Result<Module, Problem> {
    check(&bytes).map_err(|error| Problem {
        reason: error.label(),
        message: format!("{}: {error}", path.display()),
    })?;
    Ok(Module { sha256: hex::encode(Sha256::digest(&bytes)), bytes, path })
}

/// Says every place that was looked at.
pub(super) fn missing(places: &[PathBuf]) -> Problem {
    let message = match places {
        [one] => {
            format!("there is no file {}: set filter.path, or build it with `make build`", one.display())
        }
        many => format!(
            "no filter module found; looked for {}: set filter.path, or build it with `make build`",
            listed(many)
        ),
    };
    Problem { reason: "missing", message }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Problem { reason: "unreadable", message: format!("cannot read {}: {error}", path.display()) }
}

/// What is kept of where a copy came from.
#[derive(Serialize, Deserialize)]
struct CopyOf {
    path: PathBuf,
    sha256: String,
}

/// Keeps a copy for the next start.
pub(super) fn save(data_dir: &Path, module: &Module) -> io::Result<()> {
    let origin = CopyOf { path: module.path.clone(), sha256: module.sha256.clone() };
    saved::replace(data_dir, COPY, &module.bytes)?;
    saved::replace(data_dir, COPY_OF, &serde_json::to_vec(&origin)?)
}

/// The copy that an earlier run left, if it is whole.
pub(super) fn saved_copy(data_dir: &Path) -> Option<Module> {
    let origin: CopyOf = serde_json::from_slice(&fs::read(data_dir.join(COPY_OF)).ok()?).ok()?;
    let copy = good(origin.path, fs::read(data_dir.join(COPY)).ok()?.into()).ok()?;
    (copy.sha256 == origin.sha256).then_some(copy)
}
