//! The policy store's file: a redb database of texts and what is known of them. Blocks on the disk.

use std::fmt;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::watch;

use super::seal::Seal;
use super::{
    Guard, Held, KEPT_VERSIONS, NewPolicy, PolicyInfo, Precondition, PutError, StoreError, StoredPolicy,
    Trouble, Unconfirmed, etag, unix_seconds,
};
use crate::source::saved;

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
    database: Mutex<Option<Opened>>,
    pub(super) held: watch::Sender<Held>,
}

/// A database that is open.
struct Opened {
    database: Database,
    /// The file as we left it; `None` where there is none, as in memory.
    seal: Option<Seal>,
}

impl Store {
    pub(super) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let io = |error| StoreError::Io { path: data_dir.to_owned(), error };
        // Told to people, who do not know where we were started.
        let data_dir = std::path::absolute(data_dir).map_err(io)?;
        let path = data_dir.join(FILE);
        let io = |error| StoreError::Io { path: data_dir.clone(), error };
        saved::prepare(&data_dir).map_err(io)?;
        let file = path.clone();
        let opener = move || {
            // The database would make its file for everybody to read.
            saved::reserve(&file)?;
            Builder::new().set_cache_size(CACHE_BYTES).create(&file)
        };
        let store = Self::with_opener(path, Box::new(opener))?;
        // A new file is durable only when its directory is.
        File::open(&data_dir).and_then(|directory| directory.sync_all()).map_err(io)?;
        Ok(store)
    }

    pub(super) fn with_opener(path: PathBuf, opener: Opener) -> Result<Self, StoreError> {
        let store = Self { path, opener, database: Mutex::new(None), held: watch::Sender::default() };
        store.with(|_| Ok::<_, Failure>(()), |()| ())?;
        Ok(store)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, version: u64) -> Result<Option<StoredPolicy>, StoreError> {
        self.with(|database| read(database, version), |_| ())
    }

    pub(super) fn history(&self) -> Result<Vec<PolicyInfo>, StoreError> {
        let read = |database: &Database| {
            let infos = database.begin_read()?.open_table(INFOS)?;
            infos.iter()?.rev().map(|entry| decode(entry?.1.value())).collect()
        };
        self.with(read, |_| ())
    }

    pub(super) fn put(
        &self,
        policy: NewPolicy,
        expected: &Precondition,
        guard: &Guard,
    ) -> Result<Arc<StoredPolicy>, PutError> {
        let publish = |put: &Put| {
            if let Put::Stored(stored) = put {
                // Still under the lock, so that versions are published in their order.
                self.publish(Some(Arc::clone(stored)));
            }
        };
        match self.with(|database| put(database, policy, expected, guard), publish)? {
            Put::Stored(stored) => Ok(stored),
            Put::Conflict(current) => Err(PutError::Conflict { current }),
            Put::Unconfirmed(unconfirmed) => Err(unconfirmed.into()),
        }
    }

    /// Looks whether the file is still ours, and publishes what it finds.
    pub(super) fn check(&self) {
        let slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*slot
            && let Err(error) = self.look(opened)
        {
            self.trouble(&error);
        }
    }

    /// Runs one call on the database, opening it first where a failure has closed it, and then `done`, unless the file was
    /// lost meanwhile.
    fn with<T>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, Failure>,
        done: impl FnOnce(&T),
    ) -> Result<T, StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.run(&mut slot, call).inspect(done);
        if let Err(error) = &result
            && (slot.is_none() || matches!(error, StoreError::Lost { .. }))
        {
            self.trouble(error);
        }
        result
    }

    fn run<T>(
        &self,
        slot: &mut Option<Opened>,
        call: impl FnOnce(&Database) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        if slot.is_none() {
            *slot = Some(self.connect()?);
        }
        let Some(opened) = slot else { return Err(StoreError::Stopping) };
        self.look(opened)?;
        match unpanicked(|| call(&opened.database)) {
            Ok(value) => {
                opened.seal = self.seal_after(opened.seal.take())?;
                Ok(value)
            }
            Err(failure) => {
                let error = self.explain(failure);
                // Closed before it is opened again, for it is locked; the next call tries again if this fails.
                let closed = slot.take();
                let _ = unpanicked(|| {
                    drop(closed);
                    Ok(())
                });
                *slot = self.connect().ok();
                Err(error)
            }
        }
    }

    /// Whether the file is as we left it.
    fn look(&self, opened: &Opened) -> Result<(), StoreError> {
        if let Some(problem) = opened.seal.as_ref().and_then(|seal| seal.fault(&self.path)) {
            return Err(self.lost(problem));
        }
        self.held.send_if_modified(|held| held.policy.trouble.take().is_some());
        Ok(())
    }

    /// The seal of what a call has left, if it is still the same file.
    fn seal_after(&self, before: Option<Seal>) -> Result<Option<Seal>, StoreError> {
        let Some(before) = before else { return Ok(None) };
        match Seal::of(&self.path) {
            Ok(now) if now.is_same_file(&before) => Ok(Some(now)),
            _ => Err(self.lost("the file was taken away during a call".to_owned())),
        }
    }

    fn lost(&self, problem: String) -> StoreError {
        StoreError::Lost { path: self.path.clone(), problem }
    }

    /// Says that what is published may not be what is stored.
    fn trouble(&self, error: &StoreError) {
        let trouble = Some(Trouble::Lost(error.to_string()));
        self.held.send_if_modified(|held| {
            let changed = held.policy.heard && held.policy.trouble != trouble;
            if changed {
                held.policy.trouble.clone_from(&trouble);
            }
            changed
        });
    }

    /// Opens the file and publishes what is in it.
    fn connect(&self) -> Result<Opened, StoreError> {
        let open = || {
            let database = (self.opener)()?;
            prepare(&database)?;
            let latest = latest(&database)?;
            Ok((database, latest))
        };
        let (database, latest) = unpanicked(open).map_err(|failure| self.explain(failure))?;
        self.publish(latest.map(Arc::new));
        Ok(Opened { database, seal: Seal::of(&self.path).ok() })
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
            Failure::Database(error) if is_damage(&error) => {
                StoreError::Damaged { path, problem: error.to_string() }
            }
            Failure::Database(error) => StoreError::Database { path, error },
            Failure::Panicked => {
                StoreError::Damaged { path, problem: "the database does not make sense".to_owned() }
            }
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
    /// In the database's own code, which takes what it reads for what it wrote.
    Panicked,
}

/// Runs what may panic on a file that somebody overwrote.
fn unpanicked<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Failure::Panicked))
}

fn is_damage(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => true,
        redb::Error::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => false,
    }
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
        if !expected.holds(current.as_ref()) {
            return Ok(Put::Conflict(current));
        }
        if let Some(info) = &current
            && info.etag == etag
        {
            let text = policy.text.into();
            return Ok(Put::Stored(Arc::new(StoredPolicy { info: info.clone(), text })));
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
