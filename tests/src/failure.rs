//! Why a part of a test or of the demo did not come up, in words for the person who reads it.

use std::fmt;

/// A message. Prints the same with `{}` and `{:?}`, so that `unwrap` in a test shows it readably.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// The failure that `message` describes.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// For `map_err`: what was being done, then the error.
    pub fn because<E: fmt::Display>(doing: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}
