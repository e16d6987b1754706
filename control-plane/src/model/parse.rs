//! STUB, replaced at merge: reads a policy document.

use std::fmt;

use super::Policy;

/// One thing that is wrong with a policy document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the document: `routes[3].worlds`.
    pub path: String,
    /// Line from 1.
    pub line: Option<usize>,
    /// Column from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Reads a document.
pub fn parse(text: &str) -> Result<Policy, Vec<Problem>> {
    serde_saphyr::from_str(text).map_err(|e| {
        let at = e.location();
        let number = |n: u64| usize::try_from(n).ok();
        vec![Problem {
            path: String::new(),
            line: at.and_then(|l| number(l.line())),
            column: at.and_then(|l| number(l.column())),
            message: e.to_string(),
        }]
    })
}
