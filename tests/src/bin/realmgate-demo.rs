//! `make run`: the demo, until Ctrl-C.

use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::demo::{self, Settings};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return failed(&error),
    };
    tokio::select! {
        // The children get the terminal's Ctrl-C as well; looking here first keeps their end from being
        // taken for a failure. Whatever still runs is stopped as `run` is dropped.
        biased;
        _ = tokio::signal::ctrl_c() => println!("\nstopped"),
        _ = terminate.recv() => println!("stopped"),
        ended = demo::run(settings) => if let Err(failure) = ended { return failed(&failure) },
    }
    ExitCode::SUCCESS
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("realmgate-demo: {why}");
    ExitCode::FAILURE
}
