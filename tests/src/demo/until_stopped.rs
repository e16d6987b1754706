//! How demos end: by themselves, or when the terminal or the system says so.

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

/// Runs a demo until it ends, Ctrl-C, or SIGTERM, and stops what it started. `name` is the program's.
pub async fn until_stopped(
    name: &str,
    demo: impl Future<Output = Result<(), Failure>> + Send + 'static,
) -> ExitCode {
    let failed = |why: &dyn Display| {
        eprintln!("{name}: {why}");
        ExitCode::FAILURE
    };
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => return failed(&error),
    };
    // A task of its own, since starting the parts blocks: Ctrl-C is heard meanwhile, too.
    let mut demo = tokio::spawn(demo);
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
