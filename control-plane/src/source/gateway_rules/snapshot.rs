//! The last good rules on disk, so that a restart while Redis is down serves them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::GatewayRule;
use crate::source::saved;

/// Name of the file in `data_dir`.
const FILE: &str = "gateway-rules.json";

/// Raised when older versions could not read the file.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<R> {
    format: u32,
    /// Whose rules these are: those of another prefix belong to another fleet.
    key_prefix: String,
    rules: R,
}

/// The file and whose rules belong into it.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    directory: PathBuf,
    key_prefix: String,
}

impl Snapshot {
    /// Makes the directory if it is missing.
    pub(super) fn new(data_dir: &Path, key_prefix: &str) -> io::Result<Self> {
        saved::prepare(data_dir)?;
        Ok(Self { directory: data_dir.to_owned(), key_prefix: key_prefix.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What the last run left; `None` if that is nothing, nothing readable or another prefix's. An unreadable
    /// file is kept aside for people to look at.
    pub(super) fn load(&self) -> Option<Vec<GatewayRule>> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(
                    path = %path.display(), %error,
                    "cannot read the last good gateway rules; starting without them"
                );
                return None;
            }
        };
        let problem = match serde_json::from_slice::<Document<Vec<GatewayRule>>>(&bytes) {
            Ok(document) if document.format != FORMAT => {
                format!("its format is {}, not {FORMAT}", document.format)
            }
            Ok(document) if document.key_prefix != self.key_prefix => {
                tracing::warn!(
                    path = %path.display(), found = document.key_prefix, wanted = self.key_prefix,
                    "the last good gateway rules are of another key prefix; starting without them"
                );
                return None;
            }
            Ok(document) => return Some(document.rules),
            Err(error) => error.to_string(),
        };
        let aside = self.directory.join(format!("{FILE}.corrupt"));
        let moved = fs::rename(&path, &aside);
        tracing::error!(
            path = %path.display(), problem, kept_at = %aside.display(), kept = moved.is_ok(),
            "the last good gateway rules are unreadable; starting without them"
        );
        None
    }

    /// Replaces the file at once and durably: a crash leaves the old or the new one. Blocks on the disk.
    pub(super) fn save(&self, rules: &[GatewayRule]) -> io::Result<()> {
        let document = Document { format: FORMAT, key_prefix: self.key_prefix.clone(), rules };
        let bytes = serde_json::to_vec_pretty(&document)?;
        saved::replace(&self.directory, FILE, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Strategy;
    use crate::source::gateway_rules::RuleOrigin;

    fn rule() -> GatewayRule {
        GatewayRule {
            origin: RuleOrigin::Rules,
            key: "10".to_owned(),
            server_type: 10,
            world: Some(3),
            service: "account".to_owned(),
            strategy: Strategy::RealmBased,
            endpoints: vec!["[::1]:80".parse().unwrap()],
        }
    }

    #[test]
    fn keeps_rules_for_the_same_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::new(&directory.path().join("made/here"), "a:").unwrap();
        assert_eq!(snapshot.load(), None);
        snapshot.save(&[rule()]).unwrap();
        assert_eq!(snapshot.load(), Some(vec![rule()]));
        snapshot.save(&[]).unwrap();
        assert_eq!(snapshot.load(), Some(vec![]), "no rules are what somebody wrote");

        snapshot.save(&[rule()]).unwrap();
        let other = Snapshot { key_prefix: "b:".to_owned(), ..snapshot.clone() };
        assert_eq!(other.load(), None);
        assert_eq!(snapshot.load(), Some(vec![rule()]), "left in place");
    }

    #[test]
    fn sets_an_unreadable_file_aside() {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::new(directory.path(), "a:").unwrap();
        for bad in ["", "{\"format\":1", "{\"format\":2,\"key_prefix\":\"a:\",\"rules\":[]}"] {
            fs::write(snapshot.path(), bad).unwrap();
            assert_eq!(snapshot.load(), None);
            assert!(!snapshot.path().exists());
            let aside = directory.path().join("gateway-rules.json.corrupt");
            assert_eq!(fs::read_to_string(aside).unwrap(), bad);
        }
    }
}
