//! The `realmgate` command: reads the command line, runs it, and turns the outcome into an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use realmgate_control_plane::cli::Cli;

fn main() -> ExitCode {
    // Help, version and usage errors (exit code 2) end the process here.
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if the standard error output is closed.
            let _ = writeln!(io::stderr(), "realmgate: {failure}");
            failure.exit_code()
        }
    }
}
