//! The benchmarks: the edge beside its peers, how fast a change acts, what many worlds take, the xDS server,
//! and Consul.
//!
//! Each part starts its own cast and stops it before the next begins, so that none weighs on another.
#![expect(clippy::cast_precision_loss, reason = "what is counted here stays far below 2^52")]

mod change;
mod consul;
mod limits;
mod processors;
mod proxies;
mod report;
mod worlds;
mod xds;

use std::fs;
use std::time::{Duration, Instant};

use crate::{Failure, parts};
pub use proxies::Effort;
use report::{Machine, Report};

/// Which benchmarks to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Everything.
    All,
    /// The edge beside its peers alone; of the report only its section is rewritten.
    Proxies,
    /// Limits alone, likewise.
    Limits,
    /// The xDS server alone, likewise.
    Xds,
    /// Consul alone, likewise.
    Consul,
}

/// Measures, and writes the report.
pub async fn run(part: Part, effort: Effort) -> Result<(), Failure> {
    let start = Instant::now();
    let path = parts::workspace().join("docs/BENCHMARKS.md");
    let because = Failure::because::<std::io::Error>;
    let before = || fs::read_to_string(&path).map_err(because("cannot read docs/BENCHMARKS.md"));
    let text = match part {
        Part::All => {
            let mut report = Report::default();
            let (proxies, envoy) = proxies::run(effort).await?;
            change::run(&mut report).await?;
            worlds::by_ranges(&mut report).await?;
            worlds::by_rules(&mut report).await?;
            worlds::on_demand(&mut report).await?;
            report.proxies = proxies;
            let text = format!(
                "{}
{}",
                report.text(&Machine::this(&envoy)?),
                limits::run().await
            );
            let text = format!(
                "{text}
{}",
                xds::run().await
            );
            format!(
                "{text}
{}",
                consul::run().await?
            )
        }
        Part::Proxies => report::with_section(&before()?, proxies::HEADING, &proxies::run(effort).await?.0),
        Part::Limits => report::with_section(&before()?, limits::HEADING, &limits::run().await),
        Part::Xds => report::with_section(&before()?, xds::HEADING, &xds::run().await),
        Part::Consul => report::with_section(&before()?, consul::HEADING, &consul::run().await?),
    };
    fs::write(&path, text).map_err(because("cannot write docs/BENCHMARKS.md"))?;
    println!("wrote docs/BENCHMARKS.md after {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Milliseconds, as the tables have them.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
