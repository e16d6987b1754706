//! What one stream may ask for: names, so many and so long.

use super::message::Asks;

/// Names and held resources of one stream, all types together: four times what we have seen any proxy use.
pub(crate) const MAX_NAMES: usize = 65_536;
/// Longest resource name accepted; Envoy itself sets no bound.
pub(crate) const MAX_NAME_BYTES: usize = 1_024;

/// Why a stream is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    /// The proxy asks for more than a stream may.
    #[error("more than {MAX_NAMES} resource names on one stream")]
    TooManyNames,
    /// One name is too long.
    #[error("a resource name or version is longer than {MAX_NAME_BYTES} bytes")]
    NameTooLong,
    /// All that the proxy says, or all that proxies say, takes too much.
    #[error(
        "names that are not known here, and versions of what is not, take more than the 16 MiB of a connection, or than what is \
         left of the 1 GiB for all"
    )]
    TooMuch,
}

impl StreamError {
    /// A short name for metrics and logs.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::TooManyNames => "too_many_names",
            Self::NameTooLong => "name_too_long",
            Self::TooMuch => "too_much",
        }
    }
}

/// Refuses what asks for too much at once.
pub(super) fn check_names(asks: &Asks) -> Result<(), StreamError> {
    let (count, longest) = match asks {
        Asks::All { names, version } => (names.len(), names.longest().max(version.len())),
        Asks::Change { subscribe, unsubscribe, initial } => (
            subscribe.len().max(unsubscribe.len()).max(initial.len() / 2),
            subscribe.longest().max(unsubscribe.longest()).max(initial.longest()),
        ),
    };
    if count > MAX_NAMES {
        Err(StreamError::TooManyNames)
    } else if longest > MAX_NAME_BYTES {
        Err(StreamError::NameTooLong)
    } else {
        Ok(())
    }
}
