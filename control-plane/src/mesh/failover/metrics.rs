//! What operators see of failover in Prometheus: of edges' own checks their Envoys tell.

use std::collections::BTreeMap;

use prometheus::{IntGaugeVec, Opts, Registry};

use super::Tracker;

/// How the targets in Consul are doing.
#[derive(Debug)]
pub struct Metrics {
    up: IntGaugeVec,
    returning: IntGaugeVec,
    shown: BTreeMap<[String; 2], Standing>,
}

/// Whether a target is up, and whether it is not given all of its players yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) up: bool,
    pub(super) returning: bool,
}

impl Metrics {
    /// Registers them; fails if they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |name, help| IntGaugeVec::new(Opts::new(name, help), &["datacenter", "service"]);
        let up = gauges(
            "realmgate_failover_target_up",
            "Whether players can be served by a service in a datacenter, by what Consul says, 0 or 1; while 0 they go to the next \
             target.",
        )?;
        let returning = gauges(
            "realmgate_failover_target_returning",
            "Whether it has come back and is not given all of its players yet, 0 or 1.",
        )?;
        registry.register(Box::new(up.clone()))?;
        registry.register(Box::new(returning.clone()))?;
        Ok(Self { up, returning, shown: BTreeMap::new() })
    }

    /// Shows what the tracker found last. Subsets of a service are shown as one, by the one that does worst.
    pub fn show(&mut self, tracker: &Tracker) {
        let mut now: BTreeMap<[String; 2], Standing> = BTreeMap::new();
        for (target, Standing { up, returning }) in tracker.standing() {
            let name = [target.datacenter.clone(), target.service.clone()];
            let standing = now.entry(name).or_insert(Standing { up, returning });
            standing.up &= up;
            standing.returning |= returning;
        }
        for gone in self.shown.keys().filter(|name| !now.contains_key(*name)) {
            // An error means that it is not there.
            let _ = self.up.remove_label_values(&labels(gone));
            let _ = self.returning.remove_label_values(&labels(gone));
        }
        for (name, standing) in now.iter().filter(|(name, standing)| self.shown.get(*name) != Some(*standing))
        {
            // There are as many labels as names of them: this cannot fail.
            for (gauges, value) in [(&self.up, standing.up), (&self.returning, standing.returning)] {
                if let Ok(gauge) = gauges.get_metric_with_label_values(&labels(name)) {
                    gauge.set(i64::from(value));
                }
            }
        }
        self.shown = now;
    }
}

fn labels([datacenter, service]: &[String; 2]) -> [&str; 2] {
    [datacenter, service]
}
