//! Policy documents as files: reading and checking them, and printing what is wrong with them.

use std::fmt::Write;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::super::Failure;
use crate::model::{self, EndpointPolicy, Policy, Problem};

/// Reads a document from a file, or from the standard input when the name is `-`.
pub(in crate::cli) fn read(file: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    let bytes = read.map_err(|e| Failure::failed(format!("cannot read {}: {e}", name(file))))?;
    decoded(bytes).map_err(|(line, why)| {
        Failure::invalid(format!("invalid policy:\n{}:{line}: {why}; save it as UTF-8", name(file)))
    })
}

/// The text, or the line from which on it is none and why.
fn decoded(bytes: Vec<u8>) -> Result<String, (usize, String)> {
    if [&[0xff, 0xfe], &[0xfe, 0xff]].iter().any(|mark| bytes.starts_with(*mark)) {
        return Err((1, "the document is UTF-16".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let (valid, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = valid.split(|byte| *byte == b'\n').count();
        (line, format!("the byte {:#04x} is not UTF-8", rest.first().copied().unwrap_or_default()))
    })
}

/// Checks a document without anybody's help.
pub(in crate::cli) fn check(file: &Path, text: &str) -> Result<Policy, Failure> {
    let policy = model::parse(text).map_err(|problems| invalid(file, &problems))?;
    match model::endpoint_problems(text, &policy, &EndpointPolicy::default()) {
        problems if problems.is_empty() => Ok(policy),
        problems => Err(invalid(file, &problems)),
    }
}

/// Every problem on a line of its own, in the form that editors and CI jump to.
pub(super) fn invalid(file: &Path, problems: &[Problem]) -> Failure {
    let lines: Vec<_> = problems.iter().map(|problem| line_in(&name(file), problem)).collect();
    Failure::invalid(format!("invalid policy:\n{}", lines.join("\n")))
}

/// `policy.yaml:12:5: routes[3].worlds: ...`, without the parts that are not known.
fn line_in(file: &str, problem: &Problem) -> String {
    let place = &problem.place;
    let mut text = file.to_owned();
    for number in [place.line, place.line.and(place.column)].into_iter().flatten() {
        // Writing to a String cannot fail.
        let _ = write!(text, ":{number}");
    }
    if !place.path.is_empty() {
        let _ = write!(text, ": {}", place.path);
    }
    let _ = write!(text, ": {}", problem.message);
    if let Some(other) = &problem.other {
        let _ = write!(text, " (see {other})");
    }
    text
}

/// The file's name for messages.
pub(super) fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::{Problem, decoded, line_in};

    #[test]
    fn what_is_not_utf_8_is_told_with_its_line() {
        assert_eq!(decoded(b"a: b\n".to_vec()).unwrap(), "a: b\n");
        let utf_16 = decoded(vec![0xff, 0xfe, b'a', 0]).unwrap_err();
        assert_eq!(utf_16, (1, "the document is UTF-16".to_owned()));
        // As Latin-1 has it.
        let latin = decoded(b"a: b\nc: \xe4\n".to_vec()).unwrap_err();
        assert_eq!(latin, (2, "the byte 0xe4 is not UTF-8".to_owned()));
    }

    #[test]
    fn a_problem_says_as_much_as_is_known() {
        let mut problem = Problem::at("routes[3]", "bad").against("routes[1]");
        (problem.place.line, problem.place.column) = (Some(12), Some(5));
        assert_eq!(line_in("p.yaml", &problem), "p.yaml:12:5: routes[3]: bad (see routes[1])");
        (problem.place.column, problem.other) = (None, None);
        assert_eq!(line_in("p.yaml", &problem), "p.yaml:12: routes[3]: bad");
        assert_eq!(line_in("p.yaml", &Problem::at("", "bad")), "p.yaml: bad");
    }
}
