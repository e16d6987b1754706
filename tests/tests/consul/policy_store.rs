//! The policy in Consul's KV store: replicas that follow each other, operators who write by hand, and what is refused.

mod control_plane;
mod documents;
mod versions;

use std::path::Path;
use std::sync::Arc;

use prometheus::Registry;
use realmgate_control_plane::source::consul::ConsulConfig;
use realmgate_control_plane::source::policy::{LoadedPolicy, PolicySource};
use realmgate_control_plane::source::policy_store::{NewPolicy, PolicyStore};
use realmgate_tests::Consul;
use tokio::task::JoinSet;

use super::stage::{config, until};

/// The policy of a control plane, without the rest of it. Ends with its guard.
struct Replica {
    source: Arc<PolicySource>,
    /// The same store, to be asked without a policy in between.
    store: PolicyStore,
    registry: Registry,
    _following: JoinSet<()>,
}

impl Replica {
    async fn start(consul: &Consul, prefix: &str, datacenter: &str, data_dir: &Path) -> Self {
        let datacenter = datacenter.to_owned();
        Self::with(&ConsulConfig { datacenter, ..config(consul, data_dir) }, prefix).await
    }

    async fn with(config: &ConsulConfig, prefix: &str) -> Self {
        let registry = Registry::new();
        let store = PolicyStore::consul(config, prefix, &registry).unwrap();
        let source = Arc::new(PolicySource::new(store.clone(), &registry).await.unwrap());
        let mut following = JoinSet::new();
        following.spawn({
            let source = Arc::clone(&source);
            async move { source.follow().await }
        });
        Self { source, store, registry, _following: following }
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&LoadedPolicy) -> bool) -> Arc<LoadedPolicy> {
        until(self.source.subscribe(), what, |loaded| holds(loaded)).await
    }

    async fn version(&self, version: u64) -> Arc<LoadedPolicy> {
        self.until(&format!("version {version} is in force"), |loaded| {
            loaded.stored.as_ref().is_some_and(|stored| stored.info.version == version)
        })
        .await
    }

    /// Waits until what is wrong is said with this word, and nothing else has come in force.
    async fn refuses(&self, word: &str) -> String {
        let told = |loaded: &LoadedPolicy| loaded.problem.as_ref().is_some_and(|told| told.contains(word));
        let loaded = self.until(&format!("`{word}` is told"), told).await;
        loaded.problem.clone().unwrap()
    }

    async fn well(&self) {
        self.until("it is well", |loaded| loaded.known && loaded.problem.is_none()).await;
    }

    /// How often documents were refused, by document and reason.
    fn refused(&self, document: &str, reason: &str) -> u64 {
        let name = format!("realmgate_policy_refusals_total{{document=\"{document}\",reason=\"{reason}\"}} ");
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }
}

fn new(text: impl Into<String>) -> NewPolicy {
    NewPolicy { text: text.into(), author: "ada".to_owned(), message: "why".to_owned() }
}

/// A policy of one service.
fn policy(service: &str) -> String {
    format!("services: [{{name: {service}, endpoints: [\"10.0.0.1:1\"]}}]\n")
}

fn services(loaded: &LoadedPolicy) -> String {
    let names: Vec<_> = loaded.policy.services.iter().map(|service| service.name.as_str()).collect();
    names.join(" ")
}
