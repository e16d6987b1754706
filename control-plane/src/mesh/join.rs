//! The task that joins the sources: quick when quiet, coalescing when they storm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{EdgeSettings, FilterModule, Mesh};
use crate::source::gateway_rules::GatewayRules;
use crate::source::policy::LoadedPolicy;

/// At most a hundred meshes a second. A change after a quiet time goes out at once; in a storm proxies get
/// the latest of each 10 ms, which is a tenth of what Envoy needs for a hundred clusters.
const SPACING: Duration = Duration::from_millis(10);

/// What is joined.
pub struct Sources {
    /// The policy store's latest document.
    pub policy: watch::Receiver<Arc<LoadedPolicy>>,
    /// The old gateway's rules; `None` inside until Redis or the last run's snapshot has told them. `None`
    /// outside = that source is off.
    pub rules: Option<watch::Receiver<Option<Arc<GatewayRules>>>>,
    /// The filter module.
    pub module: watch::Receiver<FilterModule>,
    /// What settings say.
    pub edge: Arc<EdgeSettings>,
}

impl Sources {
    /// The mesh of the latest values; `None` while a source has never been heard: an edge that got half the
    /// truth would drop routes that it has.
    fn latest(&mut self) -> Option<Mesh> {
        let rules = match &mut self.rules {
            Some(rules) => rules.borrow_and_update().clone()?,
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
        let rules = async {
            match &mut self.rules {
                Some(rules) => rules.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = self.policy.changed() => result.is_ok(),
            result = rules => result.is_ok(),
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
