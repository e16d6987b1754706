//! What a run came to: for programs as JSON, for people as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::{Mode, Plan};
use super::tally::Tally;

/// The results of a run. Times are in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The kind of load.
    pub mode: Mode,
    /// Players at a time.
    pub players: usize,
    /// Bytes of a message with its header.
    pub size: usize,
    /// Due in a second; none = as fast as answered.
    pub rate: Option<f64>,
    /// How long the clock ran.
    pub seconds: f64,
    /// Messages answered meanwhile.
    pub messages: u64,
    /// In a second.
    pub messages_per_second: f64,
    /// Connections whose first message was answered meanwhile.
    pub connections: u64,
    /// In a second.
    pub connections_per_second: f64,
    /// Bytes of answers in a second.
    pub bytes_per_second: f64,
    /// From when a message was due until its answer.
    pub latency_us: Quantiles,
    /// From when a connection was due until the answer to its first message.
    pub connect_us: Quantiles,
    /// What went wrong, by label.
    pub errors: BTreeMap<&'static str, u64>,
    /// What became of slow players and nonsense; messages of those who were not there.
    pub ends: BTreeMap<&'static str, u64>,
    /// Who answered those who asked.
    pub answered_by: BTreeMap<String, u64>,
    /// Processes that were watched.
    pub watched: Vec<Watched>,
}

/// A distribution in microseconds, to three digits.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Quantiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// What a process took during a run, gathering included.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Watched {
    /// Its id.
    pub pid: u32,
    /// Processor time.
    pub processor_seconds: f64,
    /// Resident memory before.
    pub before_kib: u64,
    /// When a third of the time had gone; 0 in runs of less than three seconds.
    pub third_kib: u64,
    /// The most seen, once a second.
    pub most_kib: u64,
    /// At the end, when the players have left.
    pub after_kib: u64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let numbers = [self.mean, self.p50, self.p90, self.p99, self.p999, self.max];
        let texts = numbers.iter().map(|number| format!("{number:.0}"));
        [name.to_owned(), self.count.to_string()].into_iter().chain(texts).collect()
    }
}

impl Outcome {
    pub(super) fn new(plan: &Plan, tally: Tally, watched: Vec<Watched>) -> Self {
        let seconds = tally.elapsed.max(Duration::from_nanos(1)).as_secs_f64();
        let each_second = |count: u64| count as f64 / seconds;
        Self {
            mode: plan.mode,
            players: plan.players,
            size: plan.size,
            rate: plan.rate,
            seconds,
            messages: tally.messages,
            messages_per_second: each_second(tally.messages),
            connections: tally.connections,
            connections_per_second: each_second(tally.connections),
            bytes_per_second: each_second(tally.bytes),
            latency_us: Quantiles::of(&tally.latency),
            connect_us: Quantiles::of(&tally.connect),
            errors: tally.errors,
            ends: tally.ends,
            answered_by: tally.answered_by,
            watched,
        }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:?}: {} players, {:.1} s: {:.0} messages/s, {:.0} connections/s, {:.1} MB/s of answers\n",
            self.mode,
            self.players,
            self.seconds,
            self.messages_per_second,
            self.connections_per_second,
            self.bytes_per_second / 1e6,
        );
        let mut times = Table::new();
        times.load_style(presets::UTF8_HORIZONTAL_ONLY);
        times.set_header(["microseconds", "count", "mean", "p50", "p90", "p99", "p99.9", "max"]);
        times.add_row(self.latency_us.row("until a message is answered"));
        times.add_row(self.connect_us.row("until a connection is served"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{times}");
        for (what, counts) in [("errors", &self.errors), ("ends", &self.ends)] {
            let counts: Vec<_> = counts.iter().map(|(label, count)| format!("{label} {count}")).collect();
            if !counts.is_empty() || what == "errors" {
                let _ = writeln!(
                    text,
                    "{what}: {}",
                    if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
                );
            }
        }
        if !self.answered_by.is_empty() {
            let some = self.answered_by.iter().take(8).map(|(name, count)| format!("{name} {count}"));
            let some: Vec<_> = some.collect();
            let dots = if self.answered_by.len() > 8 { ", ..." } else { "" };
            let _ =
                writeln!(text, "answered by {} servers: {}{dots}", self.answered_by.len(), some.join(", "));
        }
        for one in &self.watched {
            let _ = writeln!(
                text,
                "process {}: {:.2} s of processor time, memory {} KiB before, {} after a third, {} at most, {} in the end",
                one.pid, one.processor_seconds, one.before_kib, one.third_kib, one.most_kib, one.after_kib,
            );
        }
        text
    }
}
