//! Snapshots by scope: compiled once, shared by all proxies of the scope, renewed when the mesh changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::encoded::Encoded;
use super::renew;
use super::scopes::{Outdated, Scopes};
use crate::mesh::Mesh;
use crate::xds::{Scope, Snapshot, SnapshotSource, TooManyScopes};

/// Compiles for every scope that some proxy has.
pub struct Compiler {
    scopes: Mutex<Scopes>,
    compiled: watch::Sender<Option<Arc<Mesh>>>,
    newcomer: Notify,
}

impl Compiler {
    /// A compiler without a mesh yet: what it serves is pending, and proxies are sent nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { scopes: Mutex::default(), compiled: watch::channel(None).0, newcomer: Notify::new() }
    }

    /// Compiles whenever the mesh changes or a proxy comes with a scope of its own; ends with the mesh.
    pub async fn run(self: Arc<Self>, mut mesh: watch::Receiver<Option<Arc<Mesh>>>) {
        let mut encoded = Encoded::default();
        loop {
            tokio::select! {
                changed = mesh.changed() => if changed.is_err() { return },
                () = self.newcomer.notified() => {}
            }
            let now = Instant::now();
            let latest = mesh.borrow_and_update().clone();
            let compiler = Arc::clone(&self);
            // Milliseconds of work for the largest policies: off the threads that serve streams.
            let work = tokio::task::spawn_blocking(move || {
                compiler.update(latest.as_ref(), now, &mut encoded);
                encoded
            });
            encoded = work.await.unwrap_or_default();
        }
    }

    /// Brings every scope that still has a proxy to this mesh, forgets the others, and wakes only those whose
    /// resources differ. Streams wait for the lock, so no work is done under it.
    fn update(&self, mesh: Option<&Arc<Mesh>>, changed_at: Instant, encoded: &mut Encoded) {
        let unused = self.lock().take_unused();
        drop(unused);
        let Some(mesh) = mesh else { return };
        let outdated = self.lock().outdated(mesh);
        for Outdated { scope, snapshots, mut memory } in outdated {
            if let Some(snapshot) = renew(mesh, &scope, &mut memory, encoded) {
                snapshots.send_if_modified(|current| {
                    let changed = **current != snapshot;
                    if changed {
                        *current = Arc::new(snapshot.sharing(current).made_at(changed_at));
                    }
                    changed
                });
            }
            self.lock().renewed(&scope, memory, mesh);
        }
        let is_this = |current: &Option<Arc<Mesh>>| current.as_ref().is_some_and(|c| Arc::ptr_eq(c, mesh));
        if !is_this(&self.compiled.borrow()) {
            self.compiled.send_replace(Some(Arc::clone(mesh)));
        }
        encoded.sweep();
    }

    /// The mesh that all snapshots are compiled from, and its successors.
    #[must_use]
    pub fn compiled(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.compiled.subscribe()
    }

    /// A poisoned lock means a panic in between, after which the map is still whole: each step replaces one
    /// value.
    fn lock(&self) -> MutexGuard<'_, Scopes> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Compiler {
    fn default() -> Self {
        Self::new()
    }
}

impl SnapshotSource for Compiler {
    fn subscribe(&self, scope: &Scope) -> Result<watch::Receiver<Arc<Snapshot>>, TooManyScopes> {
        let mut scopes = self.lock();
        if let Some(snapshots) = scopes.get(scope) {
            return Ok(snapshots);
        }
        // Where there is no room, too: those that no proxy has any more are forgotten then.
        self.newcomer.notify_one();
        scopes.enter(scope)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::compile::{Memory, compile};
    use crate::mesh::identity::Leaf;
    use crate::mesh::{FilterModule, ModuleLocation, Unheard};
    use crate::model::{Action, Policy, Strategy as HashStrategy, growth, parse};
    use crate::source::gateway_rules::{GatewayRule, GatewayRules, RuleOrigin};
    use crate::xds::ResourceType::{Cluster, Endpoints};
    use crate::xds::{Ports, Resource, Role};

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
            unheard: Unheard::default(),
        })
    }

    #[test]
    fn what_a_policy_compiles_to_costs_what_its_length_does() {
        let cost = |mesh: &Mesh| {
            let begun = growth::processor_time();
            std::hint::black_box((compile(mesh, &Scope::default()), mesh.has_routes(&[])));
            growth::processor_time().saturating_sub(begun)
        };
        let of = |text: &str| Some(Mesh { policy: Arc::new(parse(text).ok()?), ..Mesh::clone(&mesh(1)) });
        let mut measured = 0;
        for (name, shape) in growth::SHAPES {
            // Some are shapes of documents that are refused.
            let (Some(small), Some(large)) = (of(&shape(40)), of(&shape(320))) else { continue };
            growth::grows_evenly(name, || cost(&small), || cost(&large));
            measured += 1;
        }
        assert!(measured >= 5, "{measured} shapes are policies");
    }

    #[test]
    fn a_listener_that_no_route_names_has_none() {
        let known = Mesh::clone(&mesh(2));
        let wanted = |name: &str| [name.to_owned()];
        assert!(
            known.has_routes(&[]) && known.has_routes(&wanted("edge")) && !known.has_routes(&wanted("x"))
        );
        let mut policy = Policy::clone(&known.policy);
        policy.routes.iter_mut().for_each(|route| route.listeners = vec!["other".to_owned()]);
        assert!(!Mesh { policy: Arc::new(policy), ..known }.has_routes(&[]));
        assert!(Mesh::clone(&with_rules([1, 2, 3])).has_routes(&[]));
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
            strategy: HashStrategy::RoundRobin,
            endpoints: vec![format!("127.0.0.1:{port}").parse().unwrap()],
        };
        let rules = (1..).zip(ports).map(rule).collect();
        let rules = Arc::new(GatewayRules { rules, ..GatewayRules::default() });
        Arc::new(Mesh { rules, ..Mesh::clone(&mesh(1)) })
    }

    #[test]
    fn what_changed_before_is_not_encoded_again() {
        let (compiler, mut encoded) = (Compiler::new(), Encoded::default());
        let snapshots = compiler.subscribe(&Scope::default()).unwrap();
        let mut endpoints = |ports| {
            compiler.update(Some(&with_rules(ports)), Instant::now(), &mut encoded);
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

    proptest! {
        /// Replicas that were started at different times have seen different things, and proxies move between them.
        #[test]
        fn what_came_before_is_in_no_resource(came in proptest::collection::vec(0..6_u16, 0..6)) {
            let nth = |nth: u16| match nth {
                0..3 => mesh(nth + 1),
                _ => with_rules([nth, 1, 1]),
            };
            let (compiler, mut encoded) = (Compiler::new(), Encoded::default());
            let scopes = [false, true].map(|old| Scope { hashes_addresses: old, ..Scope::default() });
            let snapshots = scopes.each_ref().map(|scope| compiler.subscribe(scope).unwrap());
            for mesh in came.into_iter().chain([5]).map(nth) {
                compiler.update(Some(&mesh), Instant::now(), &mut encoded);
            }
            for (scope, snapshot) in scopes.iter().zip(&snapshots) {
                prop_assert_eq!(&**snapshot.borrow(), &compile(&nth(5), scope));
            }
        }
    }

    #[tokio::test]
    async fn a_change_makes_anew_what_it_touches_and_nothing_else() {
        let compiler = Arc::new(Compiler::new());
        let (publish, meshes) = watch::channel(None);
        let running = tokio::spawn(Arc::clone(&compiler).run(meshes));
        let mut snapshots = compiler.subscribe(&Scope::default()).unwrap();
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
        let mut others =
            compiler.subscribe(&Scope { datacenter: "aws".to_owned(), ..Scope::default() }).unwrap();
        let other = next(&mut others).await;
        assert!(Arc::ptr_eq(&same(&after), &same(&other)));
        assert!(Arc::ptr_eq(&*compiler.subscribe(&Scope::default()).unwrap().borrow(), &after));
        drop(publish);
        running.await.unwrap();
    }

    #[test]
    fn sidecars_are_made_anew_when_something_of_theirs_changes() {
        let mut encoded = Encoded::default();
        let mut sidecars = ["game", "chat"].map(|service| {
            let ports = Ports { inbound: ([10, 0, 0, 1], 1).into(), app: ([127, 0, 0, 1], 1).into() };
            let (role, service, sidecar) = (Role::Sidecar, service.to_owned(), Some(ports));
            let scope = Scope { role, service, sidecar, ..Scope::default() };
            (scope, Memory::default(), Snapshot::default())
        });
        let mut made_anew = |mesh: &Mesh| {
            sidecars.each_mut().map(|(scope, memory, latest)| {
                let made = renew(mesh, scope, memory, &mut encoded);
                let is_new = made.is_some();
                *latest = made.unwrap_or_else(|| latest.clone());
                assert_eq!(*latest, compile(mesh, scope));
                is_new
            })
        };
        let leaf = |chain: &str| {
            let (uri, chain, key) = (String::new(), chain.to_owned(), String::new());
            let (not_before, not_after) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
            Arc::new(Leaf { uri, chain, key, not_before, not_after })
        };
        let mut mesh = Mesh::clone(&with_rules([1, 1, 1]));
        let identities = Arc::make_mut(&mut mesh.identities);
        identities.roots = ["ROOT".to_owned()].into();
        identities.leaves = [("game".to_owned(), leaf("ONE")), ("chat".to_owned(), leaf("ONE"))].into();
        assert_eq!(made_anew(&mesh), [true, true]);
        mesh.rules = Arc::clone(&with_rules([2, 1, 1]).rules);
        mesh.module.sha256 = "2".to_owned();
        assert_eq!(made_anew(&mesh), [false, false], "rules, and a module that no guard needs");
        Arc::make_mut(&mut mesh.identities).leaves.insert("game".to_owned(), leaf("TWO"));
        assert_eq!(made_anew(&mesh), [true, false], "a leaf");
        Arc::make_mut(&mut mesh.identities).roots = ["OTHER".to_owned()].into();
        assert_eq!(made_anew(&mesh), [true, true], "roots");
        Arc::make_mut(&mut mesh.intentions).default = Action::Allow;
        assert_eq!(made_anew(&mesh), [true, true], "intentions");
        Arc::make_mut(&mut mesh.edge).access_log = Some("/log".to_owned());
        assert_eq!(made_anew(&mesh), [true, true], "the access log");
        Arc::make_mut(&mut mesh.policy).intentions_close = true;
        assert_eq!(made_anew(&mesh), [true, true], "guards");
        mesh.module.sha256 = "3".to_owned();
        assert_eq!(made_anew(&mesh), [true, true], "their module");
    }

    #[test]
    fn who_is_gone_leaves_nothing_behind() {
        let (compiler, mut encoded) = (Compiler::new(), Encoded::default());
        let mesh = mesh(1);
        for cell in 0..100 {
            let scope = Scope { cell: cell.to_string(), ..Scope::default() };
            let snapshots = compiler.subscribe(&scope).unwrap();
            compiler.update(Some(&mesh).filter(|_| cell >= 50), Instant::now(), &mut encoded);
            assert_eq!(snapshots.borrow().is_pending(), cell < 50);
            assert_eq!(compiler.lock().len(), 1);
        }
    }

    #[test]
    fn there_is_room_for_so_many_scopes() {
        let (compiler, mut encoded) = (Compiler::new(), Encoded::default());
        let of_cell = |cell: usize| Scope { cell: cell.to_string(), ..Scope::default() };
        let mut taken: Vec<_> = (0..1_000).map(|cell| compiler.subscribe(&of_cell(cell)).unwrap()).collect();
        assert_eq!(
            compiler.subscribe(&of_cell(1_000)).unwrap_err(),
            TooManyScopes { most: 1_000, of: "in all" }
        );
        assert!(compiler.subscribe(&of_cell(999)).is_ok(), "one that is served");
        let sidecar = Scope { role: Role::Sidecar, ..Scope::default() };
        assert!(compiler.subscribe(&sidecar).is_ok(), "another role");
        taken.pop();
        compiler.update(None, Instant::now(), &mut encoded);
        assert!(compiler.subscribe(&of_cell(1_000)).is_ok());
    }
}
