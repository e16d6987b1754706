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

    /// Whether the servers of a datacenter answer.
    pub(super) fn reachable(&self, datacenter: &str, reachable: bool) {
        let known = self.catalog.borrow().datacenters.get(datacenter).map(|datacenter| datacenter.reachable);
        if known == Some(reachable) {
            return;
        }
        self.change(|catalog| {
            catalog.datacenters.entry(datacenter.to_owned()).or_default().reachable = reachable;
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
        if let Some(lookups) = &lookups {
            published.change(|catalog| catalog.instances.retain(|lookup, _| lookups.contains(lookup)));
        }
        let mut by_datacenter = BTreeMap::from([(local.clone(), BTreeSet::new())]);
        for lookup in lookups.into_iter().flatten() {
            by_datacenter.entry(lookup.datacenter.clone()).or_default().insert(lookup);
        }
        running.retain(|datacenter, (_, task)| {
            let keep = by_datacenter.contains_key(datacenter);
            if !keep {
                task.abort();
                context.parts.forget(&Part::Catalog { datacenter: datacenter.clone(), local: false });
            }
            keep
        });
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
        // Those that were ended are let go of.
        while tasks.try_join_next().is_some() {}
        if wanted.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
