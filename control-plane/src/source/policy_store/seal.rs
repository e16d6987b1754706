//! Whether the file at a path is still the one that was opened, as we left it: another one, or one that somebody emptied or
//! overwrote, keeps nothing that we write.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The database's header with what was committed last; it changes with every commit.
const HEAD: u64 = 512;

/// What tells a file from another one, and from itself after others wrote to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    device: u64,
    inode: u64,
    bytes: u64,
    head: Vec<u8>,
}

impl Seal {
    /// Of the file that is there now.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head)?;
        Ok(Self { device: about.dev(), inode: about.ino(), bytes: about.len(), head })
    }

    /// What was done to the file since; `None` = nothing.
    pub(super) fn fault(&self, path: &Path) -> Option<String> {
        match Self::of(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("the file is gone".to_owned()),
            Err(error) => Some(format!("the file cannot be looked at: {error}")),
            Ok(now) if !self.is_same_file(&now) => Some("another file has taken its place".to_owned()),
            Ok(now) if now != *self => Some("somebody else has written to the file".to_owned()),
            Ok(_) => None,
        }
    }

    pub(super) const fn is_same_file(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}
