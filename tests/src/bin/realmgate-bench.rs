//! `make bench`: measures on this machine and rewrites `docs/BENCHMARKS.md`.

use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::bench::{self, Part};

/// Measures on this machine and rewrites `docs/BENCHMARKS.md`.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which benchmarks.
    #[arg(value_enum, default_value = "all")]
    part: Part,
}

#[tokio::main]
async fn main() -> ExitCode {
    match bench::run(Arguments::parse().part).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("realmgate-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
