//! `make bench`: measures on this machine and rewrites `docs/BENCHMARKS.md`.

use std::process::ExitCode;

use realmgate_tests::bench;

#[tokio::main]
async fn main() -> ExitCode {
    match bench::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("realmgate-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
