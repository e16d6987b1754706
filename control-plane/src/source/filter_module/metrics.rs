//! What operators see of the filter module in Prometheus.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    up: IntGauge,
    refusals: IntCounterVec,
}

impl Metrics {
    /// Registers all of them; fails if they are registered already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            up: IntGauge::new(
                "realmgate_filter_module_up",
                "Whether the filter module can be read and used, 0 or 1.",
            )?,
            refusals: IntCounterVec::new(
                Opts::new(
                    "realmgate_filter_module_refusals_total",
                    "Filter modules that cannot be used, each counted when it appears.",
                ),
                &["reason"],
            )?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        Ok(metrics)
    }

    pub(super) fn up(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    /// A module that cannot be used.
    pub(super) fn refused(&self, reason: &str) {
        // `with_label_values` would panic where this does nothing; it cannot happen with one label.
        if let Ok(counter) = self.refusals.get_metric_with_label_values(&[reason]) {
            counter.inc();
        }
    }
}
