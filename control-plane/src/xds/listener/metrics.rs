//! The metrics of the xDS listener: connections, and who was not let in.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The metrics, registered once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ListenerMetrics {
    pub(crate) connections: IntGauge,
    refused: IntCounterVec,
    unauthenticated: IntCounterVec,
    pub(crate) lost: IntCounter,
    pub(crate) accept_errors: IntCounter,
    tls_reloads: IntCounterVec,
    token_reloads: IntCounterVec,
}

impl ListenerMetrics {
    /// Defines the metrics and registers them; fails when a name is taken.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let connections =
            IntGauge::new("realmgate_xds_connections", "Open connections to the xDS listener.")?;
        registry.register(Box::new(connections.clone()))?;
        let lost = IntCounter::new(
            "realmgate_xds_connections_lost_total",
            "Connections closed because nobody answered at the other end.",
        )?;
        registry.register(Box::new(lost.clone()))?;
        let accept_errors = IntCounter::new(
            "realmgate_xds_accept_errors_total",
            "Times the system would not hand over a connection, mostly for want of file descriptors.",
        )?;
        registry.register(Box::new(accept_errors.clone()))?;
        Ok(Self {
            connections,
            refused: counters(
                "realmgate_xds_connections_refused_total",
                "Connections closed before they carried a stream.",
                "reason",
            )?,
            unauthenticated: counters(
                "realmgate_xds_unauthenticated_total",
                "Connections and streams whose credentials were missing or wrong.",
                "reason",
            )?,
            lost,
            accept_errors,
            tls_reloads: counters(
                "realmgate_xds_tls_reloads_total",
                "Changed certificate files that were taken (ok) or not (failed).",
                "result",
            )?,
            token_reloads: counters(
                "realmgate_xds_token_reloads_total",
                "Changed token files that were taken (ok) or not (failed).",
                "result",
            )?,
        })
    }

    pub(super) fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(super) fn unauthenticated(&self, reason: &str) {
        self.unauthenticated.with_label_values(&[reason]).inc();
    }

    pub(super) fn tls_reload(&self, result: &str) {
        self.tls_reloads.with_label_values(&[result]).inc();
    }

    pub(super) fn token_reload(&self, result: &str) {
        self.token_reloads.with_label_values(&[result]).inc();
    }
}
