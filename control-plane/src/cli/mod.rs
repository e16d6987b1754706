//! The command line. `serve` runs the control plane; the other commands ask a running one over its API or
//! print something made on the spot.

mod admin_interface;
mod bootstrap;
mod client;
mod credentials;
mod drain;
mod explain;
mod failure;
mod generated;
mod output;
mod policy;
mod proxies;
mod serve;
mod token;

use clap::{Parser, Subcommand};

pub use failure::Failure;

/// Routes binary game traffic by realm: the control plane of Envoys that run the Realmgate filter.
#[derive(Debug, Parser)]
#[command(name = "realmgate", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 64 invalid configuration.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane.
    Serve(serve::Arguments),
    /// Print the bootstrap of an Envoy that takes its configuration from here.
    EnvoyBootstrap(Box<bootstrap::Arguments>),
    /// Read, check and change the policy.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Make the tokens by which proxies come in.
    #[command(subcommand)]
    Token(token::Command),
    /// Say where a player's first message would go, and why.
    Explain(explain::Arguments),
    /// List the connected proxies: in sync, pending or rejecting.
    Proxies(proxies::Arguments),
    /// Take an Envoy out of service: first its readiness, then new connections, then wait for its sessions.
    Drain(drain::Arguments),
    /// Print a completion script for a shell.
    Completions {
        /// The shell it is for.
        shell: clap_complete::Shell,
    },
    /// Print the manual pages in roff.
    Man,
}

impl Cli {
    /// Runs the command; its result goes to the standard output.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::EnvoyBootstrap(arguments) => bootstrap::run(&arguments),
            Command::Policy(command) => policy::run(&command),
            Command::Token(command) => token::run(&command),
            Command::Explain(arguments) => explain::run(&arguments),
            Command::Proxies(arguments) => proxies::run(&arguments),
            Command::Drain(arguments) => drain::run(&arguments),
            Command::Completions { shell } => generated::completions(shell),
            Command::Man => generated::man(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
