//! Files that survive a crash as a whole, in a folder that is for its owner alone.
//!
//! Modes are set and not left to the umask, and no file is made by way of a name that somebody else may have put there.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::process::geteuid;

/// A folder for its owner alone, and a file in it.
const FOLDER: u32 = 0o700;
const PRIVATE: u32 = 0o600;

/// What others than the owner may do.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;

/// Everybody may write there, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// What is written into `data_dir`. Others' files there are left alone.
const OURS: [&str; 11] = [
    "address-key",
    "consul.json",
    "filter-module.json",
    "filter-module.wasm",
    "gateway-rules.json",
    "mesh-ca.json",
    "mesh-ca.new",
    "policy-consul.json",
    "policy-file.held",
    "policy.redb",
    // Of a volume's own file system.
    "lost+found",
];

/// Whether we write a file of this name, or of one that begins like this for what is new or put aside.
fn is_ours(name: &OsStr) -> bool {
    let name = name.as_bytes();
    OURS.iter().any(|own| matches!(name.strip_prefix(own.as_bytes()), Some([] | [b'.', ..])))
}

/// Makes the folder if it is missing. One that others may look into, with our files in it, is mended, and that is said; one
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
    let own = check_owner(folder, &about)?;
    let (mut ours, mut stranger) = (Vec::new(), None);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_ours(&entry.file_name()) {
            ours.push(entry.path());
        } else {
            stranger = Some(entry.path());
        }
    }
    let writable = about.mode() & OTHERS_WRITE != 0;
    if writable && about.mode() & STICKY != 0 {
        return Err(refused(&format!("{} is shared with other users", folder.display())));
    }
    match stranger.filter(|_| own) {
        None => mend(folder, &about, FOLDER)?,
        Some(stranger) if writable => {
            let (folder, stranger) = (folder.display(), stranger.display());
            return Err(refused(&format!(
                "others can write to {folder}, and it is not for this process alone: {stranger} is there, too"
            )));
        }
        // It may be meant to be read; what we write there cannot be.
        Some(_) => {}
    }
    for path in ours {
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

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, format!("{why}; name a folder that does not exist yet"))
}

/// Takes others' rights to `path` away.
fn mend(path: &Path, about: &Metadata, mode: u32) -> io::Result<()> {
    let own = check_owner(path, about)?;
    let found = about.mode() & 0o7777;
    if found & OTHERS == 0 {
        return Ok(());
    }
    let (shown, kept) = (path.display(), found & mode);
    // A volume that was given to our group, as Kubernetes does with `fsGroup`: chmod would lock us out.
    if !own {
        tracing::warn!(path = %shown, "others than this process can open it (mode {found:o}), and only root can change that");
        return Ok(());
    }
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

/// Whether it is ours, and so ours to change; only the superuser may own it besides.
fn check_owner(path: &Path, about: &Metadata) -> io::Result<bool> {
    is_owned(about.uid(), geteuid().as_raw()).map_err(|why| {
        let message = format!("{} {why}: chown it, remove it, or name another folder", path.display());
        io::Error::new(ErrorKind::PermissionDenied, message)
    })
}

fn is_owned(owner: u32, us: u32) -> Result<bool, String> {
    match owner {
        _ if owner == us => Ok(true),
        0 => Ok(false),
        _ => Err(format!("belongs to the user {owner}, and this process runs as {us}")),
    }
}

/// Makes an empty file for its owner alone where there is none. Blocks on the disk.
pub(crate) fn reserve(path: &Path) -> io::Result<()> {
    debug_assert!(path.file_name().is_some_and(is_ours), "{} is missing in `OURS`", path.display());
    match create(path, PRIVATE) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Replaces `directory/name` at once and durably: a crash leaves the old or the new one. It is for its owner alone.
/// Blocks on the disk.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    debug_assert!(is_ours(name.as_ref()), "{name} is missing in `OURS`");
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

    const OWN: [&str; 3] = ["consul.json", "address-key.tmp", "gateway-rules.json.corrupt"];

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn folder_and_files_are_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("a/b");
        prepare(&folder).unwrap();
        replace(&folder, "consul.json", b"1").unwrap();
        reserve(&folder.join("policy.redb")).unwrap();
        assert_eq!(
            (mode(&folder), mode(&folder.join("consul.json")), mode(&folder.join("policy.redb"))),
            (0o700, 0o600, 0o600)
        );
        fs::write(folder.join("policy.redb"), "kept").unwrap();
        reserve(&folder.join("policy.redb")).unwrap();
        assert_eq!(fs::read(folder.join("policy.redb")).unwrap(), b"kept");
        replace_as(0o644, &folder, "z", b"").unwrap();
        assert_eq!(mode(&folder.join("z")), 0o644);
    }

    #[test]
    fn what_is_wider_is_mended() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("data");
        fs::create_dir(&folder).unwrap();
        fs::create_dir(folder.join("lost+found")).unwrap();
        for name in OWN {
            fs::write(folder.join(name), "1").unwrap();
            fs::set_permissions(folder.join(name), Permissions::from_mode(0o664)).unwrap();
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o2775)).unwrap();
        symlink("/etc/hostname", folder.join("mesh-ca.json")).unwrap();
        prepare(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert!(OWN.iter().all(|name| mode(&folder.join(name)) == 0o600));
        assert_eq!(mode(Path::new("/etc/hostname")) & 0o044, 0o044, "what a link leads to is not touched");
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("opt");
        fs::create_dir(&folder).unwrap();
        let program = folder.join("realmgate");
        for name in ["realmgate", "consul.json"] {
            fs::write(folder.join(name), "1").unwrap();
            fs::set_permissions(folder.join(name), Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        prepare(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&program), mode(&folder.join("consul.json"))), (0o755, 0o755, 0o600));

        fs::set_permissions(&folder, Permissions::from_mode(0o775)).unwrap();
        let error = prepare(&folder).unwrap_err().to_string();
        assert!(error.contains("others can write to") && error.contains("opt/realmgate is there"), "{error}");
        fs::remove_file(&program).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
        let error = prepare(&folder).unwrap_err().to_string();
        assert!(error.contains("is shared with other users"), "{error}");
        assert_eq!(mode(&folder), 0o1777);
    }

    #[test]
    fn a_volume_of_root_serves_and_what_is_another_users_does_not() {
        assert_eq!((is_owned(7, 7), is_owned(0, 0), is_owned(0, 7)), (Ok(true), Ok(true), Ok(false)));
        for (owner, us) in [(8, 7), (7, 0)] {
            let why = is_owned(owner, us).unwrap_err();
            assert!(why.starts_with(&format!("belongs to the user {owner}")), "{why}");
        }
    }

    #[test]
    fn a_link_in_the_way_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        for way in ["consul.json.tmp", "consul.json"] {
            symlink(&victim, directory.path().join(way)).unwrap();
            replace(directory.path(), "consul.json", b"new").unwrap();
            assert_eq!(fs::read(&victim).unwrap(), b"untouched", "{way}");
            let x = directory.path().join("consul.json");
            assert_eq!(fs::read(&x).unwrap(), b"new");
            assert!(fs::symlink_metadata(&x).unwrap().is_file());
            fs::remove_file(&x).unwrap();
        }
        symlink(&victim, directory.path().join("policy.redb")).unwrap();
        reserve(&directory.path().join("policy.redb")).unwrap();
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
        fs::write(folder.join("consul.json"), "1").unwrap();
        for given in [folder.join("consul.json"), folder.clone()] {
            std::os::unix::fs::chown(&given, Some(12_345), None).unwrap();
            let error = prepare(&folder).unwrap_err().to_string();
            assert!(error.contains("belongs to the user 12345") && error.contains("chown"), "{error}");
            std::os::unix::fs::chown(&given, Some(0), None).unwrap();
        }
        prepare(&folder).unwrap();
    }
}
