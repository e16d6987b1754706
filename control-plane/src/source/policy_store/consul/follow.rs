//! Following what others write: one blocking query for the policy, one for the overlay of our datacenter.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::time::sleep;

use super::super::{Held, OverlayText, Slot, StoreError, StoredPolicy, Trouble, Written};
use super::ConsulStore;
use super::kv::{Entry, entries, path};
use super::record::{self, Fault, Found};
use crate::source::backoff::Backoff;
use crate::source::consul::{ConsulError, Query, WAIT, agents_datacenter};

/// What a key turned out to hold; `None` = it is not there.
type Reading<T> = Result<Option<T>, Fault>;

impl ConsulStore {
    pub(in super::super) async fn follow(&self) {
        let never = tokio::join!(self.follow_policy(), self.follow_overlay());
        match never.0 {}
    }

    async fn follow_policy(&self) -> Infallible {
        let key = self.keys.policy();
        let mut follower = Follower::new(self, &key, |held| &mut held.policy);
        loop {
            let Some((known, entry)) = follower.next().await else { continue };
            let index = entry.as_ref().map_or(0, |entry| entry.index);
            let reading = match self.read_policy(entry).await {
                Ok(reading) => reading,
                Err(error) => {
                    follower.lost(&error).await;
                    continue;
                }
            };
            if !matches!(reading, Ok(Some(Written::Version(_))))
                && let Err(error) = self.look_back().await
            {
                follower.lost(&error).await;
                continue;
            }
            // The parts may be put back without the record's being touched.
            let again = matches!(reading, Err(Fault::Incomplete { .. } | Fault::Corrupt));
            self.tell_policy(known, index, reading.map(Option::unwrap_or_default));
            if again {
                follower.start_over().await;
            } else {
                follower.backoff.reset();
            }
        }
    }

    async fn read_policy(&self, entry: Option<Entry>) -> Result<Reading<Written>, ConsulError> {
        let Some(entry) = entry else { return Ok(Ok(None)) };
        Ok(match record::read(&entry.value) {
            Ok(Found::ByHand(text)) => Ok(Some(Written::ByHand(text.into()))),
            Ok(Found::Record(record)) => self
                .text(&record)
                .await?
                .map(|text| Some(Written::Version(Arc::new(StoredPolicy { info: record.info, text })))),
            Err(fault) => Err(fault),
        })
    }

    /// Finds the version that served last, where none was heard of: a key that was deleted, or spoilt, empties nothing.
    async fn look_back(&self) -> Result<(), ConsulError> {
        let needed = {
            let held = self.held.borrow();
            held.last.is_none() && !matches!(held.policy.value, Written::Version(_))
        };
        if !needed {
            return Ok(());
        }
        let last = match self.last_in_history().await {
            Ok(last) => last.map(Arc::new),
            Err(StoreError::Consul(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the last version in the policy's history cannot be read");
                None
            }
        };
        self.held.send_if_modified(|held| {
            held.last = last;
            held.last.is_some()
        });
        Ok(())
    }

    /// Publishes what was found below the key of the policy, unless something newer was meanwhile.
    pub(super) fn tell_policy(&self, known: u64, index: u64, found: Result<Written, Fault>) {
        let key = self.keys.policy();
        let was_put = self.held.borrow().last.is_some();
        self.tell(
            |held| &mut held.policy,
            known,
            index,
            |slot| match found {
                Ok(Written::Nothing) if was_put || slot.value != Written::Nothing => {
                    let text =
                        format!("{key} is gone; what it said last serves on. An empty policy is `{{}}`");
                    slot.trouble = Some(Trouble::Lost(text));
                }
                Ok(value) => slot.hear(value),
                Err(fault) => slot.trouble = Some(refused(&key, &fault)),
            },
        );
    }

    async fn follow_overlay(&self) -> Infallible {
        let datacenter = self.our_datacenter().await;
        let key = self.keys.overlay(&datacenter);
        let mut follower = Follower::new(self, &key, |held| &mut held.overlay);
        loop {
            let Some((known, entry)) = follower.next().await else { continue };
            follower.backoff.reset();
            let index = entry.as_ref().map_or(0, |entry| entry.index);
            let found = entry.map(|entry| record::text(&entry.value).map(Arc::from)).transpose();
            self.tell(
                |held| &mut held.overlay,
                known,
                index,
                |slot| match found {
                    Ok(text) => slot.hear(text.map(|text| Arc::new(OverlayText { key: key.clone(), text }))),
                    Err(fault) => slot.trouble = Some(refused(&key, &fault)),
                },
            );
        }
    }

    /// Ours, asked of the agent unless settings say it.
    async fn our_datacenter(&self) -> String {
        let mut backoff = Backoff::new();
        loop {
            if let Some(datacenter) = self.datacenter.get() {
                return datacenter.clone();
            }
            match agents_datacenter(&self.kv.client).await {
                // Nobody else sets it.
                Ok(datacenter) => drop(self.datacenter.set(datacenter)),
                Err(error) => {
                    self.lose(|held| &mut held.overlay, &error);
                    sleep(backoff.wait()).await;
                }
            }
        }
    }

    /// Changes what is known of a key if that is still as it was when Consul was asked, or the answer is newer: a put of ours
    /// may have come in between. An older index is news only where nothing else is, as when Consul was restored from
    /// a backup.
    fn tell<T: Clone + PartialEq>(
        &self,
        slot: fn(&mut Held) -> &mut Slot<T>,
        known: u64,
        index: u64,
        change: impl FnOnce(&mut Slot<T>),
    ) {
        self.held.send_if_modified(|held| {
            let slot = slot(held);
            if index <= slot.index && slot.index != known {
                return false;
            }
            let before = slot.clone();
            slot.index = index;
            change(slot);
            *slot != before
        });
    }

    fn lose<T>(&self, slot: fn(&mut Held) -> &mut Slot<T>, error: &ConsulError) {
        let trouble = Some(Trouble::Lost(error.to_string()));
        self.held.send_if_modified(|held| {
            let slot = slot(held);
            let changed = slot.trouble != trouble;
            slot.trouble = trouble;
            changed
        });
    }
}

fn refused(key: &str, fault: &Fault) -> Trouble {
    Trouble::Refused { reason: fault.label(), text: format!("{key}: {fault}") }
}

/// The blocking query of one key.
struct Follower<'a, T> {
    store: &'a ConsulStore,
    path: String,
    slot: fn(&mut Held) -> &mut Slot<T>,
    query: Query,
    backoff: Backoff,
}

impl<'a, T> Follower<'a, T> {
    fn new(store: &'a ConsulStore, key: &str, slot: fn(&mut Held) -> &mut Slot<T>) -> Self {
        let path = path(key);
        let query = Query::new(path.clone(), WAIT);
        Self { store, path, slot, query, backoff: Backoff::new() }
    }

    /// The index that was known when Consul was asked, and what it answered; `None` = it did not.
    async fn next(&mut self) -> Option<(u64, Option<Entry>)> {
        let mut known = 0;
        self.store.held.send_if_modified(|held| {
            known = (self.slot)(held).index;
            false
        });
        let answer = self.query.next(&self.store.kv.client).await;
        match answer.and_then(|(answer, _)| entries(&answer)) {
            Ok(mut entries) => Some((known, entries.pop())),
            Err(error) => {
                self.lost(&error).await;
                None
            }
        }
    }

    async fn lost(&mut self, error: &ConsulError) {
        self.store.lose(self.slot, error);
        self.start_over().await;
    }

    /// Asks anew, after a while.
    async fn start_over(&mut self) {
        sleep(self.backoff.wait()).await;
        self.query = Query::new(self.path.clone(), WAIT);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::source::consul::ConsulConfig;

    #[test]
    fn what_cannot_be_read_is_no_empty_policy() {
        let dir = tempfile::tempdir().unwrap();
        let config = ConsulConfig {
            address: "http://127.0.0.1:8500".to_owned(),
            token_file: None,
            ca_file: None,
            datacenter: String::new(),
            data_dir: dir.path().to_owned(),
        };
        let store = ConsulStore::open(&config, "realmgate/", &Registry::new()).unwrap();
        let held = || store.held().borrow().policy.clone();
        let missing = || Fault::Incomplete { key: "realmgate/text/x/00".to_owned() };
        store.tell_policy(0, 5, Err(missing()));
        assert!(!held().heard && held().trouble.is_some(), "{:?}", held());
        store.tell_policy(5, 6, Ok(Written::Nothing));
        assert!(held().heard && held().trouble.is_none());
        store.tell_policy(6, 7, Err(missing()));
        assert!(held().heard && held().trouble.is_some(), "what was heard stays so");
    }
}
