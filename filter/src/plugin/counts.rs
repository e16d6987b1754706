//! Counters and gauges on their way to Envoy.
//!
//! A call to the host for each would be a third of what a connection costs. So they are added up here and told at the
//! next tick, and when the last connection of the VM ends: on a quiet proxy every number is exact at once.

use std::cell::{Cell, OnceCell};

use super::abi::{self, Kind};
use crate::telemetry::Metric;

/// What is counted is known to Envoy after this many milliseconds at the latest.
pub(super) const TELL_MS: u32 = 250;

thread_local! {
    /// Ids of the metrics, in the order of [`Metric::ALL`]: one VM may carry many root contexts, and each
    /// definition would cost the host another id.
    static IDS: OnceCell<Vec<Option<u32>>> = const { OnceCell::new() };
    /// Not told yet, in the same order.
    static UNTOLD: [Cell<i64>; Metric::ALL.len()] = const { [const { Cell::new(0) }; Metric::ALL.len()] };
    /// Whether any of them is.
    static ARE_UNTOLD: Cell<bool> = const { Cell::new(false) };
    /// Connections of the VM.
    static LIVE: Cell<usize> = const { Cell::new(0) };
}

/// Adds to a metric.
pub(super) fn count(metric: Metric, by: i64) {
    ARE_UNTOLD.set(true);
    UNTOLD.with(|untold| {
        if let Some(sum) = untold.get(metric.index()) {
            sum.set(sum.get().saturating_add(by));
        }
    });
}

/// A connection begins.
pub(super) fn begin() {
    LIVE.set(LIVE.get().saturating_add(1));
}

/// A connection has ended, and is counted.
pub(super) fn end() {
    LIVE.set(LIVE.get().saturating_sub(1));
    if LIVE.get() == 0 {
        tell();
    }
}

/// Makes Envoy know all metrics: those that were never counted are 0, not missing.
pub(super) fn introduce() {
    IDS.with(|ids| {
        ids.get_or_init(define);
    });
}

/// Whether there is anything to tell.
pub(super) fn are_untold() -> bool {
    ARE_UNTOLD.get()
}

/// Tells Envoy; whether there was anything to tell.
pub(super) fn tell() -> bool {
    if !ARE_UNTOLD.take() {
        return false;
    }
    let tell = |(sum, id): (&Cell<i64>, &Option<u32>)| {
        let by = sum.take();
        if let Some(id) = id.filter(|_| by != 0) {
            abi::increment_metric(id, by);
        }
    };
    IDS.with(|ids| UNTOLD.with(|untold| untold.iter().zip(ids.get_or_init(define)).for_each(tell)));
    true
}

fn define() -> Vec<Option<u32>> {
    let define = |metric: Metric| {
        let kind = if metric.is_gauge() { Kind::Gauge } else { Kind::Counter };
        abi::define_metric(kind, metric.name()).ok()
    };
    Metric::ALL.into_iter().map(define).collect()
}
