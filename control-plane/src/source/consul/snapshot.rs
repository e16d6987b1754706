//! The last good values on disk, so that a restart while Consul is down serves them. Never keys.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::intentions::Intentions;
use crate::mesh::catalog::{Catalog, Datacenter, Instance, Lookup, ServiceEntries};
use crate::mesh::identity::Identities;
use crate::source::saved;

/// Name of the file in `data_dir`.
const FILE: &str = "consul.json";
/// Raised when older versions could not read the file.
const FORMAT: u32 = 1;
/// Least time between two writings: what a storm leaves is written once.
const SPACING: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Whose values these are: those of another Consul belong to another mesh.
    address: String,
    datacenter: String,
    datacenters: BTreeMap<String, Datacenter>,
    instances: Vec<(Lookup, Vec<Instance>)>,
    entries: BTreeMap<String, ServiceEntries>,
    intentions: Intentions,
    trust_domain: String,
    roots: Vec<String>,
}

/// What the last run left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) catalog: Catalog,
    pub(super) intentions: Intentions,
    pub(super) identities: Identities,
}

/// The file and whose values belong into it.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    directory: PathBuf,
    address: String,
}

impl Snapshot {
    /// Makes the directory if it is missing.
    pub(super) fn new(data_dir: &Path, address: &str) -> io::Result<Self> {
        saved::prepare(data_dir)?;
        Ok(Self { directory: data_dir.to_owned(), address: address.to_owned() })
    }

    /// What the last run left; `None` if that is nothing, nothing readable or another Consul's. An unreadable file is kept
    /// aside for people to look at.
    pub(super) fn load(&self) -> Option<Left> {
        let path = self.directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read what Consul told last; starting without it");
                return None;
            }
        };
        let problem = match serde_json::from_slice::<Document>(&bytes) {
            Ok(document) if document.format != FORMAT => {
                format!("its format is {}, not {FORMAT}", document.format)
            }
            Ok(document) if document.address != self.address => {
                tracing::warn!(
                    path = %path.display(), found = document.address, wanted = self.address,
                    "what Consul told last is of another one; starting without it"
                );
                return None;
            }
            Ok(document) => return Some(document.into()),
            Err(error) => error.to_string(),
        };
        let aside = self.directory.join(format!("{FILE}.corrupt"));
        let moved = fs::rename(&path, &aside);
        tracing::error!(
            path = %path.display(), problem, kept_at = %aside.display(), kept = moved.is_ok(),
            "what Consul told last is unreadable; starting without it"
        );
        None
    }

    /// Blocks on the disk.
    fn save(&self, catalog: &Catalog, intentions: &Intentions, identities: &Identities) -> io::Result<()> {
        let instances =
            catalog.instances.iter().map(|(lookup, instances)| (lookup.clone(), instances.to_vec()));
        let document = Document {
            format: FORMAT,
            address: self.address.clone(),
            datacenter: catalog.local.clone(),
            datacenters: catalog.datacenters.clone(),
            instances: instances.collect(),
            entries: (*catalog.entries).clone(),
            intentions: intentions.clone(),
            trust_domain: identities.trust_domain.clone(),
            roots: identities.roots.to_vec(),
        };
        saved::replace(&self.directory, FILE, &serde_json::to_vec(&document)?)
    }

    /// Writes what changes, for ever, from when `complete` holds: half of it would be taken for all by the next run.
    pub(super) async fn follow(
        self,
        mut catalog: watch::Receiver<Arc<Catalog>>,
        mut intentions: watch::Receiver<Arc<Intentions>>,
        mut identities: watch::Receiver<Arc<Identities>>,
        complete: impl Future<Output = ()>,
    ) {
        complete.await;
        loop {
            let (snapshot, catalog_now) = (self.clone(), Arc::clone(&catalog.borrow_and_update()));
            let intentions_now = Arc::clone(&intentions.borrow_and_update());
            let identities_now = Arc::clone(&identities.borrow_and_update());
            let save = move || snapshot.save(&catalog_now, &intentions_now, &identities_now);
            match spawn_blocking(save).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "cannot save what Consul told"),
                Err(error) => tracing::error!(%error, "saving what Consul told was cut short"),
            }
            sleep(SPACING).await;
            let open = tokio::select! {
                result = catalog.changed() => result.is_ok(),
                result = intentions.changed() => result.is_ok(),
                result = identities.changed() => result.is_ok(),
            };
            if !open {
                return;
            }
        }
    }
}

impl From<Document> for Left {
    fn from(document: Document) -> Self {
        let instances = document.instances.into_iter().map(|(lookup, instances)| (lookup, instances.into()));
        Self {
            catalog: Catalog {
                local: document.datacenter,
                datacenters: document.datacenters,
                instances: instances.collect(),
                entries: Arc::new(document.entries),
                ..Catalog::default()
            },
            intentions: document.intentions,
            identities: Identities {
                trust_domain: document.trust_domain,
                roots: document.roots.into(),
                ..Identities::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::mesh::catalog::InstanceHealth;
    use crate::mesh::identity::Leaf;

    #[test]
    fn all_but_keys_comes_back_to_the_same_consul() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::new(dir.path(), "http://a").unwrap();
        assert_eq!(snapshot.load(), None);
        let lookup = Lookup {
            datacenter: "aws".to_owned(),
            service: "battle".to_owned(),
            sidecars: true,
            filter: String::new(),
        };
        let instance = Instance {
            id: "b1".to_owned(),
            node: "n1".to_owned(),
            address: "10.0.0.1".parse().unwrap(),
            port: 9000,
            weight: 7,
            health: InstanceHealth::Warning,
        };
        let catalog = Catalog {
            local: "aws".to_owned(),
            datacenters: [("aws".to_owned(), Datacenter::default())].into(),
            instances: [(lookup, Arc::from([instance]))].into(),
            entries: Arc::new([("battle".to_owned(), ServiceEntries::default())].into()),
            ..Catalog::default()
        };
        let leaf = Leaf {
            uri: "spiffe://x".to_owned(),
            chain: "chain".to_owned(),
            key: "-----SECRET-----".to_owned(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        };
        let identities = Identities {
            trust_domain: "x.consul".to_owned(),
            roots: Arc::from(["root".to_owned()]),
            datacenter: String::new(),
            leaves: [("edge".to_owned(), Arc::new(leaf))].into(),
            unproven: false,
        };
        snapshot.save(&catalog, &Intentions::default(), &identities).unwrap();
        let left = snapshot.load().unwrap();
        assert_eq!(left.catalog, catalog);
        assert_eq!(left.identities, Identities { leaves: BTreeMap::new(), ..identities });
        assert!(!fs::read_to_string(dir.path().join(FILE)).unwrap().contains("SECRET"));
        assert_eq!(Snapshot::new(dir.path(), "http://b").unwrap().load(), None, "another Consul's");
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(snapshot.load(), None);
        assert!(dir.path().join("consul.json.corrupt").exists());
    }
}
