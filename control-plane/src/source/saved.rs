//! Files that survive a crash as a whole, in a folder that is for its owner alone.
//!
//! Modes are set and not left to the umask, and no file is made by way of a name that somebody else may have put there.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::process::geteuid;

/// A folder for its owner alone, and a file in it.
const FOLDER: u32 = 0o700;
const PRIVATE: u32 = 0o600;

/// What others than the owner may do.
const OTHERS: u32 = 0o077;

/// Makes the folder if it is missing. One that others may look into, with what is in it, is mended, and that is said; one
/// that is another user's is refused, since that user could put back what is mended. Blocks on the disk.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(FOLDER).create(folder) {
        // Whatever the umask took away.
        Ok(()) => return fs::set_permissions(folder, Permissions::from_mode(FOLDER)),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    let about = fs::metadata(folder)?;
    if !about.is_dir() {
        return Err(io::Error::new(ErrorKind::NotADirectory, "it is no directory"));
    }
    mend(folder, &about, FOLDER)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // It may have gone since.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if about.is_file() {
            mend(&path, &about, PRIVATE)?;
        } else {
            check_owner(&path, &about)?;
        }
    }
    Ok(())
}

/// Takes others' rights to `path` away.
fn mend(path: &Path, about: &Metadata, mode: u32) -> io::Result<()> {
    check_owner(path, about)?;
    let found = about.mode() & 0o7777;
    if found & OTHERS == 0 {
        return Ok(());
    }
    let (shown, kept) = (path.display(), found & mode);
    match fs::set_permissions(path, Permissions::from_mode(kept)) {
        Ok(()) => {
            tracing::warn!(path = %shown, "others could read it or write to it (mode {found:o}); it is now {kept:o}");
            Ok(())
        }
        // Nobody can put anything there.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            tracing::warn!(path = %shown, "others can read it (mode {found:o}), and it is on a read-only file system");
            Ok(())
        }
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "others can read {shown} or write to it (mode {found:o}), and that cannot be changed: {error}; chmod it to {kept:o}, \
                 or name a folder that does not exist yet"
            ),
        )),
    }
}

/// Only we and the superuser may own what is ours.
fn check_owner(path: &Path, about: &Metadata) -> io::Result<()> {
    let (owner, us) = (about.uid(), geteuid().as_raw());
    if owner == us || owner == 0 {
        return Ok(());
    }
    let path = path.display();
    let message = format!(
        "{path} belongs to the user {owner}, and this process runs as {us}: chown it, remove it, or name another folder"
    );
    Err(io::Error::new(ErrorKind::PermissionDenied, message))
}

/// Makes an empty file for its owner alone where there is none. Blocks on the disk.
pub(crate) fn reserve(path: &Path) -> io::Result<()> {
    match create(path, PRIVATE) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Replaces `directory/name` at once and durably: a crash leaves the old or the new one. It is for its owner alone.
/// Blocks on the disk.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_as(PRIVATE, directory, name, bytes)
}

/// [`replace`] with another mode, for what is no secret.
pub(crate) fn replace_as(mode: u32, directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = match create(&temporary, mode) {
        // Left by a crash, or put there: the name is freed, whatever it may lead to.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&temporary)?;
            create(&temporary, mode)?
        }
        file => file?,
    };
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    // The rename itself is durable only when the directory is.
    File::open(directory)?.sync_all()
}

/// A file that was not there before; a link of its name is not followed.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // Whatever the umask took away.
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn folder_and_files_are_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("a/b");
        prepare(&folder).unwrap();
        replace(&folder, "x", b"1").unwrap();
        reserve(&folder.join("y")).unwrap();
        assert_eq!((mode(&folder), mode(&folder.join("x")), mode(&folder.join("y"))), (0o700, 0o600, 0o600));
        fs::write(folder.join("y"), "kept").unwrap();
        reserve(&folder.join("y")).unwrap();
        assert_eq!(fs::read(folder.join("y")).unwrap(), b"kept");
        replace_as(0o644, &folder, "z", b"").unwrap();
        assert_eq!(mode(&folder.join("z")), 0o644);
    }

    #[test]
    fn what_is_wider_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("data");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("x"), "1").unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o2775)).unwrap();
        fs::set_permissions(folder.join("x"), Permissions::from_mode(0o664)).unwrap();
        symlink("/etc/hostname", folder.join("link")).unwrap();
        prepare(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&folder.join("x"))), (0o700, 0o600));
        assert_eq!(mode(Path::new("/etc/hostname")) & 0o044, 0o044, "what a link leads to is not touched");
    }

    #[test]
    fn a_link_in_the_way_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        for way in ["x.tmp", "x"] {
            symlink(&victim, directory.path().join(way)).unwrap();
            replace(directory.path(), "x", b"new").unwrap();
            assert_eq!(fs::read(&victim).unwrap(), b"untouched", "{way}");
            let x = directory.path().join("x");
            assert_eq!(fs::read(&x).unwrap(), b"new");
            assert!(fs::symlink_metadata(&x).unwrap().is_file());
            fs::remove_file(&x).unwrap();
        }
        symlink(&victim, directory.path().join("y")).unwrap();
        reserve(&directory.path().join("y")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    }

    #[test]
    fn what_is_another_users_is_refused_in_words() {
        // Only the superuser can give files away.
        if !geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("data");
        prepare(&folder).unwrap();
        fs::write(folder.join("x"), "1").unwrap();
        for given in [folder.join("x"), folder.clone()] {
            std::os::unix::fs::chown(&given, Some(12_345), None).unwrap();
            let error = prepare(&folder).unwrap_err().to_string();
            assert!(error.contains("belongs to the user 12345") && error.contains("chown"), "{error}");
            std::os::unix::fs::chown(&given, Some(0), None).unwrap();
        }
        prepare(&folder).unwrap();
    }
}
