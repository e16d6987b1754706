//! `make run`: the demo, until Ctrl-C.

use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::demo::{self, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    demo::until_stopped("realmgate-demo", demo::run(Settings::parse())).await
}
