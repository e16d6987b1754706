//! The policy at start: its store, and the file that settings name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::{ServeError, consul_config, internal};
use crate::model::{self, EndpointPolicy};
use crate::settings::{PolicyStore as Kind, Settings};
use crate::source::policy::{ApplyError, PolicySource, Unfinished};
use crate::source::policy_store::{NewPolicy, PolicyStore, Precondition, PutError, etag};
use crate::source::saved;

/// How long the start waits for Consul to tell the policy: what else starts then knows which certificates are wanted.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a policy file that could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// In `data_dir`: the etag of a policy file that was held back, which leaves no trace in the history.
const HELD: &str = "policy-file.held";

/// How versions that came from `policy.file` are signed.
const FILE_AUTHOR: &str = "policy.file";

/// Opens the store, follows it, and puts `policy.file` in force.
pub(super) async fn start(
    settings: &Settings,
    endpoints: Arc<EndpointPolicy>,
    metrics: &prometheus::Registry,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<PolicySource>, ServeError> {
    let store = match settings.policy.store {
        Kind::Embedded => PolicyStore::open(&settings.data_dir).await?,
        Kind::Consul => {
            PolicyStore::consul(&consul_config(settings), &settings.policy.consul_prefix, metrics)?
        }
    };
    let policy = PolicySource::new(store, metrics).await.map_err(internal)?;
    let policy = Arc::new(policy.holding_against(endpoints).await);
    tasks.spawn({
        let policy = Arc::clone(&policy);
        async move { policy.follow().await }
    });
    if settings.policy.store == Kind::Consul {
        policy.known_within(PATIENCE).await;
    }
    if let Some(path) = &settings.policy.file {
        import(&policy, path, &settings.data_dir, tasks).await?;
    }
    Ok(policy)
}

/// Puts `policy.file` in force; later, if the store does not answer now.
async fn import(
    policy: &Arc<PolicySource>,
    path: &Path,
    data_dir: &Path,
    tasks: &mut JoinSet<()>,
) -> Result<(), ServeError> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| ServeError::PolicyFile { path: path.to_owned(), source })?;
    let file = File { path: path.to_owned(), text, data_dir: data_dir.to_owned() };
    let error = match file.import(policy).await {
        Err(error) if is_unavailable(&error) => error,
        done => return done,
    };
    model::parse(&file.text).map_err(|problems| file.refused(ApplyError::Invalid(problems)))?;
    tracing::warn!(file = %path.display(), %error, "policy file is not applied yet");
    let policy = Arc::clone(policy);
    tasks.spawn(async move {
        while let Err(error) = file.import(&policy).await {
            if !is_unavailable(&error) {
                return tracing::error!(%error, "policy file is not applied");
            }
            sleep(AGAIN).await;
        }
    });
    Ok(())
}

const fn is_unavailable(error: &ServeError) -> bool {
    match error {
        ServeError::Apply { source: ApplyError::Unfinished(why), .. } => !matches!(why, Unfinished::Failed),
        ServeError::Store(error)
        | ServeError::Apply { source: ApplyError::Store(PutError::Store(error)), .. } => {
            error.is_unavailable()
        }
        _ => false,
    }
}

/// A policy file that was read.
struct File {
    path: PathBuf,
    text: String,
    /// Where it is remembered that it was held back.
    data_dir: PathBuf,
}

impl File {
    /// Puts it in force if it says something new: a restart with an unchanged file must not undo what was applied
    /// through the API since.
    async fn import(&self, policy: &PolicySource) -> Result<(), ServeError> {
        let file = self.path.display();
        if policy.is_latest_of(FILE_AUTHOR, &self.text).await? {
            tracing::info!(%file, "policy file has not changed since it was applied");
            return Ok(());
        }
        let current = policy.current();
        let is_in_force = current.stored.as_ref().is_some_and(|stored| *stored.text == *self.text);
        let held = tokio::fs::read_to_string(self.data_dir.join(HELD)).await.unwrap_or_default();
        if !is_in_force && held == etag(&self.text) {
            policy.go_on_holding_file_back(&format!("policy.file {file}")).await;
            return Ok(());
        }
        let new =
            NewPolicy { text: self.text.clone(), author: FILE_AUTHOR.to_owned(), message: file.to_string() };
        let applied = match policy.apply(new, Precondition::Any).await {
            // What is in force is better than no control plane.
            Err(ApplyError::Store(PutError::Unconfirmed(unconfirmed))) => {
                let (data_dir, etag) = (self.data_dir.clone(), etag(&self.text));
                let kept = spawn_blocking(move || saved::replace(&data_dir, HELD, etag.as_bytes())).await;
                if let Err(error) = kept.map_err(io::Error::other).flatten() {
                    let data_dir = self.data_dir.display();
                    tracing::warn!(%data_dir, %error, "cannot remember that the policy file was held back");
                }
                policy.hold_file_back(&format!("policy.file {file}"), &unconfirmed).await;
                return Ok(());
            }
            applied => applied.map_err(|source| self.refused(source))?,
        };
        tracing::info!(%file, version = applied.stored.info.version, changed = applied.changed, "policy file applied");
        Ok(())
    }

    fn refused(&self, source: ApplyError) -> ServeError {
        ServeError::Apply { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(count: usize) -> String {
        let service = |i| format!("{{name: s{i}, endpoints: ['10.0.0.1:1']}}");
        format!("services: [{}]", (0..count).map(service).collect::<Vec<_>>().join(", "))
    }

    #[tokio::test]
    async fn a_file_that_was_held_back_does_not_undo_what_is_put_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let put =
            |count| NewPolicy { text: services(count), author: "api".to_owned(), message: String::new() };
        let file = |count| File {
            path: "/etc/policy.yaml".into(),
            text: services(count),
            data_dir: directory.path().to_owned(),
        };
        for (before, expected) in [(12, 12), (9, 9)] {
            // Each turn is a run of the process.
            let store = PolicyStore::open(directory.path()).await.unwrap();
            let policy = PolicySource::new(store, &prometheus::Registry::new()).await.unwrap();
            policy.apply(put(before), Precondition::Any).await.unwrap();
            file(5).import(&policy).await.unwrap();
            assert_eq!(policy.current().policy.services.len(), expected);
            let told = policy.current().problem.clone().unwrap();
            assert!(told.contains("policy.file /etc/policy.yaml") && told.contains("--force"), "{told}");
        }
        let store = PolicyStore::open(directory.path()).await.unwrap();
        let policy = PolicySource::new(store, &prometheus::Registry::new()).await.unwrap();
        file(6).import(&policy).await.unwrap();
        assert_eq!(policy.current().policy.services.len(), 6, "another file is weighed as any");
        assert_eq!(policy.current().problem, None);
    }
}
