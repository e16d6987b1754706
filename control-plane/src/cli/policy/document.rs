//! Policy documents as files: reading and checking them, and printing what is wrong with them.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use super::super::Failure;
use crate::model::{self, Policy, Problem};

/// Reads a document from a file, or from the standard input when the name is `-`.
pub(in crate::cli) fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    read.map_err(|e| Failure::failed(format!("cannot read {}: {e}", name(file))))
}

/// Checks a document without anybody's help.
pub(in crate::cli) fn check(file: &Path, text: &str) -> Result<Policy, Failure> {
    model::parse(text).map_err(|problems| invalid(file, problems.iter().map(Finding::from)))
}

/// Every problem on a line of its own, in the form that editors and CI jump to.
pub(super) fn invalid(file: &Path, findings: impl Iterator<Item = Finding>) -> Failure {
<<<<<<< HEAD
    let lines: String = findings.map(|f| format!("\n{}", f.line_in(&name(file)))).collect();
    Failure::invalid(format!("invalid policy:{lines}"))
=======
    let lines: Vec<_> = findings.map(|f| f.line_in(&name(file))).collect();
    Failure::invalid(format!("invalid policy:\n{}", lines.join("\n")))
>>>>>>> cli
}

/// A problem as we or the server found it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Finding {
    path: String,
    line: Option<usize>,
    column: Option<usize>,
    message: String,
}

impl From<&Problem> for Finding {
    fn from(problem: &Problem) -> Self {
<<<<<<< HEAD
        let Problem { place, message, .. } = problem.clone();
        Self { path: place.path, line: place.line, column: place.column, message }
=======
        let Problem { path, line, column, message } = problem.clone();
        Self { path, line, column, message }
>>>>>>> cli
    }
}

impl Finding {
    /// `policy.yaml:12:5: routes[3].worlds: ...`, without the parts that are not known.
    fn line_in(&self, file: &str) -> String {
<<<<<<< HEAD
        let mut text = file.to_owned();
        for number in [self.line, self.line.and(self.column)].into_iter().flatten() {
            text.push_str(&format!(":{number}"));
        }
        if !self.path.is_empty() {
            text.push_str(&format!(": {}", self.path));
        }
        text + ": " + &self.message
=======
        let Self { path, line, column, message } = self;
        let place = match (line, column) {
            (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
            (Some(line), None) => format!("{file}:{line}"),
            (None, _) => file.to_owned(),
        };
        if path.is_empty() { format!("{place}: {message}") } else { format!("{place}: {path}: {message}") }
>>>>>>> cli
    }
}

/// The file's name for messages.
pub(super) fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::Finding;

    #[test]
    fn a_problem_says_as_much_as_is_known() {
        let whole =
            Finding { path: "routes[3]".into(), line: Some(12), column: Some(5), message: "bad".into() };
        assert_eq!(whole.line_in("p.yaml"), "p.yaml:12:5: routes[3]: bad");
        let no_column = Finding { column: None, ..whole.clone() };
        assert_eq!(no_column.line_in("p.yaml"), "p.yaml:12: routes[3]: bad");
        let nowhere = Finding { path: String::new(), line: None, ..whole };
        assert_eq!(nowhere.line_in("p.yaml"), "p.yaml: bad");
    }
}
