//! The keys by which edges hash client addresses: made from one secret, each for its time. Who has a key learns nothing of
//! those before and after it; replicas that share the secret give the same ones.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use realmgate_filter::privacy::HashKey;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::rustls::crypto::ring;
use zeroize::Zeroizing;

use super::saved;
use crate::mesh::EdgeSettings;

/// Name of the file in `data_dir` that keeps a secret of our own.
const FILE: &str = "address-key";

/// Bytes of a secret: of our own, and the least and the most of a file's.
const LENGTH: usize = 32;
const MAX_LENGTH: u64 = 4 << 10;

/// What else might be made from the same secret has another name.
const PURPOSE: &[u8] = b"realmgate client address";

/// A clock that is set is noticed after this.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct AddressKeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The secret, and how long a key made from it is used.
pub struct AddressKeys {
    secret: Zeroizing<Vec<u8>>,
    lifetime: Duration,
}

impl AddressKeys {
    /// By the secret in `file`, or one of our own in `data_dir`, which is made where there is none. Blocks on the disk.
    pub fn open(file: Option<&Path>, data_dir: &Path, lifetime: Duration) -> Result<Self, AddressKeyError> {
        let secret = match file {
            Some(path) => read(path)
                .map_err(|error| AddressKeyError { path: path.to_owned(), problem: error.to_string() })?,
            None => read(&data_dir.join(FILE)).unwrap_or_else(|error| {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(%error, "the secret of hashed client addresses in data_dir cannot be used; making another one");
                }
                make(data_dir)
            }),
        };
        Ok(Self { secret, lifetime: lifetime.max(Duration::from_secs(1)) })
    }

    /// The key of a moment.
    #[must_use]
    pub fn at(&self, now: SystemTime) -> HashKey {
        let mut hash = Sha256::new();
        hash.update(&*self.secret);
        hash.update(PURPOSE);
        hash.update(self.lifetime.as_secs().to_be_bytes());
        hash.update(self.turn(now).to_be_bytes());
        let mut bits = [0; 16];
        for (bit, byte) in bits.iter_mut().zip(hash.finalize()) {
            *bit = byte;
        }
        HashKey::new(u128::from_be_bytes(bits))
    }

    /// The how many-th lifetime of a key a moment is in.
    fn turn(&self, now: SystemTime) -> u64 {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        since.checked_div(self.lifetime.as_secs()).unwrap_or_default()
    }

    /// How long the key of a moment is good from then on.
    fn left(&self, now: SystemTime) -> Duration {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let end =
            self.lifetime.saturating_mul(u32::try_from(self.turn(now).saturating_add(1)).unwrap_or(u32::MAX));
        end.saturating_sub(since)
    }

    /// Gives edges the key of the moment, for as long as anybody listens.
    pub async fn rotate(self, edge: watch::Sender<Arc<EdgeSettings>>) {
        while !edge.is_closed() {
            let now = SystemTime::now();
            let key = Some(self.at(now));
            edge.send_if_modified(|settings| {
                let changed = settings.address_key != key;
                if changed {
                    Arc::make_mut(settings).address_key.clone_from(&key);
                }
                changed
            });
            sleep(self.left(now).min(LOOK_EVERY)).await;
        }
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut secret = Zeroizing::new(Vec::new());
    File::open(path)?.take(MAX_LENGTH + 1).read_to_end(&mut secret)?;
    let length = secret.len();
    if length < LENGTH || u64::try_from(length).is_ok_and(|length| length > MAX_LENGTH) {
        let problem = format!(
            "a secret has {LENGTH} to {MAX_LENGTH} bytes, and this has not; make one, such as by `openssl rand -hex 32`"
        );
        return Err(io::Error::new(ErrorKind::InvalidData, problem));
    }
    Ok(secret)
}

/// A new secret, kept for the next start.
fn make(data_dir: &Path) -> Zeroizing<Vec<u8>> {
    let mut secret = Zeroizing::new(vec![0; LENGTH]);
    if ring::default_provider().secure_random.fill(&mut secret).is_err() {
        // The system has no randomness to give, which ends TLS as well.
        tracing::error!("no random secret for hashed client addresses");
    }
    if let Err(error) = saved::replace(data_dir, FILE, &secret) {
        tracing::warn!(%error, "cannot keep the secret of hashed client addresses; after a restart they are hashed by another one");
    }
    secret
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn keys_change_with_their_time_and_are_the_same_for_who_shares_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let one = AddressKeys::open(None, dir.path(), HOUR).unwrap();
        let now = SystemTime::UNIX_EPOCH + HOUR * 1_000;
        let end = Duration::from_secs(3599);
        assert_eq!(one.at(now), one.at(now + end));
        assert_ne!(one.at(now), one.at(now + HOUR));
        assert_eq!((one.left(now), one.left(now + end)), (HOUR, Duration::from_secs(1)));

        let again = AddressKeys::open(None, dir.path(), HOUR).unwrap();
        assert_eq!(one.at(now), again.at(now), "after a restart");
        let shared = AddressKeys::open(Some(&dir.path().join(FILE)), Path::new("/nowhere"), HOUR).unwrap();
        assert_eq!(one.at(now), shared.at(now), "of a replica");
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join(FILE), "damaged").unwrap();
        assert_ne!(one.at(now), AddressKeys::open(None, other.path(), HOUR).unwrap().at(now));
        assert_ne!(one.at(now), AddressKeys::open(None, dir.path(), HOUR * 2).unwrap().at(now));
    }

    #[test]
    fn a_secret_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for bad in [None, Some(31), Some(5_000)] {
            if let Some(length) = bad {
                fs::write(&path, vec![b'x'; length]).unwrap();
            }
            let error = AddressKeys::open(Some(&path), dir.path(), HOUR).map(drop).unwrap_err().to_string();
            assert!(error.contains("secret") && !error.contains("xxx"), "{error}");
        }
    }

    #[tokio::test]
    async fn edges_are_given_each_key_in_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let keys = AddressKeys::open(None, dir.path(), Duration::from_secs(1)).unwrap();
        let (edge, mut edges) = watch::channel(Arc::new(EdgeSettings::default()));
        let running = tokio::spawn(keys.rotate(edge));
        let mut seen = Vec::new();
        while seen.len() < 2 {
            edges.changed().await.unwrap();
            seen.push(edges.borrow_and_update().address_key.clone().unwrap());
        }
        assert_ne!(seen[0], seen[1]);
        drop(edges);
        running.await.unwrap();
    }
}
