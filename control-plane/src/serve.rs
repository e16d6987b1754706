//! STUB, replaced at merge: runs the control plane.

use crate::settings::Settings;

/// Why it could not serve.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServeError(String);

/// Serves until asked to stop.
#[allow(clippy::unused_async)]
pub async fn serve(settings: Settings) -> Result<(), ServeError> {
    tracing::info!(?settings, "settings");
    Err(ServeError("this build cannot serve".to_owned()))
}
