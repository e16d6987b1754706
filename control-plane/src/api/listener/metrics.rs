//! The metrics of the API's listener.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of the listener, registered once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    pub(super) connections: IntGauge,
    pub(super) refused: IntCounterVec,
}

impl ListenerMetrics {
    /// Defines the metrics and registers them; fails when a name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGauge::new("realmgate_api_connections", "Open connections to the API.")?;
        registry.register(Box::new(connections.clone()))?;
        let refused = Opts::new(
            "realmgate_api_connections_refused_total",
            "Connections to the API that were closed because others needed their place, or there was none.",
        );
        let refused = IntCounterVec::new(refused, &["reason"])?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { connections, refused })
    }
}
