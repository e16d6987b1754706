//! How a command fails: its message and its exit code.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed = 1,
    /// The same code that clap ends with.
    Usage = 2,
    /// `EX_USAGE` of sysexits, which linkerd2-proxy ends with too: nothing ran, somebody has to edit something.
    Invalid = 64,
}

impl Failure {
    /// It was tried and did not work: exit code 1.
    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Failed, message: message.to_string() }
    }

    /// It cannot be asked for like this: exit code 2.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, message: message.to_string() }
    }

    /// Settings or policy are invalid: exit code 64.
    pub(super) fn invalid(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Invalid, message: message.to_string() }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}
