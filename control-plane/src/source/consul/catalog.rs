//! The catalog that all tasks write their part into, and a task for each datacenter that something is wanted of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::datacenter::Datacenter;
use super::follow::Context;
use super::metrics::Metrics;
use super::parts::Part;
use super::resolve::Names;
use crate::mesh::Wanted;
use crate::mesh::catalog::{Catalog, Lookup};

/// The latest of every part.
#[derive(Debug)]
pub(super) struct Published {
    catalog: watch::Sender<Arc<Catalog>>,
    metrics: Arc<Metrics>,
}

impl Published {
    pub(super) fn new(catalog: Catalog, metrics: Arc<Metrics>) -> Self {
        Self { catalog: watch::Sender::new(Arc::new(catalog)), metrics }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.subscribe()
    }

    /// What is known now.
    pub(super) fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// Changes a part; whoever reads sees the whole change or nothing of it. The lists of instances are shared.
    pub(super) fn change(&self, change: impl FnOnce(&mut Catalog)) {
        self.catalog.send_if_modified(|current| {
            let mut next = (**current).clone();
            change(&mut next);
            let changed = **current != next;
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
    }

    /// Whether the last question about a datacenter was answered. Said by whoever follows it, and by nobody else.
    pub(super) fn heard(&self, datacenter: &str, heard: bool) {
        if self.catalog.borrow().unheard.contains(datacenter) != heard {
            return;
        }
        self.change(|catalog| {
            if heard {
                catalog.unheard.remove(datacenter);
            } else {
                catalog.unheard.insert(datacenter.to_owned());
            }
        });
    }

    /// Counts the instances of a datacenter, which just changed.
    pub(super) fn count(&self, datacenter: &str) {
        let catalog = self.current();
        let of = catalog.instances.iter().filter(|(lookup, _)| lookup.datacenter == datacenter);
        self.metrics.instances(datacenter, of.map(|(_, instances)| instances.len()).sum());
    }
}

/// Follows what is wanted, for ever: a task for each datacenter. The local one is followed even if nothing of it is wanted,
/// so that we know whether Consul answers.
pub(super) async fn follow(
    context: Context,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    local: String,
    mut wanted: watch::Receiver<Wanted>,
) {
    let names = Arc::new(Names::default());
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<String, (watch::Sender<BTreeSet<Lookup>>, AbortHandle)> = BTreeMap::new();
    loop {
        let lookups = wanted.borrow_and_update().lookups.clone();
        let mut by_datacenter = BTreeMap::from([(local.clone(), BTreeSet::new())]);
        for lookup in lookups.iter().flatten() {
            by_datacenter.entry(lookup.datacenter.clone()).or_default().insert(lookup.clone());
        }
        let ended: Vec<_> =
            running.extract_if(.., |datacenter, _| !by_datacenter.contains_key(datacenter)).collect();
        for (_, (_, task)) in &ended {
            task.abort();
        }
        // No others end; until they have, they may still publish.
        for _ in &ended {
            tasks.join_next().await;
        }
        published.change(|catalog| {
            if let Some(lookups) = &lookups {
                catalog.instances.retain(|lookup, _| lookups.contains(lookup));
            }
            catalog.unheard.retain(|datacenter| by_datacenter.contains_key(datacenter));
        });
        for (datacenter, _) in ended {
            metrics.forget(&datacenter);
            context.parts.forget(&Part::Catalog { datacenter, local: false });
        }
        for (datacenter, lookups) in by_datacenter {
            if let Some((sender, _)) = running.get(&datacenter) {
                sender.send_if_modified(|current| {
                    let changed = *current != lookups;
                    *current = lookups;
                    changed
                });
                continue;
            }
            let (sender, lookups) = watch::channel(lookups);
            let follower = Datacenter::new(
                context.clone(),
                Arc::clone(&published),
                Arc::clone(&metrics),
                Arc::clone(&names),
                Part::Catalog { local: datacenter == local, datacenter: datacenter.clone() },
                lookups,
            );
            running.insert(datacenter, (sender, tasks.spawn(follower.run())));
        }
        if wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
