//! The last good policy on disk, so that a start while Consul is down serves it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::super::{Held, OverlayText, PolicyInfo, Slot, StoredPolicy, Trouble, Written};
use crate::source::consul::ConsulConfig;
use crate::source::saved;

/// Name of the file in `data_dir`.
const FILE: &str = "policy-consul.json";
/// Raised when older releases could not read the file.
const FORMAT: u32 = 1;

const NOT_YET: &str = "Consul has not told the policy in this run";

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Whose policy this is: another Consul or prefix has another one.
    address: String,
    prefix: String,
    /// Whose overlay this is.
    datacenter: String,
    policy: Option<Policy>,
    overlay: Option<Overlay>,
}

#[derive(Serialize, Deserialize)]
struct Policy {
    info: PolicyInfo,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Overlay {
    key: String,
    text: String,
}

/// The file and whose policy belongs into it.
#[derive(Clone, Debug)]
pub(super) struct GoodCopy {
    directory: PathBuf,
    address: String,
    prefix: String,
}

impl GoodCopy {
    /// Makes the directory if it is missing.
    pub(super) fn new(config: &ConsulConfig, prefix: &str) -> io::Result<Self> {
        saved::prepare(&config.data_dir)?;
        Ok(Self {
            directory: config.data_dir.clone(),
            address: config.address.clone(),
            prefix: prefix.to_owned(),
        })
    }

    /// What an earlier run left; `None` if that is nothing, nothing readable, or of another Consul, prefix or datacenter
    /// (empty = whichever). An unreadable file is kept aside for people to look at.
    pub(super) fn load(&self, datacenter: &str) -> Option<Held> {
        let path = self.directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read the last good policy; starting without it");
                return None;
            }
        };
        let problem = match serde_json::from_slice::<Document>(&bytes) {
            Ok(document) if document.format != FORMAT => {
                format!("its format is {}, not {FORMAT}", document.format)
            }
            Ok(document) => {
                let ours = document.address == self.address && document.prefix == self.prefix;
                if ours && (datacenter.is_empty() || datacenter == document.datacenter) {
                    return Some(document.into());
                }
                tracing::warn!(
                    path = %path.display(), address = document.address, prefix = document.prefix,
                    datacenter = document.datacenter,
                    "the last good policy is of another Consul, prefix or datacenter; starting without it"
                );
                return None;
            }
            Err(error) => error.to_string(),
        };
        let aside = self.directory.join(format!("{FILE}.corrupt"));
        let moved = fs::rename(&path, &aside);
        tracing::error!(
            path = %path.display(), problem, kept_at = %aside.display(), kept = moved.is_ok(),
            "the last good policy is unreadable; starting without it"
        );
        None
    }

    pub(super) async fn save(
        &self,
        datacenter: String,
        policy: Option<Arc<StoredPolicy>>,
        overlay: Option<Arc<OverlayText>>,
    ) {
        let policy = policy.map(|p| Policy { info: p.info.clone(), text: p.text.to_string() });
        let overlay = overlay.map(|o| Overlay { key: o.key.clone(), text: o.text.to_string() });
        let Self { directory, address, prefix } = self.clone();
        let document = Document { format: FORMAT, address, prefix, datacenter, policy, overlay };
        let save = move || saved::replace(&directory, FILE, &serde_json::to_vec(&document)?);
        match spawn_blocking(save).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot save the policy for a start without Consul"),
            Err(error) => tracing::error!(%error, "saving the policy was cut short"),
        }
    }
}

impl From<Document> for Held {
    fn from(document: Document) -> Self {
        fn left<T>(value: T) -> Slot<T> {
            Slot { heard: true, value, trouble: Some(Trouble::Lost(NOT_YET.to_owned())), index: 0 }
        }
        let version =
            |p: Policy| Written::Version(Arc::new(StoredPolicy { info: p.info, text: p.text.into() }));
        let overlay = document.overlay.map(|o| Arc::new(OverlayText { key: o.key, text: o.text.into() }));
        let policy = document.policy.map_or(Written::Nothing, version);
        Self { policy: left(policy), overlay: left(overlay), last: None }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(directory: &Path, address: &str) -> ConsulConfig {
        ConsulConfig {
            address: address.to_owned(),
            token_file: None,
            ca_file: None,
            datacenter: String::new(),
            data_dir: directory.to_owned(),
        }
    }

    #[tokio::test]
    async fn what_was_good_comes_back_where_it_belongs() {
        let directory = tempfile::tempdir().unwrap();
        let copy =
            |address: &str, prefix: &str| GoodCopy::new(&config(directory.path(), address), prefix).unwrap();
        let ours = copy("http://a", "p/");
        assert_eq!(ours.load(""), None);
        let info = PolicyInfo {
            version: 3,
            etag: "e".to_owned(),
            author: "ada".to_owned(),
            time: 1,
            message: String::new(),
        };
        let stored = Arc::new(StoredPolicy { info, text: "routes: []".into() });
        let overlay = Arc::new(OverlayText { key: "p/overlay/aws".to_owned(), text: "{}".into() });
        ours.save("aws".to_owned(), Some(Arc::clone(&stored)), Some(Arc::clone(&overlay))).await;
        for datacenter in ["", "aws"] {
            let held = ours.load(datacenter).unwrap();
            assert_eq!((held.latest(), held.overlay.value.as_ref()), (Some(&stored), Some(&overlay)));
            assert!(held.policy.heard && held.policy.trouble.is_some(), "known, and not up to date");
        }
        assert_eq!(ours.load("azure"), None);
        assert_eq!(copy("http://b", "p/").load(""), None);
        assert_eq!(copy("http://a", "q/").load(""), None);
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(ours.load(""), None);
        assert!(directory.path().join("policy-consul.json.corrupt").exists());
    }
}
