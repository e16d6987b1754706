//! What can be wrong between us and Consul.

use std::path::PathBuf;
use std::time::Duration;

/// Why something could not be had from Consul. None of the texts holds a token or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsulError {
    /// No connection, or it broke.
    #[error("Consul cannot be reached: {0}")]
    Unreachable(String),
    /// The certificates do not fit.
    #[error("no TLS with Consul: {0}")]
    Tls(String),
    /// The token or CA file cannot be used.
    #[error("cannot use {}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing came in time.
    #[error("no answer to {path} within {} s", .limit.as_secs())]
    Silent {
        /// What was asked.
        path: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The token lacks a right.
    #[error("Consul denies {path}: {text}")]
    Denied {
        /// What was asked.
        path: String,
        /// Consul's words.
        text: String,
    },
    /// The filter of a lookup is no expression that Consul takes.
    #[error("Consul cannot use the filter of {path}: {text}")]
    Filter {
        /// What was asked.
        path: String,
        /// Consul's words.
        text: String,
    },
    /// Another refusal; 500 means mostly that Consul has no leader, or no way to the datacenter.
    #[error("Consul answers {path} with {status}: {text}")]
    Refused {
        /// What was asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// Consul's words.
        text: String,
    },
    /// More than we take.
    #[error("the answer to {path} is larger than {} MiB", .limit >> 20)]
    Oversized {
        /// What was asked.
        path: String,
        /// The bound in bytes.
        limit: usize,
    },
    /// Not what the API says.
    #[error("the answer to {path} cannot be read: {problem}")]
    Malformed {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate that nobody could use.
    #[error("the certificate of {path} is of no use: {problem}")]
    Certificate {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ConsulError {
    /// Its name in metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::File { .. } => "file",
            Self::Silent { .. } => "silent",
            Self::Denied { .. } => "denied",
            Self::Filter { .. } => "filter",
            Self::Refused { .. } => "refused",
            Self::Oversized { .. } => "oversized",
            Self::Malformed { .. } => "malformed",
            Self::Certificate { .. } => "certificate",
        }
    }

    /// Every label.
    pub(super) const LABELS: [&'static str; 10] = [
        "unreachable",
        "tls",
        "file",
        "silent",
        "denied",
        "filter",
        "refused",
        "oversized",
        "malformed",
        "certificate",
    ];

    /// Whether it was found out by reading an answer, which the client had counted as one.
    pub(super) const fn is_in_answer(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::Certificate { .. })
    }

    /// Whether Consul itself has said that we do not get this: asking again soon is of no use.
    pub(super) const fn is_answer(&self) -> bool {
        match self {
            Self::Denied { .. }
            | Self::Filter { .. }
            | Self::Oversized { .. }
            | Self::Malformed { .. }
            | Self::Certificate { .. } => true,
            Self::Refused { status, .. } => *status < 500,
            Self::Unreachable(_) | Self::Tls(_) | Self::File { .. } | Self::Silent { .. } => false,
        }
    }
}
