//! What operators see of the old gateway's rules in Prometheus.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::parse::Outcome;
use super::{GatewayRules, RuleOrigin};

/// Both origins, each of which has its label from the start.
const ORIGINS: [RuleOrigin; 2] = [RuleOrigin::Rules, RuleOrigin::RealmMapping];

#[derive(Debug)]
pub(super) struct Metrics {
    rules: IntGauge,
    refused: IntGaugeVec,
    refusals: IntCounterVec,
    refresh_success: IntCounterVec,
    refresh_errors: IntCounterVec,
    connected: IntGauge,
    subscribed: IntGauge,
}

impl Metrics {
    /// Registers all of them; fails if they are registered already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| IntGauge::new(name, help);
        let counters = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            rules: gauge("realmgate_gateway_rules", "Rules of the old gateway that are served.")?,
            refused: IntGaugeVec::new(
                Opts::new("realmgate_gateway_rules_refused", "Rules refused at the last reading."),
                &["origin"],
            )?,
            refusals: counters(
                "realmgate_gateway_rule_refusals_total",
                "Rules refused, each counted when it appears.",
                "reason",
            )?,
            refresh_success: counters(
                "realmgate_config_refresh_success_total",
                "Readings of a Redis key that could be used.",
                "config_type",
            )?,
            refresh_errors: counters(
                "realmgate_config_refresh_errors_total",
                "Attempts to read a Redis key that left its last good rules in place.",
                "config_type",
            )?,
            connected: gauge("realmgate_redis_connected", "Whether Redis is connected, 0 or 1.")?,
            subscribed: gauge(
                "realmgate_redis_subscribed",
                "Whether Redis notifies of changes, 0 or 1; without, they are seen at the next refresh.",
            )?,
        };
        registry.register(Box::new(metrics.rules.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        registry.register(Box::new(metrics.refresh_success.clone()))?;
        registry.register(Box::new(metrics.refresh_errors.clone()))?;
        registry.register(Box::new(metrics.connected.clone()))?;
        registry.register(Box::new(metrics.subscribed.clone()))?;
        for origin in ORIGINS {
            add(&metrics.refresh_success, origin.label(), 0);
            add(&metrics.refresh_errors, origin.label(), 0);
        }
        metrics.served(&GatewayRules::default());
        Ok(metrics)
    }

    /// These rules are served.
    pub(super) fn served(&self, rules: &GatewayRules) {
        self.rules.set(i64::try_from(rules.rules.len()).unwrap_or(i64::MAX));
        for origin in ORIGINS {
            let refused = rules.refused.iter().filter(|refusal| refusal.origin == origin).count();
            if let Ok(gauge) = self.refused.get_metric_with_label_values(&[origin.label()]) {
                gauge.set(i64::try_from(refused).unwrap_or(i64::MAX));
            }
        }
    }

    /// A refusal appeared.
    pub(super) fn refusal(&self, reason: &str) {
        add(&self.refusals, reason, 1);
    }

    /// Both keys were read.
    pub(super) fn read(&self, outcome: &Outcome) {
        let results =
            [(RuleOrigin::Rules, &outcome.routing_rules), (RuleOrigin::RealmMapping, &outcome.realm_mapping)];
        for (origin, result) in results {
            let counter = if result.is_ok() { &self.refresh_success } else { &self.refresh_errors };
            add(counter, origin.label(), 1);
        }
    }

    /// Redis is connected, and subscribed or not.
    pub(super) fn connected(&self, subscribed: bool) {
        self.connected.set(1);
        self.subscribed.set(subscribed.into());
    }

    /// The connection is lost or was not made, so nothing was read.
    pub(super) fn lost(&self) {
        self.connected.set(0);
        self.subscribed.set(0);
        for origin in ORIGINS {
            add(&self.refresh_errors, origin.label(), 1);
        }
    }
}

/// `with_label_values` panics where this does nothing; neither can happen, for each has one label.
fn add(counters: &IntCounterVec, label: &str, count: u64) {
    if let Ok(counter) = counters.get_metric_with_label_values(&[label]) {
        counter.inc_by(count);
    }
}
