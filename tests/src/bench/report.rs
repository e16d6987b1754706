//! The report: samples with their spread, the machine's shape, and the text around the tables.

use std::fmt::Write;
use std::thread;

use crate::Failure;
use crate::load::watch::kib;

/// Measurements of one thing.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The sample that this part of all are not above.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let count =
            sorted.iter().enumerate().filter(|(n, _)| (*n as f64) < part * sorted.len() as f64).count();
        sorted.get(count.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// `median (first quartile-third quartile)` with this many decimals.
    pub(super) fn middle(&self, decimals: usize) -> String {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| self.quantile(part));
        format!("{median:.decimals$} ({low:.decimals$}-{high:.decimals$})")
    }

    /// `median (min-max)` with this many decimals.
    pub(super) fn spread(&self, decimals: usize) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        let (last, half) = (sorted.len().saturating_sub(1), sorted.len() / 2);
        let median = f64::midpoint(at(last / 2), at(half.min(last)));
        format!("{median:.decimals$} ({:.decimals$}-{:.decimals$})", at(0), at(last))
    }
}

/// What the numbers depend on.
#[derive(Debug)]
pub(super) struct Machine {
    cores: usize,
    memory_gib: u64,
    envoy: String,
}

impl Machine {
    pub(super) fn this(envoy: &str) -> Result<Self, Failure> {
        let cores = thread::available_parallelism().map_err(Failure::because("cores"))?.get();
        let memory_gib = (kib("/proc/meminfo", "MemTotal:")? + (1 << 19)) >> 20;
        Ok(Self { cores, memory_gib, envoy: envoy.to_owned() })
    }
}

/// What was measured, as rows of its tables.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The section about the edge and its peers.
    pub(super) proxies: String,
    /// Name, milliseconds.
    pub(super) change: Vec<Vec<String>>,
    worlds: Vec<Vec<String>>,
}

impl Report {
    /// A row about many worlds.
    pub(super) fn row(&mut self, name: &str, value: String) {
        println!("{name}: {value}");
        self.worlds.push(vec![name.to_owned(), value]);
    }

    /// The document.
    pub(super) fn text(&self, machine: &Machine) -> String {
        let Machine { cores, memory_gib, envoy } = machine;
        let proxies = &self.proxies;
        let change = table(&["change of", "ms until it acts"], &self.change);
        let worlds = table(&["", "one run"], &self.worlds);
        format!(
            "# Benchmarks

Written by `make bench`; do not edit. Measured on {cores} cores with {memory_gib} GiB of memory, Envoy {envoy} \
with one worker, release builds.
Where nothing else is said, numbers are medians with (least-most) behind them, and clients, Envoys, control plane, Redis and game servers share \
the cores, so absolute numbers are those of the whole machine, client included: they say what to compare, not \
what an Envoy of its own can do.

{proxies}
## How fast a change acts

{change}
20 changes each, from the request (or the notification, its rule already written) until a new connection lands on \
the other server. New connections are tried every 2 ms, each after the last was answered, so that much is the \
resolution.

## Many worlds

{worlds}
Time in force is from the request or notification until a new connection to the last world lands. The live session \
exchanges a message each millisecond while the ranges come into force; the longest echo is the longest pause that \
its player saw. Memory is resident memory; what an Envoy frees it may keep. On demand, 200 worlds are visited, each by one new \
connection and then by another, until its game server has answered.
",
        )
    }
}

pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// The document with this section in the place of the one of the same heading, or at its end.
pub(super) fn with_section(document: &str, heading: &str, section: &str) -> String {
    let (before, old) = document.split_once(heading).unwrap_or((document, ""));
    let after = old.split_once("\n## ").map(|(_, after)| format!("\n## {after}")).unwrap_or_default();
    format!("{}\n\n{}\n{after}", before.trim_end(), section.trim_end())
}

#[cfg(test)]
mod tests {
    use super::{Samples, with_section};

    #[test]
    fn a_section_takes_the_place_of_its_predecessor() {
        let once = with_section("# T\n\n## A\na\n", "## X", "## X\n1\n");
        assert_eq!(once, "# T\n\n## A\na\n\n## X\n1\n");
        assert_eq!(with_section(&once, "## X", "## X\n2\n"), "# T\n\n## A\na\n\n## X\n2\n");
        assert_eq!(with_section(&once, "## A", "## A\nb\n"), "# T\n\n## A\nb\n\n## X\n1\n");
    }

    #[test]
    fn quantiles_are_samples() {
        let samples = Samples((1..=200_u8).rev().map(f64::from).collect());
        assert_eq!([0.5, 0.99, 1.0].map(|part| format!("{}", samples.quantile(part))), ["100", "198", "200"]);
    }

    #[test]
    fn the_middle_half_is_around_the_median() {
        assert_eq!(Samples((1..=8).rev().map(f64::from).collect()).middle(1), "4.0 (2.0-6.0)");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Samples(vec![4.0, 1.0, 3.0, 2.0]).spread(1), "2.5 (1.0-4.0)");
        assert_eq!(Samples(vec![3.0, 1.0, 2.0]).spread(0), "2 (1-3)");
        assert_eq!(Samples(vec![3.0]).spread(0), "3 (3-3)");
    }
}
