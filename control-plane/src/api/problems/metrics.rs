//! How many proxies have which problem, in Prometheus.

use prometheus::{IntGaugeVec, Opts, Registry};

use crate::xds::Scope;

use super::{Content, ProxyStatus, REASONS, problems};

/// Set when somebody asks for the metrics: nothing is counted while nobody looks.
#[derive(Clone, Debug)]
pub struct Metrics(IntGaugeVec);

impl Metrics {
    /// Registers them; fails if they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts = Opts::new("realmgate_proxy_problems", "Connected proxies with a problem, by reason.");
        let gauge = IntGaugeVec::new(opts, &["reason"])?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self(gauge))
    }

    /// Counts the problems of these.
    pub fn show(&self, proxies: &[ProxyStatus], module: &Content, has_routes: impl Fn(&Scope) -> bool) {
        let mut counts = REASONS.map(|reason| (reason, 0));
        for problem in proxies.iter().flat_map(|proxy| problems(proxy, module, has_routes(&proxy.scope))) {
            for (_, count) in counts.iter_mut().filter(|(reason, _)| *reason == problem.reason) {
                *count += 1;
            }
        }
        for (reason, count) in counts {
            // `with_label_values` would panic where this does nothing; it cannot happen with one label.
            if let Ok(gauge) = self.0.get_metric_with_label_values(&[reason]) {
                gauge.set(count);
            }
        }
    }
}
