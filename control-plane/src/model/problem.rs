//! What is wrong with a document, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One fault of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong and what would be right.
    pub message: String,
    /// The other place of a contradiction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Box<Place>>,
}

/// A place in a document: the path of a field and, once the text is known, its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// For instance `routes[3].worlds[1]`; empty = the document itself.
    pub path: String,
    /// Line from 1.
    pub line: Option<usize>,
    /// Column from 1.
    pub column: Option<usize>,
}

impl Problem {
    /// A fault at the field `path`, its line not yet known.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: Place { path: path.into(), ..Place::default() }, message: message.into(), other: None }
    }

    /// The same, in contradiction to the field `other`.
    #[must_use]
    pub fn against(mut self, other: impl Into<String>) -> Self {
        self.other = Some(Box::new(Place { path: other.into(), ..Place::default() }));
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.path.is_empty()) {
            (Some(line), true) => write!(f, "line {line}"),
            (Some(line), false) => write!(f, "line {line}, {}", self.path),
            (None, true) => f.write_str("document"),
            (None, false) => f.write_str(&self.path),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match &self.other {
            Some(other) => write!(f, " (see {other})"),
            None => Ok(()),
        }
    }
}
