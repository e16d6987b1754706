//! What operators see of the embedded authority in Prometheus.

use prometheus::{IntCounter, IntGauge, Registry};

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) roots: IntGauge,
    pub(super) leaves: IntGauge,
    pub(super) issued: IntCounter,
    pub(super) failures: IntCounter,
}

impl Metrics {
    /// Registers all of them; fails if they are registered already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            roots: IntGauge::new(
                "realmgate_ca_roots",
                "Roots of the embedded authority, two while one follows another.",
            )?,
            leaves: IntGauge::new("realmgate_ca_leaves", "Services that have a certificate of it.")?,
            issued: IntCounter::new("realmgate_ca_issued_total", "Certificates that it made.")?,
            failures: IntCounter::new(
                "realmgate_ca_failures_total",
                "Times that it could not make or keep one.",
            )?,
        };
        registry.register(Box::new(metrics.roots.clone()))?;
        registry.register(Box::new(metrics.leaves.clone()))?;
        registry.register(Box::new(metrics.issued.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        Ok(metrics)
    }
}
