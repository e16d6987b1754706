//! The benchmarks: what the edge costs, how fast a change acts, and what many worlds take.
//!
//! Each part starts its own cast and stops it before the next begins, so that none weighs on another.

mod change;
mod echo;
mod load;
mod report;
mod worlds;

use std::fs;
use std::time::{Duration, Instant};

use crate::{Failure, parts};
use report::{Machine, Report};

/// Measures everything and writes the report.
pub async fn run() -> Result<(), Failure> {
    let start = Instant::now();
    let mut report = Report::default();
    let envoy = echo::run(&mut report).await?;
    change::run(&mut report).await?;
    worlds::by_ranges(&mut report).await?;
    worlds::by_rules(&mut report).await?;
    let path = parts::workspace().join("docs/BENCHMARKS.md");
    let text = report.text(&Machine::this(&envoy)?);
    fs::write(&path, text).map_err(Failure::because("cannot write docs/BENCHMARKS.md"))?;
    println!("wrote docs/BENCHMARKS.md after {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Milliseconds, as the tables have them.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
