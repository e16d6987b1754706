//! What operators see of the policy in Prometheus.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    version: IntGauge,
    up: IntGauge,
    never_put: IntGauge,
    refusals: IntCounterVec,
}

impl Metrics {
    /// Registers all of them; fails if they are registered already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            version: IntGauge::new(
                "realmgate_policy_version",
                "Version of the policy in force; 0 = there is none.",
            )?,
            up: IntGauge::new(
                "realmgate_policy_up",
                "Whether the policy in force is the stored one, as far as can be known, 0 or 1.",
            )?,
            never_put: IntGauge::new(
                "realmgate_policy_never_put",
                "Whether no policy was ever put in this policy store, 0 or 1: it is new, or another one, or has lost its data.",
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "realmgate_policy_refusals_total",
                    "Stored documents that cannot be used, each counted when it appears.",
                ),
                &["document", "reason"],
            )?,
        };
        registry.register(Box::new(metrics.version.clone()))?;
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.never_put.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        Ok(metrics)
    }

    /// What is in force, and whether it is what is stored.
    pub(super) fn in_force(&self, version: u64, up: bool) {
        self.version.set(i64::try_from(version).unwrap_or(i64::MAX));
        self.up.set(i64::from(up));
    }

    /// Whether no policy was ever put.
    pub(super) fn never_put(&self, never: bool) {
        self.never_put.set(i64::from(never));
    }

    /// A stored document that cannot be used.
    pub(super) fn refused(&self, document: &str, reason: &str) {
        // `with_label_values` would panic where this does nothing; it cannot happen with two labels.
        if let Ok(counter) = self.refusals.get_metric_with_label_values(&[document, reason]) {
            counter.inc();
        }
    }
}
