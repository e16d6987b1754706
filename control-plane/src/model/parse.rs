//! From a document's text to a valid policy, or to every problem with its line.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::{Document, MAX_BYTES};

pub use super::document::EMPTY;
use super::validate::{MOST_PROBLEMS, validate};
use super::{Effort, Intention, Listener, Policy, Problem, Route, Service, Stopped, Unread, shape};

/// Reads a policy document, YAML or JSON.
///
/// # Errors
/// All problems found, in the order of the document. A text that is not a policy at all gives one.
pub fn parse(text: &str) -> Result<Policy, Vec<Problem>> {
    parse_within(text, &Effort::endless()).map_err(Unread::problems)
}

/// The same, until somebody ends it.
///
/// # Errors
/// As of [`parse`], or that it was ended.
pub fn parse_within(text: &str, effort: &Effort<'_>) -> Result<Policy, Unread> {
    if let Some(policy) = good_json(text, effort)? {
        return Ok(policy);
    }
    let document = Document::load(text, effort)?;
    effort.check()?;
    let problems = match document.to_json().map_err(|problem| vec![problem]).and_then(|json| shaped(&json)) {
        Ok(policy) => match validate(&policy, effort)? {
            problems if problems.is_empty() => return Ok(policy),
            problems => problems,
        },
        Err(problems) => problems,
    };
    Err(Unread::Invalid(located(&document, problems)))
}

/// Whether a document was refused because it says nothing.
#[must_use]
pub fn is_empty(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.message == EMPTY)
}

/// What programs write is JSON and mostly good, and read in a tenth of the time if nobody asks for lines.
fn good_json(text: &str, effort: &Effort<'_>) -> Result<Option<Policy>, Stopped> {
    // A list would be taken field by field.
    if text.len() > MAX_BYTES || !text.trim_start().starts_with('{') {
        return Ok(None);
    }
    let (Ok(policy), Ok(json)) = (serde_json::from_str(text), serde_json::from_str(text)) else {
        return Ok(None);
    };
    if !shape::lists_for_mappings(&json).is_empty() {
        return Ok(None);
    }
    Ok(validate(&policy, effort)?.is_empty().then_some(policy))
}

/// A document's values as a policy.
///
/// # Errors
/// All that its shape tells, and the first fault of each entry of the right shape.
fn shaped(json: &Value) -> Result<Policy, Vec<Problem>> {
    let first = match typed(json) {
        Ok(policy) => {
            // Read field by field, as nobody meant them.
            let lists = shape::lists_for_mappings(json);
            return if lists.is_empty() { Ok(policy) } else { Err(lists) };
        }
        Err(first) => first,
    };
    let mut problems = shape::faults(json);
    let of_shape = problems.len();
    for (section, of) in SECTIONS {
        for (number, entry) in json.get(section).and_then(Value::as_array).into_iter().flatten().enumerate() {
            if problems.len() >= MOST_PROBLEMS {
                break;
            }
            let path = format!("{section}[{number}]");
            let mut told = problems.iter().take(of_shape);
            if !told.any(|problem| problem.place.path.starts_with(&path))
                && let Err(problem) = of(entry)
            {
                let below = &problem.place.path;
                let path = if below.is_empty() { path } else { format!("{path}.{below}") };
                problems.push(Problem::at(path, problem.message));
            }
        }
    }
    Err(if problems.is_empty() { vec![first] } else { problems })
}

/// How an entry of each list is read.
type Read = fn(&Value) -> Result<(), Problem>;

const SECTIONS: [(&str, Read); 4] = [
    ("listeners", |entry| typed::<Listener>(entry).map(drop)),
    ("services", |entry| typed::<Service>(entry).map(drop)),
    ("routes", |entry| typed::<Route>(entry).map(drop)),
    ("intentions", |entry| typed::<Intention>(entry).map(drop)),
];

/// A document's values as a type; the problem names the field.
pub(super) fn typed<T: DeserializeOwned>(json: &Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let path = error.path().to_string();
        Problem::at(if path == "." { "" } else { &path }, error.inner().to_string())
    })
}

/// The problems with their lines, in the order of the document.
pub(super) fn located(document: &Document<'_>, mut problems: Vec<Problem>) -> Vec<Problem> {
    for problem in &mut problems {
        if problem.place.line.is_none() {
            let at_key = problem.message.starts_with(shape::UNKNOWN);
            document.locate(&mut problem.place, at_key);
        }
        if let Some(other) = &mut problem.other {
            document.locate(other, false);
        }
    }
    problems.sort_by_key(|problem| (problem.place.line, problem.place.column));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
listeners:
  - name: edge
    bind: 127.0.0.1:7000
services:
  - name: blue
    endpoints: [127.0.0.1:7101, 127.0.0.1:7102]
  - name: lobby
    dns: {host: lobby.example.com, port: 7000}
routes:
  - name: blue-worlds
    server_type: 200
    worlds: [1, 5, "10-20"]
    to: [{service: blue}]
  - name: rest
    server_type: 200
    to: [{service: lobby, weight: 3}, {service: blue}]
"#;

    fn problems(text: &str) -> Vec<String> {
        parse(text).expect_err("the document is wrong").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reads_a_policy_from_yaml_and_from_json() {
        let policy = parse(GOOD).unwrap();
        assert_eq!(policy.routes.len(), 2);
        let json = serde_json::to_string_pretty(&policy).unwrap();
        assert_eq!(parse(&json).unwrap(), policy);
        assert_eq!(parse(&format!("# YAML\n{json}")).unwrap(), policy);
        let twice = json.replacen('{', r#"{"listeners": [], "#, 1);
        assert!(
            problems(&twice)[0].starts_with("line 2"),
            "what JSON would read in one of two ways is refused"
        );
        assert_eq!(parse("{}").unwrap(), Policy::default());
        assert_eq!(parse("# nothing yet\n{}\n").unwrap(), Policy::default());
    }

    #[test]
    fn a_document_that_says_nothing_is_no_policy() {
        for text in [
            "",
            " \n\t",
            "\u{feff}",
            "# nothing yet\n",
            "---\n",
            "---\n...\n",
            "null",
            "~",
            "[]",
            " [ ]\n",
            "\"\"",
            "''",
            "5",
            "true",
            "policy",
            "\"{}\"",
        ] {
            let problems = parse(text).expect_err(text);
            assert!(is_empty(&problems), "{text:?} gave {problems:?}");
            assert!(super::super::parse_overlay(text).is_err_and(|problems| is_empty(&problems)), "{text:?}");
        }
        for text in ["[[], []]", "[{}]", "listeners:\nservices:\nroutes:\n", "{} {}", "{\"listeners\": null}"]
        {
            let problems = parse(text).expect_err(text);
            assert!(!is_empty(&problems), "{text:?} gave {problems:?}");
        }
        assert!(!is_empty(&[]));
    }

    #[test]
    fn a_number_that_is_none_is_refused_and_not_left_out() {
        for number in ["12345678e901", ".inf", "-.inf", ".nan"] {
            let problems = problems(&format!("listeners: []\nconfirm_removal: {number}\n"));
            assert!(problems[0].starts_with("line 2") && problems[0].contains("quotes"), "{problems:?}");
        }
    }

    #[test]
    fn names_the_line_and_the_field() {
        let text = GOOD.replace("weight: 3", "wait: 3");
        let problems = problems(&text);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("line 17, routes[1].to[0]"), "{problems:?}");
        assert!(problems[0].contains("unknown field `wait`"), "{problems:?}");
    }

    #[test]
    fn names_every_fault_of_meaning_at_once() {
        let text =
            GOOD.replace("service: lobby", "service: loby").replace("[127.0.0.1:7101, 127.0.0.1:7102]", "[]");
        let problems = problems(&text);
        assert!(problems[0].starts_with("line 6, services[0]: "), "{problems:?}");
        assert!(problems[1].starts_with("line 17, routes[1].to[0].service: "), "{problems:?}");
        assert!(problems[1].contains("`loby`"), "{problems:?}");
    }

    #[test]
    fn names_both_places_of_an_overlap() {
        let text = format!(
            "{GOOD}  - {{name: again, server_type: 200, worlds: [7, \"15-30\"], to: [{{service: blue}}]}}\n"
        );
        let problems = problems(&text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("line 18, routes[2].worlds[1]: "), "{problems:?}");
        assert!(problems[0].contains("(see line 13, routes[0].worlds[2])"), "{problems:?}");
    }

    #[test]
    fn refuses_what_is_not_a_policy() {
        for (text, want) in [
            ("listeners: [", "line 2"),
            ("a: b: c", "line 1"),
            ("listeners: 5", "line 1, listeners"),
            ("- 1\n- 2", "line 1"),
            ("x: &a 1\ny: *a", "line 2"),
            ("a: 1\n---\nb: 2", "several"),
            ("listeners: []\nlisteners: []", "line 2"),
        ] {
            let problems = problems(text);
            assert!(problems[0].contains(want), "{text:?} gave {problems:?}");
        }
        assert!(problems(&"[".repeat(100))[0].contains("nested too deeply"));
        assert!(problems(&"[".repeat(100_000))[0].contains("recursion limit"));
        assert!(problems(&" ".repeat(super::super::document::MAX_BYTES + 1))[0].contains("bytes"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
