//! What operators see in Prometheus of endpoints that are left out.

use prometheus::{IntGaugeVec, Opts, Registry};

use crate::model::{EndpointSource, RefusedReason};

/// How many there are now.
#[derive(Debug)]
pub(super) struct Metrics {
    refused: IntGaugeVec,
}

impl Metrics {
    /// Registers them; fails if they are registered already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help =
            "Endpoints that are named and left out, since settings deny them or nobody may be led there.";
        let refused =
            IntGaugeVec::new(Opts::new("realmgate_endpoints_refused", help), &["source", "reason"])?;
        registry.register(Box::new(refused.clone()))?;
        let metrics = Self { refused };
        metrics.show(|_, _| 0);
        Ok(metrics)
    }

    /// Shows how many there are of each source and reason.
    pub(super) fn show(&self, count: impl Fn(EndpointSource, RefusedReason) -> i64) {
        for source in EndpointSource::ALL {
            for reason in RefusedReason::ALL {
                let labels = [source.label(), reason.label()];
                self.refused.with_label_values(&labels).set(count(source, reason));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn of(&self, source: EndpointSource, reason: RefusedReason) -> i64 {
        self.refused.with_label_values(&[source.label(), reason.label()]).get()
    }
}
