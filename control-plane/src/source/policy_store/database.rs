//! The policy store's file: a redb database of texts and what is known of them. Blocks on the disk.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::watch;

use super::{
    Guard, Held, KEPT_VERSIONS, NewPolicy, PolicyInfo, Precondition, PutError, StoreError, StoredPolicy,
    Unconfirmed, etag, unix_seconds,
};

/// Name of the file in `data_dir`.
const FILE: &str = "policy.redb";

/// Number of a version to its text.
const TEXTS: TableDefinition<'_, u64, &str> = TableDefinition::new("policy_texts");

/// Number of a version to its [`PolicyInfo`] as JSON; apart from the texts, so that the history is small.
const INFOS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("policy_infos");

/// One entry under [`FORMAT_KEY`].
const FORMATS: TableDefinition<'_, &str, u64> = TableDefinition::new("format");
const FORMAT_KEY: &str = "policy";

/// Raised when older releases could not read the tables.
const FORMAT: u64 = 1;

/// Enough for a large document; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 8 << 20;

pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The database and its latest version.
pub(super) struct Store {
    path: PathBuf,
    opener: Opener,
    /// `None` after a failure: redb then refuses writes until the file is opened anew, and says that a commit
    /// that failed may have been made. One call at a time: puts are rare, and reads come from `held`.
    database: Mutex<Option<Database>>,
    pub(super) held: watch::Sender<Held>,
}

impl Store {
    pub(super) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        let io = |error| StoreError::Io { path: data_dir.to_owned(), error };
        fs::create_dir_all(data_dir).map_err(io)?;
        let file = path.clone();
        let opener = move || Builder::new().set_cache_size(CACHE_BYTES).create(&file);
        let store = Self::with_opener(path, Box::new(opener))?;
        // A new file is durable only when its directory is.
        File::open(data_dir).and_then(|directory| directory.sync_all()).map_err(io)?;
        Ok(store)
    }

    pub(super) fn with_opener(path: PathBuf, opener: Opener) -> Result<Self, StoreError> {
        let store = Self { path, opener, database: Mutex::new(None), held: watch::Sender::default() };
        store.with(|_| Ok::<_, Failure>(()))?;
        Ok(store)
    }

    pub(super) fn get(&self, version: u64) -> Result<Option<StoredPolicy>, StoreError> {
        self.with(|database| read(database, version))
    }

    pub(super) fn history(&self) -> Result<Vec<PolicyInfo>, StoreError> {
        self.with(|database| {
            let infos = database.begin_read()?.open_table(INFOS)?;
            infos.iter()?.rev().map(|entry| decode(entry?.1.value())).collect()
        })
    }

    pub(super) fn put(
        &self,
        policy: NewPolicy,
        expected: &Precondition,
        guard: &Guard,
    ) -> Result<Arc<StoredPolicy>, PutError> {
        let put = self.with(|database| {
            let put = put(database, policy, expected, guard)?;
            if let Put::Stored(stored) = &put {
                // Still under the lock, so that versions are published in their order.
                self.publish(Some(Arc::clone(stored)));
            }
            Ok(put)
        });
        match put? {
            Put::Stored(stored) => Ok(stored),
            Put::Conflict(current) => Err(PutError::Conflict { current }),
            Put::Unconfirmed(unconfirmed) => Err(unconfirmed.into()),
        }
    }

    /// Runs one call on the database, opening it first where a failure has closed it.
    fn with<T>(&self, call: impl FnOnce(&Database) -> Result<T, Failure>) -> Result<T, StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => self.connect()?,
        };
        match call(&database) {
            Ok(value) => {
                *slot = Some(database);
                Ok(value)
            }
            Err(failure) => {
                // Closed before it is opened again, for it is locked; the next call tries again if this fails.
                drop(database);
                *slot = self.connect().ok();
                Err(self.explain(failure))
            }
        }
    }

    /// Opens the file and publishes what is in it.
    fn connect(&self) -> Result<Database, StoreError> {
        let open = || {
            let database = (self.opener)()?;
            prepare(&database)?;
            let latest = latest(&database)?;
            Ok((database, latest))
        };
        let (database, latest) = open().map_err(|failure| self.explain(failure))?;
        self.publish(latest.map(Arc::new));
        Ok(database)
    }

    fn publish(&self, latest: Option<Arc<StoredPolicy>>) {
        let now = Held::of(latest);
        self.held.send_if_modified(|held| {
            let changed = *held != now;
            *held = now;
            changed
        });
    }

    fn explain(&self, failure: Failure) -> StoreError {
        let path = self.path.clone();
        match failure {
            Failure::Database(error) if matches!(*error, redb::Error::DatabaseAlreadyOpen) => {
                StoreError::Locked { path }
            }
            Failure::Database(error) => StoreError::Database { path, error },
            Failure::Unreadable(problem) => StoreError::Unreadable { path, problem },
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

enum Failure {
    Database(Box<redb::Error>),
    Unreadable(String),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

enum Put {
    /// Stored now, or the same text was there.
    Stored(Arc<StoredPolicy>),
    Conflict(Option<PolicyInfo>),
    Unconfirmed(Unconfirmed),
}

/// Makes the tables of a new file and refuses those of a newer release.
fn prepare(database: &Database) -> Result<(), Failure> {
    let found = match database.begin_read()?.open_table(FORMATS) {
        Ok(formats) => formats.get(FORMAT_KEY)?.map(|format| format.value()),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match found {
        Some(FORMAT) => Ok(()),
        Some(other) => Err(Failure::Unreadable(format!(
            "format {other}, of a newer release; this one reads format {FORMAT}"
        ))),
        None => {
            let transaction = database.begin_write()?;
            transaction.open_table(FORMATS)?.insert(FORMAT_KEY, FORMAT)?;
            transaction.open_table(TEXTS)?;
            transaction.open_table(INFOS)?;
            Ok(transaction.commit()?)
        }
    }
}

fn latest(database: &Database) -> Result<Option<StoredPolicy>, Failure> {
    let infos = database.begin_read()?.open_table(INFOS)?;
    let version = infos.last()?.map(|(version, _)| version.value());
    version.map_or(Ok(None), |version| read(database, version))
}

fn read(database: &Database, version: u64) -> Result<Option<StoredPolicy>, Failure> {
    let transaction = database.begin_read()?;
    let info = transaction.open_table(INFOS)?.get(version)?;
    let text = transaction.open_table(TEXTS)?.get(version)?;
    match (info, text) {
        (Some(info), Some(text)) => {
            Ok(Some(StoredPolicy { info: decode(info.value())?, text: text.value().into() }))
        }
        (None, None) => Ok(None),
        _ => Err(Failure::Unreadable(format!("version {version} is there in half"))),
    }
}

/// One transaction, durable when it is committed.
fn put(
    database: &Database,
    policy: NewPolicy,
    expected: &Precondition,
    guard: &Guard,
) -> Result<Put, Failure> {
    let etag = etag(&policy.text);
    let transaction = database.begin_write()?;
    let stored = {
        let mut infos = transaction.open_table(INFOS)?;
        let mut texts = transaction.open_table(TEXTS)?;
        let current = infos.last()?.map(|(_, info)| decode(info.value())).transpose()?;
        if let Some(info) = &current
            && info.etag == etag
        {
            let text = policy.text.into();
            return Ok(Put::Stored(Arc::new(StoredPolicy { info: info.clone(), text })));
        }
        if !expected.holds(current.as_ref()) {
            return Ok(Put::Conflict(current));
        }
        let replaced = match &current {
            Some(info) => texts.get(info.version)?.map(|text| text.value().into()),
            None => None,
        };
        let replaced = current.clone().zip(replaced).map(|(info, text)| StoredPolicy { info, text });
        if let Err(unconfirmed) = guard.ask(replaced.as_ref()) {
            return Ok(Put::Unconfirmed(unconfirmed));
        }
        let info = PolicyInfo {
            version: current.map_or(1, |info| info.version.saturating_add(1)),
            etag,
            author: policy.author,
            time: unix_seconds(),
            message: policy.message,
        };
        infos.insert(info.version, encode(&info)?.as_slice())?;
        texts.insert(info.version, policy.text.as_str())?;
        let oldest = info.version.saturating_sub(KEPT_VERSIONS - 1);
        infos.retain_in(..oldest, |_, _| false)?;
        texts.retain_in(..oldest, |_, _| false)?;
        StoredPolicy { info, text: policy.text.into() }
    };
    transaction.commit()?;
    Ok(Put::Stored(Arc::new(stored)))
}

fn encode(info: &PolicyInfo) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(info).map_err(|error| Failure::Unreadable(error.to_string()))
}

fn decode(info: &[u8]) -> Result<PolicyInfo, Failure> {
    serde_json::from_slice(info).map_err(|error| Failure::Unreadable(format!("a version's record: {error}")))
}
