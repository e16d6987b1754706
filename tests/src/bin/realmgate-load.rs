//! Game clients that load a gateway and measure it, and game servers to go behind it; `--help` says more.

use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::load::{Settings, execute};

fn main() -> ExitCode {
    match execute(&Settings::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("realmgate-load: {failure}");
            ExitCode::FAILURE
        }
    }
}
