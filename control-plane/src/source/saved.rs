//! Files that survive a crash as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces `directory/name` at once and durably: a crash leaves the old or the new one. Blocks on the disk.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    // The rename itself is durable only when the directory is.
    File::open(directory)?.sync_all()
}
