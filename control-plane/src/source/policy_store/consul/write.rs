//! Putting a version: its text first, then the record that names it, if nobody else was quicker.

use std::sync::Arc;

use tokio::time::sleep;

use super::super::{
    BY_HAND, Guard, NewPolicy, PolicyInfo, Precondition, PutError, StoreError, StoredPolicy, Written, etag,
    unix_seconds,
};
use super::ConsulStore;
use super::kv::{Entry, MAX_OPERATIONS, Operation, is_conflict};
use super::record::{self, Found, Record};
use super::tidy;
use crate::source::backoff::Backoff;
use crate::source::consul::ConsulError;

/// How often a put is tried that others overtake. Each time one of them got through.
const ATTEMPTS: usize = 8;

/// What is written where the policy belongs.
struct Current {
    /// Of the key; 0 = it is not there.
    index: u64,
    info: Option<PolicyInfo>,
    is_version: bool,
}

impl Current {
    fn of(entry: Option<&Entry>) -> Self {
        let Some(entry) = entry else { return Self { index: 0, info: None, is_version: false } };
        let index = entry.index;
        if let Ok(Found::Record(record)) = record::read(&entry.value) {
            return Self { index, info: Some(record.info), is_version: true };
        }
        let info = PolicyInfo {
            version: 0,
            etag: etag(&entry.value),
            author: BY_HAND.to_owned(),
            time: 0,
            message: String::new(),
        };
        Self { index, info: Some(info), is_version: false }
    }
}

impl ConsulStore {
    pub(in super::super) async fn put(
        &self,
        policy: NewPolicy,
        expected: &Precondition,
        guard: &Guard,
    ) -> Result<Arc<StoredPolicy>, PutError> {
        let etag = etag(&policy.text);
        let mut backoff = Backoff::new();
        for _ in 0..ATTEMPTS {
            let known = self.held.borrow().policy.index;
            let entry = self.kv.read(&self.keys.policy()).await.map_err(StoreError::from)?;
            let current = Current::of(entry.as_ref());
            if !expected.holds(current.info.as_ref()) {
                return Err(PutError::Conflict { current: current.info });
            }
            if let Some(info) = current.info.as_ref().filter(|info| current.is_version && info.etag == etag) {
                let text = policy.text.into();
                let stored = Arc::new(StoredPolicy { info: info.clone(), text });
                self.tell_policy(known, current.index, Ok(Written::Version(Arc::clone(&stored))));
                return Ok(stored);
            }
            // Whoever puts another one meanwhile moves the index, and this is asked again.
            guard.ask_aside(self.replaced(&current).await?).await?;
            let info = PolicyInfo {
                version: self.next_version(&current).await.map_err(StoreError::from)?,
                etag: etag.clone(),
                author: policy.author.clone(),
                time: unix_seconds(),
                message: policy.message.clone(),
            };
            let record = Record::new(info, &policy.text);
            match self.commit(&record, &policy.text, current.index).await {
                Ok(index) => {
                    let stored =
                        Arc::new(StoredPolicy { info: record.info.clone(), text: policy.text.into() });
                    self.tell_policy(known, index, Ok(Written::Version(Arc::clone(&stored))));
                    self.tidy(&record, index).await;
                    return Ok(stored);
                }
                Err(StoreError::Consul(error)) if is_conflict(&error) => {
                    tracing::debug!(%error, "another writer was quicker");
                    sleep(backoff.wait()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// The version that is replaced: the one that stands there, else the last in the history. One whose text is lost is none.
    async fn replaced(&self, current: &Current) -> Result<Option<StoredPolicy>, StoreError> {
        let version = current.info.as_ref().filter(|_| current.is_version).map(|info| info.version);
        let found = match version {
            Some(version) => self.get(version).await,
            None => self.last_in_history().await,
        };
        match found {
            Err(error @ StoreError::Unusable { .. }) => {
                tracing::warn!(%error, "the version that is replaced cannot be read");
                Ok(None)
            }
            found => found,
        }
    }

    /// One more than any that there was, even where the latest was lost or an older one put back.
    async fn next_version(&self, current: &Current) -> Result<u64, ConsulError> {
        let names = self.kv.names(&self.keys.all_history()).await?;
        let kept = names.iter().filter_map(|key| self.keys.version_of(key));
        let last = kept.chain(current.info.as_ref().map(|info| info.version)).max();
        Ok(last.unwrap_or_default().saturating_add(1))
    }

    /// Writes text and record; the index of the record then.
    async fn commit(&self, record: &Record, text: &str, before: u64) -> Result<u64, StoreError> {
        let key = self.keys.policy();
        let mut operations = Vec::new();
        for (number, part) in record::parts(text).enumerate() {
            let key = self.keys.part(&record.info.etag, number);
            let written = self.kv.transact(&[Operation::set(key.clone(), part)]).await?;
            let index = written.first().map_or(0, |(_, index)| *index);
            // Whoever tidies up may take it for left over until it is named.
            operations.push(Operation::check(key, index));
        }
        let json = record
            .to_json()
            .map_err(|fault| StoreError::Unusable { key: key.clone(), problem: fault.to_string() })?;
        operations.push(Operation::cas(key.clone(), before, &json));
        operations.push(Operation::set(self.keys.history(record.info.version), &json));
        let written = self.kv.transact(&operations).await?;
        Ok(written.into_iter().find(|(written, _)| *written == key).map_or(0, |(_, index)| index))
    }

    /// Removes what nobody needs any more, if the record is still the latest one. The next put does what this leaves.
    async fn tidy(&self, latest: &Record, index: u64) {
        let tidy = async {
            let history = self.kv.list(&self.keys.all_history()).await?;
            let names = self.kv.names(&self.keys.all_texts()).await?;
            let garbage = tidy::garbage(&self.keys, latest, &history, &names, MAX_OPERATIONS - 1);
            if garbage.is_empty() {
                return Ok(());
            }
            // A writer that has names for these by now has changed the record, or will find its parts gone and start anew.
            let mut operations = vec![Operation::check(self.keys.policy(), index)];
            operations.extend(garbage);
            self.kv.transact(&operations).await.map(drop)
        };
        if let Err(error) = tidy.await {
            tracing::debug!(%error, "old policy versions stay for now");
        }
    }
}
