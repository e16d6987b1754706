//! The task that joins the sources: quick when quiet, coalescing when they storm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{EdgeSettings, FilterModule, Mesh};
use crate::source::Health;
use crate::source::gateway_rules::GatewayRules;
use crate::source::policy::LoadedPolicy;

/// At most a hundred meshes a second. A change after a quiet time goes out at once; in a storm proxies get
/// the latest of each 10 ms, which is a tenth of what Envoy needs for a hundred clusters.
const SPACING: Duration = Duration::from_millis(10);

/// What is joined.
pub struct Sources {
    /// The policy store's latest document.
    pub policy: watch::Receiver<Arc<LoadedPolicy>>,
    /// The old gateway's rules; `None` = that source is off.
    pub gateway: Option<GatewayStatus>,
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

impl Sources {
    /// The mesh of the latest values; `None` while a source has never been heard: an edge that got half the
    /// truth would drop routes that it has.
    fn latest(&mut self) -> Option<Mesh> {
        let rules = match &mut self.gateway {
            Some(gateway) => gateway.heard()?,
            None => Arc::default(),
        };
        Some(Mesh {
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
        tokio::select! {
            result = self.policy.changed() => result.is_ok(),
            open = gateway => open,
            result = self.module.changed() => result.is_ok(),
        }
    }
}

/// Publishes a mesh whenever a source changes; ends with the sources.
pub async fn join(mut sources: Sources, publish: watch::Sender<Option<Arc<Mesh>>>) {
    loop {
        let next_turn = Instant::now() + SPACING;
        if let Some(mesh) = sources.latest() {
            publish.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&mesh);
                if changed {
                    *current = Some(Arc::new(mesh));
                }
                changed
            });
        }
        if !sources.changed().await {
            return;
        }
        sleep_until(next_turn).await;
    }
}
