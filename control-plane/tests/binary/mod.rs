//! Runs the built `realmgate` as a user would, in a directory and an environment of its own.

use std::process::{Command, Output};

use tempfile::TempDir;

/// What a run of the command printed and ended with.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs it with arguments, in an empty directory.
#[track_caller]
pub(crate) fn realmgate(arguments: &[&str]) -> Outcome {
    let directory = TempDir::new().expect("a temporary directory");
    realmgate_in(&directory, &[], arguments)
}

/// Runs it with variables and arguments, in this directory. What the tests' own environment says about
/// Realmgate is left out.
#[track_caller]
pub(crate) fn realmgate_in(directory: &TempDir, variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_realmgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REALMGATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(variables.iter().copied()).current_dir(directory.path());
    let Output { status, stdout, stderr } = command.output().expect("realmgate runs");
    let text = |bytes| String::from_utf8(bytes).expect("realmgate prints UTF-8");
    Outcome { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}
