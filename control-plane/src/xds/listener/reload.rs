//! A value read from files that follows them: certificates and tokens are replaced while the process runs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest, Sha256};

/// Whoever rotates waits minutes for it; whoever tries it out does not want to wait long.
const EVERY: Duration = Duration::from_secs(2);
/// Certificates and tokens are a few kilobytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The latest good value. Reading it is a lock held for the copy of a pointer.
#[derive(Debug)]
pub(super) struct Reloading<T>(RwLock<Arc<T>>);

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
    #[error("{0}")]
    Content(String),
}

/// The files of a value, and what their content was when it was last looked at. Only hashes of it stay.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    seen: Option<[u8; 32]>,
}

/// A value and what it takes to follow its files.
pub(super) struct Following<T> {
    value: Arc<Reloading<T>>,
    files: Files,
    load: Load<T>,
}

/// Makes a value of the files' contents, in their order.
type Load<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send>;

impl<T> Reloading<T> {
    /// A value that follows no file so far.
    pub(super) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The latest good value.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T> Following<T> {
    /// Reads the first value.
    pub(super) fn open(
        mut files: Files,
        load: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + 'static,
    ) -> Result<Self, LoadError> {
        let contents = files.read()?.unwrap_or_default();
        let value = load(&contents).map_err(LoadError::Content)?;
        Ok(Self { value: Arc::new(Reloading::new(value)), files, load: Box::new(load) })
    }

    /// The value, which is replaced while [`Self::follow`] runs.
    pub(super) fn value(&self) -> Arc<Reloading<T>> {
        Arc::clone(&self.value)
    }

    /// Looks at the files every few seconds for ever. `taken` hears what became of each change.
    pub(super) async fn follow(self, taken: impl Fn(Result<(), LoadError>)) {
        let Self { value, mut files, load } = self;
        loop {
            tokio::time::sleep(EVERY).await;
            // A folder on the network may keep a thread waiting.
            let looking = tokio::task::spawn_blocking(move || {
                let contents = files.read();
                (files, contents)
            });
            let Ok((looked_at, contents)) = looking.await else { return };
            files = looked_at;
            match contents {
                Ok(None) => {}
                Ok(Some(contents)) => {
                    let loaded = load(&contents).map_err(LoadError::Content);
                    taken(loaded.map(|new| value.replace(new)));
                }
                Err(error) => taken(Err(error)),
            }
        }
    }
}

impl Files {
    pub(super) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { paths: paths.into_iter().collect(), seen: None }
    }

    /// What they hold, if that is another thing than the last time. An error, too, is told once. The files are
    /// small: reading them costs less than being wrong about their times would.
    pub(super) fn read(&mut self) -> Result<Option<Vec<Vec<u8>>>, LoadError> {
        let read = self.paths.iter().map(read).collect::<Result<Vec<_>, _>>();
        let mut hash = Sha256::new();
        match &read {
            Ok(contents) => contents.iter().for_each(|content| {
                hash.update(content.len().to_be_bytes());
                hash.update(content);
            }),
            Err(error) => hash.update(error.to_string()),
        }
        let hash: [u8; 32] = hash.finalize().into();
        if self.seen.replace(hash) == Some(hash) {
            return Ok(None);
        }
        read.map(Some)
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, LoadError> {
    let read = || {
        if std::fs::metadata(path)?.len() > MAX_FILE_BYTES {
            return Ok(None);
        }
        std::fs::read(path).map(Some)
    };
    match read() {
        Ok(Some(content)) => Ok(content),
        Ok(None) => Err(LoadError::TooLarge(path.clone())),
        Err(source) => Err(LoadError::Read { path: path.clone(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_an_error_too() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "2").unwrap();
        let mut files = Files::new([one.clone(), two.clone()]);
        assert_eq!(files.read().unwrap(), Some(vec![b"1".to_vec(), b"2".to_vec()]));
        assert_eq!(files.read().unwrap(), None);
        std::fs::write(&one, "12").unwrap();
        std::fs::write(&two, "").unwrap();
        assert_eq!(files.read().unwrap(), Some(vec![b"12".to_vec(), Vec::new()]), "moved over the border");
        std::fs::remove_file(&one).unwrap();
        assert!(files.read().is_err());
        assert_eq!(files.read().unwrap(), None, "told twice");
        std::fs::write(&one, "12").unwrap();
        assert!(files.read().unwrap().is_some());
        std::fs::write(&two, vec![0; (1 << 20) + 1]).unwrap();
        assert!(matches!(files.read(), Err(LoadError::TooLarge(_))));
    }
}
