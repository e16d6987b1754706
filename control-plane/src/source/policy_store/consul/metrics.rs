//! What operators see of the policy store in Consul.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::source::consul::Requests;

/// Registers the counts of the store's questions; fails if they are registered already.
pub(super) fn register(registry: &Registry) -> prometheus::Result<Requests> {
    let all = IntCounter::new(
        "realmgate_policy_store_requests_total",
        "Requests to Consul for the policy store that were answered or failed.",
    )?;
    let errors = IntCounterVec::new(
        Opts::new(
            "realmgate_policy_store_request_errors_total",
            "Requests to Consul for the policy store that failed, by reason.",
        ),
        &["reason"],
    )?;
    registry.register(Box::new(all.clone()))?;
    registry.register(Box::new(errors.clone()))?;
    Ok(Requests::new(all, errors))
}
