//! The policy store below a prefix of Consul's KV store, which replicas share and operators write to.
//!
//! ```text
//! realmgate/policy               a record that names a version and its text, or a document that somebody wrote by hand
//! realmgate/overlay/<datacenter> a document that changes the policy for control planes of that datacenter
//! realmgate/history/0000000042   the record of version 42; the last hundred are kept
//! realmgate/text/<etag>/00, 01   the parts of a text, named by what they hold
//! ```
//! The parts of a text are written first. Then one transaction checks that they are all there, moves `policy` to them if it
//! is still what was read, and adds to the history: nobody ever reads half a document, and of two writers one wins.
//! What a writer that died has left has no name in the history, and the next writer removes it.

mod copy;
mod follow;
mod keys;
mod kv;
mod metrics;
mod record;
mod tidy;
mod write;

use std::sync::{Arc, OnceLock};

use prometheus::Registry;
use tokio::sync::watch;

use super::{Held, OverlayText, PolicyInfo, StoreError, StoredPolicy};
use crate::source::consul::{Client, ConsulConfig, ConsulError};
use copy::GoodCopy;
use keys::Keys;
use kv::Kv;
use record::{Fault, Found, Record};

/// The store.
#[derive(Debug)]
pub(super) struct ConsulStore {
    kv: Kv,
    keys: Keys,
    held: watch::Sender<Held>,
    copy: GoodCopy,
    /// Ours, once it is known.
    datacenter: OnceLock<String>,
    /// Consul's address.
    address: String,
}

impl ConsulStore {
    /// Starts with the last good copy.
    pub(super) fn open(config: &ConsulConfig, prefix: &str, registry: &Registry) -> Result<Self, StoreError> {
        let requests = metrics::register(registry)?;
        let copy = GoodCopy::new(config, prefix)
            .map_err(|error| StoreError::Io { path: config.data_dir.clone(), error })?;
        let held = copy.load(&config.datacenter).unwrap_or_default();
        let datacenter = OnceLock::new();
        if !config.datacenter.is_empty() {
            // Nobody else sets it now.
            let _ = datacenter.set(config.datacenter.clone());
        }
        Ok(Self {
            kv: Kv::new(Client::new(config, requests)),
            keys: Keys::new(prefix),
            held: watch::Sender::new(held),
            copy,
            datacenter,
            address: config.address.clone(),
        })
    }

    /// Where the policy is, for people.
    pub(super) fn place(&self) -> String {
        format!("in Consul at {}, key {}", self.address, self.keys.policy())
    }

    pub(super) const fn held(&self) -> &watch::Sender<Held> {
        &self.held
    }

    pub(super) async fn get(&self, version: u64) -> Result<Option<StoredPolicy>, StoreError> {
        let key = self.keys.history(version);
        let unusable = |fault: Fault| StoreError::Unusable { key: key.clone(), problem: fault.to_string() };
        let Some(entry) = self.kv.read(&key).await? else { return Ok(None) };
        let Found::Record(record) = record::read(&entry.value).map_err(unusable)? else {
            return Err(unusable(Fault::Malformed("it is no record".to_owned())));
        };
        let text = self.text(&record).await?.map_err(unusable)?;
        Ok(Some(StoredPolicy { info: record.info, text }))
    }

    pub(super) async fn history(&self) -> Result<Vec<PolicyInfo>, StoreError> {
        let mut infos = Vec::new();
        for entry in self.kv.list(&self.keys.all_history()).await? {
            match record::read(&entry.value) {
                Ok(Found::Record(record)) => infos.push(record.info),
                Ok(Found::ByHand(_)) => tracing::warn!(key = entry.key, "no record of a version"),
                Err(fault) => tracing::warn!(key = entry.key, %fault, "no record of a version"),
            }
        }
        infos.sort_unstable_by_key(|info| std::cmp::Reverse(info.version));
        Ok(infos)
    }

    /// The latest version in the history.
    async fn last_in_history(&self) -> Result<Option<StoredPolicy>, StoreError> {
        let names = self.kv.names(&self.keys.all_history()).await?;
        match names.iter().filter_map(|key| self.keys.version_of(key)).max() {
            Some(version) => self.get(version).await,
            None => Ok(None),
        }
    }

    /// The text that a record names: from memory where that has it, else all its parts.
    async fn text(&self, record: &Record) -> Result<Result<Arc<str>, Fault>, ConsulError> {
        let known = self.held.borrow().latest().filter(|known| known.info.etag == record.info.etag).cloned();
        if let Some(known) = known {
            return Ok(Ok(Arc::clone(&known.text)));
        }
        let parts = self.kv.list(&self.keys.text(&record.info.etag)).await?;
        let mut bytes = Vec::with_capacity(record.bytes);
        for number in 0..record.parts {
            let key = self.keys.part(&record.info.etag, number);
            match parts.iter().find(|part| part.key == key) {
                Some(part) => bytes.extend_from_slice(&part.value),
                None => return Ok(Err(Fault::Incomplete { key })),
            }
        }
        Ok(record.text(bytes))
    }

    /// Keeps what is in force for a start without Consul.
    pub(super) async fn keep_good(
        &self,
        policy: Option<Arc<StoredPolicy>>,
        overlay: Option<Arc<OverlayText>>,
    ) {
        // Not known = nothing was heard in this run: the copy is where this comes from.
        if let Some(datacenter) = self.datacenter.get() {
            self.copy.save(datacenter.clone(), policy, overlay).await;
        }
    }
}
