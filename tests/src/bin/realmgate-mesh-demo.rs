//! `make run-mesh`: the demo of two datacenters, until Ctrl-C.

use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::demo::until_stopped;
use realmgate_tests::mesh_demo::{self, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    until_stopped("realmgate-mesh-demo", mesh_demo::run(Settings::parse())).await
}
