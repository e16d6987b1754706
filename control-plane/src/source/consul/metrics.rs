//! What operators see of Consul in Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::error::ConsulError;

/// Questions of one client and those of them that failed, by reason.
#[derive(Clone, Debug)]
pub(in crate::source) struct Requests {
    all: IntCounter,
    errors: IntCounterVec,
}

impl Requests {
    /// Every reason has its series from the start.
    pub(in crate::source) fn new(all: IntCounter, errors: IntCounterVec) -> Self {
        for label in ConsulError::LABELS {
            add(&errors, label, 0);
        }
        Self { all, errors }
    }

    /// A question was answered, or failed.
    pub(super) fn asked(&self, error: Option<&ConsulError>) {
        self.all.inc();
        if let Some(error) = error {
            self.failed(error);
        }
    }

    /// A question that is counted had no answer that is of use.
    pub(super) fn failed(&self, error: &ConsulError) {
        add(&self.errors, error.label(), 1);
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) requests: Requests,
    up: IntGaugeVec,
    parts: Mutex<BTreeSet<String>>,
    instances: IntGaugeVec,
    refused: IntGauge,
    refusals: IntCounterVec,
    intentions: IntGauge,
    leaves: IntGauge,
    leaf_renewals: IntCounter,
    leaf_expiry: IntGauge,
}

impl Metrics {
    /// Registers all of them; fails if they are registered already.
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help, label| IntGaugeVec::new(Opts::new(name, help), &[label]);
        let counters = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let all = IntCounter::new(
            "realmgate_consul_requests_total",
            "Questions to Consul that were answered or failed.",
        )?;
        let errors = counters(
            "realmgate_consul_request_errors_total",
            "Questions to Consul that failed, by reason.",
            "reason",
        )?;
        registry.register(Box::new(all.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        let metrics = Self {
            requests: Requests::new(all, errors),
            up: gauges(
                "realmgate_consul_up",
                "Whether a part of what is taken from Consul is up to date, 0 or 1; while 0 its last good value is served.",
                "part",
            )?,
            parts: Mutex::default(),
            instances: gauges(
                "realmgate_consul_instances",
                "Instances that were read, by datacenter.",
                "datacenter",
            )?,
            refused: IntGauge::new(
                "realmgate_consul_entries_refused",
                "Configuration entries that cannot be used now.",
            )?,
            refusals: counters(
                "realmgate_consul_refusals_total",
                "What Consul told and cannot be used, each counted when it appears: `entry`, `instance`, `intention`.",
                "what",
            )?,
            intentions: IntGauge::new("realmgate_consul_intentions", "Intentions that Consul told.")?,
            leaves: IntGauge::new("realmgate_consul_leaf_certificates", "Leaf certificates that are held.")?,
            leaf_renewals: IntCounter::new(
                "realmgate_consul_leaf_renewals_total",
                "Leaf certificates that were replaced.",
            )?,
            leaf_expiry: IntGauge::new(
                "realmgate_consul_leaf_expiry_timestamp_seconds",
                "When the first of the leaf certificates ends, in seconds since 1970; 0 = there is none.",
            )?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.instances.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.refusals.clone()))?;
        registry.register(Box::new(metrics.intentions.clone()))?;
        registry.register(Box::new(metrics.leaves.clone()))?;
        registry.register(Box::new(metrics.leaf_renewals.clone()))?;
        registry.register(Box::new(metrics.leaf_expiry.clone()))?;
        for what in ["entry", "instance", "intention"] {
            add(&metrics.refusals, what, 0);
        }
        Ok(metrics)
    }

    /// Which parts are up to date; one that is not named is no longer wanted.
    pub(super) fn up(&self, parts: &BTreeMap<String, bool>) {
        let mut known = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in known.iter().filter(|part| !parts.contains_key(*part)) {
            // An error means that it is not there.
            let _ = self.up.remove_label_values(&[gone]);
        }
        *known = parts.keys().cloned().collect();
        for (part, up) in parts {
            set(&self.up, part, usize::from(*up));
        }
    }

    /// So many instances of a datacenter are known.
    pub(super) fn instances(&self, datacenter: &str, count: usize) {
        set(&self.instances, datacenter, count);
    }

    /// Nothing is wanted of a datacenter any more.
    pub(super) fn forget(&self, datacenter: &str) {
        // An error means that nothing was read of it.
        let _ = self.instances.remove_label_values(&[datacenter]);
    }

    /// So many entries are refused, of which some appeared.
    pub(super) fn entries(&self, refused: usize, appeared: usize) {
        self.refused.set(number(refused));
        add(&self.refusals, "entry", u64::try_from(appeared).unwrap_or(u64::MAX));
    }

    /// Something else that cannot be used.
    pub(super) fn refusal(&self, what: &str) {
        add(&self.refusals, what, 1);
    }

    /// So many intentions are known.
    pub(super) fn intentions(&self, count: usize) {
        self.intentions.set(number(count));
    }

    /// So many leaves are held, and when the first ends.
    pub(super) fn leaves(&self, count: usize, first_end: u64, replaced: bool) {
        self.leaves.set(number(count));
        self.leaf_expiry.set(i64::try_from(first_end).unwrap_or(i64::MAX));
        self.leaf_renewals.inc_by(u64::from(replaced));
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// `with_label_values` panics where these do nothing; neither can happen, for each has one label.
fn add(counters: &IntCounterVec, label: &str, count: u64) {
    if let Ok(counter) = counters.get_metric_with_label_values(&[label]) {
        counter.inc_by(count);
    }
}

fn set(gauges: &IntGaugeVec, label: &str, count: usize) {
    if let Ok(gauge) = gauges.get_metric_with_label_values(&[label]) {
        gauge.set(number(count));
    }
}
