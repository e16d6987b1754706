//! The task that joins the sources: quick when quiet, coalescing when they storm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::catalog::Catalog;
use super::identity::Identities;
use super::{EdgeSettings, FilterModule, Mesh};
use crate::source::Health;
use crate::source::consul::Intentions;
use crate::source::gateway_rules::GatewayRules;
use crate::source::policy::LoadedPolicy;

/// What is joined.
pub struct Sources {
    /// The policy store's latest document.
    pub policy: watch::Receiver<Arc<LoadedPolicy>>,
    /// The old gateway's rules; `None` = that source is off.
    pub gateway: Option<GatewayStatus>,
    /// What Consul tells; `None` = that source is off.
    pub consul: Option<ConsulStatus>,
    /// The filter module.
    pub module: watch::Receiver<FilterModule>,
    /// What settings say.
    pub edge: Arc<EdgeSettings>,
}

/// The old gateway's rules and whether Redis answers.
#[derive(Clone, Debug)]
pub struct GatewayStatus {
    /// The rules that are served and those that are refused.
    pub rules: watch::Receiver<Arc<GatewayRules>>,
    /// How the source is doing.
    pub health: watch::Receiver<Health>,
}

impl GatewayStatus {
    /// The rules, once Redis or an earlier run's snapshot has told any.
    fn heard(&mut self) -> Option<Arc<GatewayRules>> {
        // Health first: it is published after the rules that it speaks of, so these are at least as new.
        let starting = *self.health.borrow_and_update() == Health::Starting;
        let rules = self.rules.borrow_and_update().clone();
        (!starting || !rules.rules.is_empty()).then_some(rules)
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            result = self.rules.changed() => result.is_ok(),
            result = self.health.changed() => result.is_ok(),
        }
    }
}

/// What Consul tells and whether it does.
#[derive(Clone, Debug)]
pub struct ConsulStatus {
    /// Instances, datacenters, configuration entries.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// Who may connect to whom.
    pub intentions: watch::Receiver<Arc<Intentions>>,
    /// Roots and leaves.
    pub identities: watch::Receiver<Arc<Identities>>,
    /// How the source is doing.
    pub health: watch::Receiver<Health>,
}

impl ConsulStatus {
    /// The catalog, once Consul or an earlier run's snapshot has told all that is needed.
    fn heard(&mut self) -> Option<Arc<Catalog>> {
        let starting = *self.health.borrow_and_update() == Health::Starting;
        let catalog = self.catalog.borrow_and_update().clone();
        (!starting).then_some(catalog)
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            result = self.catalog.changed() => result.is_ok(),
            result = self.health.changed() => result.is_ok(),
        }
    }
}

impl Sources {
    /// The mesh of the latest values; `None` while a source has never been heard: an edge that got half the
    /// truth would drop routes that it has.
    fn latest(&mut self) -> Option<Mesh> {
        let rules = match &mut self.gateway {
            Some(gateway) => gateway.heard()?,
            None => Arc::default(),
        };
        let catalog = match &mut self.consul {
            Some(consul) => consul.heard()?,
            None => Arc::default(),
        };
        Some(Mesh {
            catalog,
            policy: Arc::clone(&self.policy.borrow_and_update().policy),
            rules,
            module: self.module.borrow_and_update().clone(),
            edge: Arc::clone(&self.edge),
        })
    }

    /// Waits for a change of any source; false when one of them has ended, as they do at shutdown.
    async fn changed(&mut self) -> bool {
        let gateway = async {
            match &mut self.gateway {
                Some(gateway) => gateway.changed().await,
                None => std::future::pending().await,
            }
        };
        let consul = async {
            match &mut self.consul {
                Some(consul) => consul.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = self.policy.changed() => result.is_ok(),
            open = gateway => open,
            open = consul => open,
            result = self.module.changed() => result.is_ok(),
        }
    }
}

/// Publishes a mesh whenever a source changes; ends with the sources. A change after a quiet time goes out at
/// once; those that come within `debounce` after it go out together.
pub async fn join(mut sources: Sources, debounce: Duration, publish: watch::Sender<Option<Arc<Mesh>>>) {
    let mut quiet_from = Instant::now();
    loop {
        if let Some(mesh) = sources.latest() {
            let published = publish.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&mesh);
                if changed {
                    *current = Some(Arc::new(mesh));
                }
                changed
            });
            if published {
                quiet_from = Instant::now() + debounce;
            }
        }
        if !sources.changed().await {
            return;
        }
        sleep_until(quiet_from).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::ModuleLocation;

    fn module(number: u32) -> FilterModule {
        FilterModule { sha256: number.to_string(), location: ModuleLocation::Path(String::new()) }
    }

    #[tokio::test]
    async fn a_change_after_quiet_goes_out_at_once_and_a_storm_together() {
        const DEBOUNCE: Duration = Duration::from_secs(1);
        let (_policy, policies) =
            watch::channel(Arc::new(LoadedPolicy { stored: None, policy: Arc::default() }));
        let (change, modules) = watch::channel(module(0));
        let sources =
            Sources { policy: policies, gateway: None, consul: None, module: modules, edge: Arc::default() };
        let (publish, mut meshes) = watch::channel(None);
        let running = tokio::spawn(join(sources, DEBOUNCE, publish));
        let start = Instant::now();
        meshes.changed().await.unwrap();
        let mut published = 1;
        for number in 1..=300 {
            change.send_replace(module(number));
            tokio::task::yield_now().await;
            published += u32::from(meshes.has_changed().unwrap());
            meshes.mark_unchanged();
        }
        let latest = |mesh: &Option<Arc<Mesh>>| mesh.as_ref().is_some_and(|m| m.module == module(300));
        meshes.wait_for(latest).await.unwrap();
        let most = start.elapsed().as_millis() / DEBOUNCE.as_millis() + 1;
        assert!(u128::from(published) <= most, "{published} meshes of 300 changes, {most} turns");
        // After a quiet time the next one waits for nothing.
        tokio::time::sleep(DEBOUNCE).await;
        let start = Instant::now();
        change.send_replace(module(301));
        meshes.changed().await.unwrap();
        assert!(start.elapsed() < DEBOUNCE, "{:?}", start.elapsed());
        drop(change);
        running.await.unwrap();
    }
}
