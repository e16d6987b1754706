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
    // A task of its own, since starting the parts blocks: Ctrl-C is heard meanwhile, too.
    let mut demo = tokio::spawn(demo::run(settings));
    let code = tokio::select! {
        // The children get the terminal's Ctrl-C as well; looking here first keeps their end from being
        // taken for a failure.
        biased;
        _ = tokio::signal::ctrl_c() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::SUCCESS,
        ended = &mut demo => return match ended {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(failure)) => failed(&failure),
            Err(panicked) => failed(&panicked),
        },
    };
    // Dropping what runs stops it; only then may the demo end.
    demo.abort();
    let _ = demo.await;
    println!("\nstopped");
    code
}

fn failed(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("realmgate-demo: {why}");
    ExitCode::FAILURE
}
