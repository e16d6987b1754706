//! The task that joins the sources: quick when quiet, coalescing when they storm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::catalog::Catalog;
use super::failover::{self, Tracker};
use super::identity::wanted_leaves;
use super::{EdgeSettings, EndpointScreen, FilterModule, Identities, Intentions, Mesh, Unheard, Wanted};
use crate::model::Policy;
use crate::source::gateway_rules::GatewayRules;
use crate::source::policy::LoadedPolicy;
use crate::source::{Health, consul};

/// What is joined.
pub struct Sources {
    /// The policy store's latest document.
    pub policy: watch::Receiver<Arc<LoadedPolicy>>,
    /// What is said where no policy was ever put: where that is, and what to do.
    pub never_put: Arc<str>,
    /// The old gateway's rules; `None` = that source is off.
    pub gateway: Option<GatewayStatus>,
    /// The certificates of an authority; `None` = there is none.
    pub identities: Option<watch::Receiver<Arc<Identities>>>,
    /// The filter module.
    pub module: watch::Receiver<FilterModule>,
    /// What settings say.
    pub edge: watch::Receiver<Arc<EdgeSettings>>,
    /// What Consul tells; `None` = that source is off.
    pub consul: Option<ConsulLink>,
    /// What leaves out endpoints that are none.
    pub endpoints: EndpointScreen,
    /// What was down and comes back.
    pub tracker: Tracker,
    /// Where that is shown; `None` = nowhere.
    pub shown: Option<failover::Metrics>,
}

/// The old gateway's rules and whether Redis answers.
#[derive(Clone, Debug)]
pub struct GatewayStatus {
    /// The rules that are served and those that are refused.
    pub rules: watch::Receiver<Arc<GatewayRules>>,
    /// How the source is doing.
    pub health: watch::Receiver<Health>,
    /// What is said where the rules key was never there: where that is, and what to do.
    pub never_there: Arc<str>,
    /// Why Redis has not told anything yet; empty = it has, or is still being asked.
    pub trouble: watch::Receiver<String>,
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
    pub intentions: watch::Receiver<Arc<consul::Intentions>>,
    /// Roots and leaves.
    pub identities: watch::Receiver<Arc<Identities>>,
    /// How the source is doing.
    pub health: watch::Receiver<Health>,
    /// Why it has not been heard yet; empty after that.
    pub waits: watch::Receiver<String>,
}

/// What Consul tells and what it is asked.
#[derive(Debug)]
pub struct ConsulLink {
    /// What it tells.
    pub status: ConsulStatus,
    /// What it is asked.
    pub wanted: watch::Sender<Wanted>,
    /// Whether its certificates are those of the mesh.
    pub is_authority: bool,
}

impl ConsulLink {
    /// What is known, once that is enough for this policy: a service that moves to Consul must not be empty until Consul has
    /// answered. Nobody waits for what only other datacenters know: they may be out of reach for long.
    fn heard(&mut self, policy: &Policy, edge_service: &str) -> Option<Arc<Catalog>> {
        let starting = *self.status.health.borrow_and_update() == Health::Starting;
        let catalog = Arc::clone(&self.status.catalog.borrow_and_update());
        let lookups = (!catalog.local.is_empty()).then(|| failover::wanted(policy, &catalog));
        let known = lookups
            .iter()
            .flatten()
            .filter(|lookup| lookup.datacenter == catalog.local)
            .all(|lookup| catalog.instances.contains_key(lookup));
        let leaves = if self.is_authority { wanted_leaves(policy, edge_service) } else { BTreeSet::new() };
        let now = Wanted { lookups, leaves };
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != now;
            *wanted = now;
            changed
        });
        (known && !starting && !catalog.local.is_empty()).then_some(catalog)
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            result = self.status.catalog.changed() => result.is_ok(),
            result = self.status.intentions.changed() => result.is_ok(),
            result = self.status.health.changed() => result.is_ok(),
        }
    }
}

impl Sources {
    /// The mesh of the latest values, and when it will be another by itself; `None` while a source has never been heard: an
    /// edge that got half the truth would drop routes that it has.
    fn latest(&mut self) -> Option<(Mesh, Option<Instant>)> {
        self.mark_seen();
        let loaded = self.policy.borrow().clone();
        if !loaded.known {
            return None;
        }
        let edge = Arc::clone(&self.edge.borrow_and_update());
        let policy = self.endpoints.policy(&loaded.policy);
        let rules = match &mut self.gateway {
            Some(gateway) => self.endpoints.gateway(&gateway.heard()?),
            None => Arc::default(),
        };
        let catalog = match &mut self.consul {
            Some(consul) => self.endpoints.consul(&consul.heard(&policy, &edge.service)?),
            None => Arc::default(),
        };
        self.endpoints.tell();
        let consul = self.consul.as_mut().map(|consul| consul.status.intentions.borrow_and_update().clone());
        // After Consul was told which leaves are wanted.
        let identities = match &mut self.identities {
            Some(identities) => {
                let known = identities.borrow_and_update().clone();
                // Consul's are those of its datacenter, which its catalog tells.
                let known = if known.datacenter.is_empty() {
                    Arc::new(Identities { datacenter: catalog.local.clone(), ..Identities::clone(&known) })
                } else {
                    known
                };
                Some(known).filter(|known| known.is_known())?
            }
            None => Arc::default(),
        };
        let (placement, next) = self.tracker.advance(Instant::now(), &policy, &catalog);
        if let Some(shown) = &mut self.shown {
            shown.show(&self.tracker);
        }
        let never_there = self.gateway.as_ref().map(|gateway| Arc::clone(&gateway.never_there));
        let unheard = Unheard {
            policy: loaded.never_put().then(|| Arc::clone(&self.never_put)),
            rules: never_there.filter(|_| rules.unheard),
        };
        let mesh = Mesh {
            unheard,
            intentions: Arc::new(Intentions::joined(&policy, consul.as_deref())),
            identities,
            policy,
            rules,
            module: self.module.borrow_and_update().clone(),
            edge,
            catalog,
            placement,
        };
        Some((mesh, next))
    }

    /// What changes from here on wakes us, not what was there before: a source that is waited for ends the look at the others
    /// early, which would then seem changed for ever.
    fn mark_seen(&mut self) {
        self.policy.mark_unchanged();
        self.module.mark_unchanged();
        self.edge.mark_unchanged();
        if let Some(gateway) = &mut self.gateway {
            gateway.rules.mark_unchanged();
            gateway.health.mark_unchanged();
        }
        if let Some(identities) = &mut self.identities {
            identities.mark_unchanged();
        }
        if let Some(ConsulLink { status, .. }) = &mut self.consul {
            status.catalog.mark_unchanged();
            status.intentions.mark_unchanged();
            status.health.mark_unchanged();
        }
    }

    /// Waits for a change of any source; false when one of them has ended, as they do at shutdown.
    async fn changed(&mut self) -> bool {
        let gateway = async {
            match &mut self.gateway {
                Some(gateway) => gateway.changed().await,
                None => std::future::pending().await,
            }
        };
        let identities = async {
            match &mut self.identities {
                Some(identities) => identities.changed().await.is_ok(),
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
            open = identities => open,
            result = self.policy.changed() => result.is_ok(),
            open = gateway => open,
            open = consul => open,
            result = self.module.changed() => result.is_ok(),
            // It may never change, and then nobody is left who could.
            Ok(()) = self.edge.changed() => true,
        }
    }
}

/// Publishes a mesh whenever a source changes; ends with the sources. A change after a quiet time goes out at
/// once; those that come within `debounce` after it go out together.
pub async fn join(mut sources: Sources, debounce: Duration, publish: watch::Sender<Option<Arc<Mesh>>>) {
    let mut quiet_from = Instant::now();
    loop {
        let mut next = None;
        if let Some((mut mesh, then)) = sources.latest() {
            next = then;
            let published = publish.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&mesh);
                if changed {
                    // They are joined anew each time; as the very same they are compared at a glance, once for each sidecar.
                    let before = current.as_deref().map(|before| &before.intentions);
                    if let Some(before) = before.filter(|before| **before == mesh.intentions) {
                        mesh.intentions = Arc::clone(before);
                    }
                    *current = Some(Arc::new(mesh));
                }
                changed
            });
            if published {
                quiet_from = Instant::now() + debounce;
            }
        }
        let by_itself = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            open = sources.changed() => if !open { return },
            () = by_itself => {}
        }
        sleep_until(quiet_from).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::mesh::ModuleLocation;
    use crate::mesh::catalog::{Instance, InstanceHealth};
    use crate::model::parse;

    fn screen() -> EndpointScreen {
        EndpointScreen::new(Arc::default(), &prometheus::Registry::new()).unwrap()
    }

    fn module(number: u32) -> FilterModule {
        FilterModule { sha256: number.to_string(), location: ModuleLocation::Path(String::new()) }
    }

    #[tokio::test]
    async fn a_change_after_quiet_goes_out_at_once_and_a_storm_together() {
        const DEBOUNCE: Duration = Duration::from_secs(1);
        let (_policy, policies) =
            watch::channel(Arc::new(LoadedPolicy { known: true, ..LoadedPolicy::default() }));
        let (change, modules) = watch::channel(module(0));
        let sources = Sources {
            policy: policies,
            never_put: "never put".into(),
            gateway: None,
            identities: None,
            module: modules,
            edge: fixed(),
            consul: None,
            endpoints: screen(),
            tracker: Tracker::default(),
            shown: None,
        };
        let (publish, mut meshes) = watch::channel(None);
        let running = tokio::spawn(join(sources, DEBOUNCE, publish));
        let start = Instant::now();
        meshes.changed().await.unwrap();
        let first = meshes.borrow_and_update().clone().unwrap();
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
        let last = meshes.borrow().clone().unwrap();
        assert!(Arc::ptr_eq(&first.intentions, &last.intentions), "what is equal is the same");
        drop(change);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn what_changes_while_another_source_is_waited_for_is_no_busy_loop() {
        let (policies, policy) = watch::channel(Arc::<LoadedPolicy>::default());
        let (modules, module_receiver) = watch::channel(module(0));
        let mut sources = Sources {
            policy,
            never_put: "never put".into(),
            gateway: Some(GatewayStatus {
                rules: fixed(),
                health: fixed_as(Health::Starting),
                never_there: "never there".into(),
                trouble: fixed(),
            }),
            identities: None,
            module: module_receiver,
            edge: fixed(),
            consul: None,
            endpoints: screen(),
            tracker: Tracker::default(),
            shown: None,
        };
        assert!(sources.latest().is_none(), "the policy is not known");
        for known in [loaded("endpoints: ['10.0.0.9:1']"), Arc::default()] {
            policies.send_replace(known);
            modules.send_replace(module(1));
            assert_eq!(sources.changed().now_or_never(), Some(true));
            assert!(sources.latest().is_none(), "nor the rules");
            assert_eq!(sources.changed().now_or_never(), None, "what was seen wakes nobody");
        }
    }

    fn loaded(service: &str) -> Arc<LoadedPolicy> {
        let policy = Arc::new(parse(&format!("services: [{{name: s, {service}}}]")).unwrap());
        Arc::new(LoadedPolicy { known: true, policy, ..LoadedPolicy::default() })
    }

    fn known(wanted: &Wanted, health: InstanceHealth) -> Arc<Catalog> {
        let instance = Instance {
            id: String::new(),
            node: String::new(),
            address: [10, 0, 0, 1].into(),
            port: 1,
            weight: 1,
            health,
        };
        let here = wanted.lookups.iter().flatten().filter(|lookup| lookup.datacenter == "aws");
        let instances = here.map(|lookup| (lookup.clone(), [instance.clone()].into())).collect();
        Arc::new(Catalog { local: "aws".to_owned(), instances, ..Catalog::default() })
    }

    /// One that is well and tells nothing else.
    fn told(catalog: watch::Receiver<Arc<Catalog>>, wanted: watch::Sender<Wanted>) -> ConsulLink {
        let status = ConsulStatus {
            catalog,
            intentions: fixed(),
            identities: fixed(),
            health: fixed_as(Health::Ok),
            waits: fixed(),
        };
        ConsulLink { status, wanted, is_authority: false }
    }

    /// A value that stays.
    fn fixed_as<T>(value: T) -> watch::Receiver<T> {
        let (sender, receiver) = watch::channel(value);
        std::mem::forget(sender);
        receiver
    }

    fn fixed<T: Default>() -> watch::Receiver<T> {
        fixed_as(T::default())
    }

    #[tokio::test]
    async fn a_service_moves_to_consul_once_consul_has_answered_and_comes_back_step_by_step() {
        let (policies, policy) = watch::channel(loaded("endpoints: ['10.0.0.9:1']"));
        let (catalogs, catalog) = watch::channel(known(&Wanted::default(), InstanceHealth::Passing));
        let (wanted, mut wants) = watch::channel(Wanted::default());
        let (_module, modules) = watch::channel(module(0));
        let consul = Some(told(catalog, wanted));
        let tracker = Tracker::default();
        let sources = Sources {
            policy,
            never_put: "never put".into(),
            gateway: None,
            identities: None,
            module: modules,
            edge: fixed(),
            consul,
            endpoints: screen(),
            tracker,
            shown: None,
        };
        let (publish, mut meshes) = watch::channel(None);
        let running = tokio::spawn(join(sources, Duration::ZERO, publish));
        meshes.changed().await.unwrap();
        meshes.mark_unchanged();

        policies.send_replace(loaded(
            "consul: {service: game}, failover: {targets: [{datacenter: azure}], fail_back: {after: 200ms, over: 0}}",
        ));
        let wants =
            wants.wait_for(|wanted| wanted.lookups.iter().flatten().count() == 2).await.unwrap().clone();
        assert!(!meshes.has_changed().unwrap(), "Consul has not answered");
        // Nobody waits for azure.
        catalogs.send_replace(known(&wants, InstanceHealth::Passing));
        let here = wants.lookups.iter().flatten().find(|lookup| lookup.datacenter == "aws").unwrap();
        let is_consul =
            |mesh: &Option<Arc<Mesh>>| mesh.as_ref().is_some_and(|m| m.policy.services[0].consul.is_some());
        meshes.wait_for(is_consul).await.unwrap();

        let share = |mesh: &Option<Arc<Mesh>>| mesh.as_ref().map(|mesh| mesh.placement.share("s", here));
        let critical = known(&wants, InstanceHealth::Critical);
        catalogs.send_replace(Arc::clone(&critical));
        meshes.wait_for(|mesh| mesh.as_ref().is_some_and(|mesh| mesh.catalog == critical)).await.unwrap();
        catalogs.send_replace(known(&wants, InstanceHealth::Passing));
        let start = Instant::now();
        meshes.wait_for(|mesh| share(mesh) == Some(0)).await.unwrap();
        meshes.wait_for(|mesh| share(mesh) == Some(100)).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        drop(policies);
        running.await.unwrap();
    }
}
