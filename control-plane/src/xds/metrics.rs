//! The metrics of the xDS server.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets};

use super::ResourceType;
use super::message::Response;

/// The metrics, registered once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pushes: IntCounterVec,
    rejects: IntCounterVec,
    refused: IntCounterVec,
    unknown_types: prometheus::IntCounter,
    pub(crate) connected: IntGauge,
    pub(crate) held: IntGauge,
    pub(crate) convergence: Histogram,
    queue: Histogram,
    config_size: Histogram,
}

impl Metrics {
    /// Defines the metrics and registers them; fails when a name is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let connected = IntGauge::new("realmgate_xds_connected_proxies", "Proxies with an open xDS stream.")?;
        registry.register(Box::new(connected.clone()))?;
        let held = IntGauge::new(
            "realmgate_xds_held_proxies",
            "Proxies that keep resources which are not known here, since a source was never heard; `realmgate proxies` says why.",
        )?;
        registry.register(Box::new(held.clone()))?;
        let unknown_types = prometheus::IntCounter::new(
            "realmgate_xds_unknown_type_requests_total",
            "Requests for resource types that are not served; they are ignored.",
        )?;
        registry.register(Box::new(unknown_types.clone()))?;
        Ok(Self {
            pushes: counters("realmgate_xds_pushes_total", "Responses sent to proxies.", "type")?,
            rejects: counters("realmgate_xds_rejects_total", "Responses refused by proxies.", "type")?,
            refused: counters(
                "realmgate_xds_streams_refused_total",
                "Streams ended because of what the proxy sent.",
                "reason",
            )?,
            unknown_types,
            connected,
            held,
            // 1 ms (one proxy on the same host) to 32 s (beyond Envoy's own 15 s of waiting).
            convergence: histogram(
                "realmgate_proxy_convergence_seconds",
                "From a change, or a proxy's connecting, to the proxy having acknowledged all of it.",
                exponential_buckets(0.001, 2.0, 16)?,
            )?,
            // The same, from a tenth of it on.
            queue: histogram(
                "realmgate_xds_queue_seconds",
                "From a change to the stream of a proxy taking it up: slow proxies take it up late.",
                exponential_buckets(0.0001, 2.0, 19)?,
            )?,
            // 256 bytes (one endpoint) to 64 MiB (the largest message).
            config_size: histogram(
                "realmgate_xds_config_size_bytes",
                "Bytes of resources in one response.",
                exponential_buckets(256.0, 4.0, 10)?,
            )?,
        })
    }

    pub(crate) fn pushed(&self, responses: &[Response]) {
        for response in responses {
            self.pushes.with_label_values(&[response.kind.label()]).inc();
            // Sizes stay far below 2^52.
            #[expect(clippy::cast_precision_loss)]
            self.config_size.observe(response.size() as f64);
        }
    }

    pub(crate) fn queued(&self, time: Duration) {
        self.queue.observe(time.as_secs_f64());
    }

    pub(crate) fn rejected(&self, kind: ResourceType) {
        self.rejects.with_label_values(&[kind.label()]).inc();
    }

    pub(crate) fn stream_refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn unknown_type(&self) {
        self.unknown_types.inc();
    }
}
