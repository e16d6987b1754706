//! Snapshots by scope: compiled once, shared by all proxies of the scope, renewed when the mesh changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::Memory;
use crate::mesh::Mesh;
use crate::xds::{Scope, Snapshot, SnapshotSource};

/// Compiles for every scope that some proxy has.
pub struct Compiler {
    scopes: Mutex<HashMap<Scope, Served>>,
    compiled: watch::Sender<Option<Arc<Mesh>>>,
    newcomer: Notify,
}

/// The snapshots of one scope, and the mesh that the latest is compiled from.
#[derive(Clone, Debug)]
struct Served {
    snapshots: watch::Sender<Arc<Snapshot>>,
    mesh: Option<Arc<Mesh>>,
}

impl Compiler {
    /// A compiler without a mesh yet: what it serves is pending, and proxies are sent nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { scopes: Mutex::default(), compiled: watch::channel(None).0, newcomer: Notify::new() }
    }

    /// Compiles whenever the mesh changes or a proxy comes with a scope of its own; ends with the mesh.
    pub async fn run(self: Arc<Self>, mut mesh: watch::Receiver<Option<Arc<Mesh>>>) {
        let mut memory = Memory::default();
        loop {
            tokio::select! {
                changed = mesh.changed() => if changed.is_err() { return },
                () = self.newcomer.notified() => {}
            }
            let now = Instant::now();
            let Some(latest) = mesh.borrow_and_update().clone() else { continue };
            let compiler = Arc::clone(&self);
            // Milliseconds of work for the largest policies: off the threads that serve streams.
            let work = tokio::task::spawn_blocking(move || {
                compiler.update(&latest, now, &mut memory);
                memory
            });
            memory = work.await.unwrap_or_default();
        }
    }

    /// Brings every scope that still has a proxy to this mesh, forgets the others, and wakes only those whose
    /// resources differ.
    fn update(&self, mesh: &Arc<Mesh>, changed_at: Instant, memory: &mut Memory) {
        let outdated = self.outdated(mesh);
        for (scope, served) in outdated {
            let snapshot = memory.compile(mesh, &scope);
            served.snapshots.send_if_modified(|current| {
                let changed = **current != snapshot;
                if changed {
                    *current = Arc::new(snapshot.sharing(current).made_at(changed_at));
                }
                changed
            });
            if let Some(served) = self.lock().get_mut(&scope) {
                served.mesh = Some(Arc::clone(mesh));
            }
        }
        let same = |current: &Option<Arc<Mesh>>| current.as_ref().is_some_and(|c| Arc::ptr_eq(c, mesh));
        if !same(&self.compiled.borrow()) {
            let scopes = self.lock();
            memory.sweep(|scope| scopes.contains_key(scope));
            drop(scopes);
            self.compiled.send_replace(Some(Arc::clone(mesh)));
        }
    }

    fn outdated(&self, mesh: &Arc<Mesh>) -> Vec<(Scope, Served)> {
        let mut scopes = self.lock();
        scopes.retain(|_, served| served.snapshots.receiver_count() > 0);
        let current = |served: &Served| served.mesh.as_ref().is_some_and(|of| Arc::ptr_eq(of, mesh));
        let outdated = scopes.iter().filter(|(_, served)| !current(served));
        outdated.map(|(scope, served)| (scope.clone(), served.clone())).collect()
    }

    /// The mesh that all snapshots are compiled from, and its successors.
    #[must_use]
    pub fn compiled(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.compiled.subscribe()
    }

    /// A poisoned lock means a panic in between, after which the map is still whole: each step replaces one
    /// value.
    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, Served>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotSource for Compiler {
    fn subscribe(&self, scope: &Scope) -> watch::Receiver<Arc<Snapshot>> {
        let mut scopes = self.lock();
        if let Some(served) = scopes.get(scope) {
            return served.snapshots.subscribe();
        }
        let (snapshots, receiver) = watch::channel(Arc::default());
        scopes.insert(scope.clone(), Served { snapshots, mesh: None });
        self.newcomer.notify_one();
        receiver
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mesh::{FilterModule, ModuleLocation};
    use crate::model::{Strategy, parse};
    use crate::source::gateway_rules::{GatewayRule, GatewayRules, RuleOrigin};
    use crate::xds::Resource;
    use crate::xds::ResourceType::{Cluster, Endpoints};

    fn mesh(port: u16) -> Arc<Mesh> {
        let policy = format!(
            "listeners: [{{name: edge, bind: 127.0.0.1:9}}]\n\
             services: [{{name: one, endpoints: [127.0.0.1:1]}}, {{name: two, endpoints: [127.0.0.1:{port}]}}]\n\
             routes: [{{name: a, server_type: 200, worlds: [1], to: [{{service: one}}]}},\n\
                      {{name: b, server_type: 200, worlds: [2], to: [{{service: two}}]}}]\n"
        );
        let module =
            FilterModule { sha256: String::new(), location: ModuleLocation::Path("/filter".to_owned()) };
        let policy = Arc::new(parse(&policy).expect("the policy is valid"));
        Arc::new(Mesh {
            policy,
            rules: Arc::default(),
            identities: Arc::default(),
            intentions: Arc::default(),
            module,
            edge: Arc::default(),
            catalog: Arc::default(),
            placement: Arc::default(),
        })
    }

    async fn next(snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Arc<Snapshot> {
        let changed = tokio::time::timeout(Duration::from_secs(5), snapshots.changed());
        changed.await.expect("no snapshot").expect("the compiler lives");
        Arc::clone(&snapshots.borrow_and_update())
    }

    /// The mesh with a rule for each of these ports, in the place of its world.
    fn with_rules(ports: [u16; 3]) -> Arc<Mesh> {
        let rule = |(world, port): (u16, u16)| GatewayRule {
            origin: RuleOrigin::Rules,
            key: world.to_string(),
            server_type: 10,
            world: Some(world),
            service: "old".to_owned(),
            strategy: Strategy::RoundRobin,
            endpoints: vec![format!("127.0.0.1:{port}").parse().unwrap()],
        };
        let rules = (1..).zip(ports).map(rule).collect();
        let rules = Arc::new(GatewayRules { rules, ..GatewayRules::default() });
        Arc::new(Mesh { rules, ..Mesh::clone(&mesh(1)) })
    }

    #[test]
    fn what_changed_before_is_not_encoded_again() {
        let (compiler, mut memory) = (Compiler::new(), Memory::default());
        let snapshots = compiler.subscribe(&Scope::default());
        let mut endpoints = |ports| {
            compiler.update(&with_rules(ports), Instant::now(), &mut memory);
            let snapshot = Arc::clone(&snapshots.borrow());
            let of_rules = snapshot.of(Endpoints).iter().filter(|r| r.name().contains("old"));
            let of_rules: Vec<_> = of_rules.cloned().collect();
            <[Arc<Resource>; 3]>::try_from(of_rules).expect("a cluster a rule")
        };
        endpoints([1, 1, 1]);
        endpoints([2, 1, 1]);
        let before = endpoints([2, 2, 1]);
        let after = endpoints([2, 2, 2]);
        let same = [0, 1, 2].map(|rule| Arc::ptr_eq(&before[rule], &after[rule]));
        assert_eq!(same, [true, true, false]);
    }

    #[tokio::test]
    async fn a_change_makes_anew_what_it_touches_and_nothing_else() {
        let compiler = Arc::new(Compiler::new());
        let (publish, meshes) = watch::channel(None);
        let running = tokio::spawn(Arc::clone(&compiler).run(meshes));
        let mut snapshots = compiler.subscribe(&Scope::default());
        assert!(snapshots.borrow().is_pending());
        publish.send_replace(Some(mesh(2)));
        let before = next(&mut snapshots).await;
        publish.send_replace(Some(mesh(3)));
        let after = next(&mut snapshots).await;
        assert!(Arc::ptr_eq(before.of(Cluster), after.of(Cluster)));
        let changes = after.of(Endpoints).changes_since(before.of(Endpoints));
        assert_eq!(changes.len(), 1);
        let same = |of: &Snapshot| Arc::clone(of.of(Endpoints).iter().next().unwrap());
        assert!(Arc::ptr_eq(&same(&before), &same(&after)), "encoded again");

        // A proxy of another scope shares what is encoded, and one of the same scope all.
        let mut others = compiler.subscribe(&Scope { datacenter: "aws".to_owned(), ..Scope::default() });
        let other = next(&mut others).await;
        assert!(Arc::ptr_eq(&same(&after), &same(&other)));
        assert!(Arc::ptr_eq(&*compiler.subscribe(&Scope::default()).borrow(), &after));
        drop(publish);
        running.await.unwrap();
    }
}
