//! Two datacenters that many tests share, and the source on them.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use prometheus::Registry;
use realmgate_control_plane::mesh::Wanted;
use realmgate_control_plane::mesh::catalog::{Catalog, Instance, InstanceHealth, Lookup};
use realmgate_control_plane::source::Health;
use realmgate_control_plane::source::consul::{ConsulConfig, ConsulSource};
use realmgate_tests::Consul;
use realmgate_tests::consul::TwoDatacenters;
use tempfile::TempDir;
use tokio::sync::watch;

/// Most things take milliseconds. A token that went is noticed when the small question of a datacenter, which waits for
/// 10 s, is asked again.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// Two datacenters without ACLs. The tests that use them name their services differently.
pub(crate) struct Shared {
    pub(crate) both: TwoDatacenters,
    _dir: TempDir,
}

/// The datacenters of all tests that run now; the last one stops them.
pub(crate) fn shared() -> Arc<Shared> {
    static SHARED: OnceLock<Mutex<Weak<Shared>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return running;
    }
    let dir = tempfile::tempdir().unwrap();
    let both = TwoDatacenters::start(dir.path(), None).unwrap();
    let new = Arc::new(Shared { both, _dir: dir });
    *shared = Arc::downgrade(&new);
    new
}

/// A source and what it publishes.
pub(crate) struct Following {
    pub(crate) source: ConsulSource,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) registry: Registry,
}

impl Following {
    pub(crate) fn start(consul: &Consul, data_dir: &Path, wanted: Wanted) -> Self {
        Self::with(&config(consul, data_dir), wanted)
    }

    pub(crate) fn with(config: &ConsulConfig, wanted: Wanted) -> Self {
        let registry = Registry::new();
        let (wanted, receiver) = watch::channel(wanted);
        let source = ConsulSource::start(config, receiver, &registry).unwrap();
        Self { source, wanted, registry }
    }

    pub(crate) async fn ok(&self) {
        self.health("it is well", |health| *health == Health::Ok).await;
    }

    pub(crate) async fn health(&self, what: &str, holds: impl FnMut(&Health) -> bool) {
        until(self.source.health(), what, holds).await;
    }

    /// Waits until the catalog is so.
    pub(crate) async fn catalog(&self, what: &str, mut holds: impl FnMut(&Catalog) -> bool) -> Arc<Catalog> {
        until(self.source.catalog(), what, |catalog| holds(catalog)).await
    }

    /// Waits until a lookup tells exactly these: id, port, weight, health.
    pub(crate) async fn instances(&self, lookup: &Lookup, expected: &[(&str, u16, u32, InstanceHealth)]) {
        self.catalog(&format!("{} is {expected:?}", lookup.service), |catalog| {
            let seen = |i: &Instance| (i.id.clone(), i.port, i.weight, i.health);
            let expected =
                expected.iter().map(|(id, port, weight, health)| ((*id).to_owned(), *port, *weight, *health));
            catalog.instances.get(lookup).is_some_and(|now| now.iter().map(seen).eq(expected))
        })
        .await;
    }

    /// A metric's value by its whole name with labels; 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.shown(name).unwrap_or_default()
    }

    /// The same; `None` if it is not there.
    pub(crate) fn shown(&self, name: &str) -> Option<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }
}

pub(crate) fn config(consul: &Consul, data_dir: &Path) -> ConsulConfig {
    ConsulConfig {
        address: consul.url(),
        token_file: None,
        ca_file: None,
        datacenter: String::new(),
        data_dir: data_dir.to_owned(),
    }
}

/// The next value that is so.
pub(crate) async fn until<T: Clone>(
    mut receiver: watch::Receiver<T>,
    what: &str,
    holds: impl FnMut(&T) -> bool,
) -> T {
    let value = tokio::time::timeout(SOON, receiver.wait_for(holds)).await;
    value.unwrap_or_else(|_| panic!("waited in vain until {what}")).expect("the source runs").clone()
}

pub(crate) fn lookup(datacenter: &str, service: &str) -> Lookup {
    Lookup {
        datacenter: datacenter.to_owned(),
        service: service.to_owned(),
        sidecars: false,
        filter: String::new(),
    }
}

pub(crate) fn lookups(lookups: impl IntoIterator<Item = Lookup>) -> Wanted {
    Wanted { lookups: Some(lookups.into_iter().collect()), ..Wanted::default() }
}

pub(crate) fn leaves(services: &[&str]) -> Wanted {
    Wanted { leaves: services.iter().map(|service| (*service).to_owned()).collect(), ..Wanted::default() }
}
