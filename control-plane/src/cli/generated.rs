//! Completion scripts and manual pages, made from the command line itself.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure, output};

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "realmgate", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man() -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    write_pages(&command, &mut pages).map_err(|e| Failure::failed(format!("cannot write the pages: {e}")))?;
    output::print(&String::from_utf8_lossy(&pages))
}

/// A page for the command, followed by those of its subcommands.
fn write_pages(command: &Command, out: &mut Vec<u8>) -> std::io::Result<()> {
    Man::new(command.clone()).render(out)?;
    command.get_subcommands().try_for_each(|c| write_pages(c, out))
}
