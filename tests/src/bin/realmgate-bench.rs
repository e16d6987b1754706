//! `make bench`: measures on this machine and rewrites `docs/BENCHMARKS.md`.

use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::bench::{self, Effort, Part};
use realmgate_tests::fleet;

/// Measures on this machine and rewrites `docs/BENCHMARKS.md`.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which benchmarks.
    #[arg(value_enum, default_value = "all")]
    part: Part,
    #[command(flatten)]
    effort: Effort,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { part, effort } = Arguments::parse();
    fleet::raise_file_limit();
    match bench::run(part, effort).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("realmgate-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
