//! A game server as a process of its own, so that it can be killed, stopped, or put into a network namespace.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use realmgate_tests::GameServer;

/// Sends every frame back, and tells its name when asked, until it is ended.
#[derive(Debug, Parser)]
#[command(name = "realmgate-game-server", version)]
struct Settings {
    /// What it calls itself
    #[arg(long)]
    name: String,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Settings { name, listen } = Settings::parse();
    let _server = match GameServer::start(&name, listen).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("realmgate-game-server: cannot listen on {listen}: {error}");
            return ExitCode::FAILURE;
        }
    };
    std::future::pending().await
}
