//! What a datacenter has differently: listeners, services and routes by name, put over the policy. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::document::Document;
use super::parse::{located, typed};
use super::validate::validate;
use super::{Effort, Listener, Policy, Problem, Route, Service, Unread, shape};

/// A document that changes a policy, entry by entry. An entry replaces the whole one of the same name, or is added
/// behind the others; `null` removes one, if it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Overlay {
    /// By name.
    pub listeners: BTreeMap<String, Option<Listener>>,
    /// By name.
    pub services: BTreeMap<String, Option<Service>>,
    /// By name.
    pub routes: BTreeMap<String, Option<Route>>,
    /// Confirms that this overlay takes much away: the etag of the overlay that it replaces, or of the policy where there was
    /// none. Its first 12 digits suffice.
    pub confirm_removal: Option<String>,
}

/// Reads an overlay, YAML or JSON. Whether it makes sense shows where it meets a policy.
///
/// # Errors
/// All problems found, in the order of the document.
pub fn parse_overlay(text: &str) -> Result<Overlay, Vec<Problem>> {
    let document = Document::load(text, &Effort::endless()).map_err(Unread::problems)?;
    let read = document.to_json().and_then(|mut json| {
        for section in ["listeners", "services", "routes"] {
            if let Some(Value::Object(entries)) = json.get_mut(section) {
                named_by_key(section, entries)?;
            }
        }
        Ok(match typed::<Overlay>(&json) {
            Ok(overlay) => match shape::lists_in_overlay(&json) {
                lists if lists.is_empty() => return Ok(Ok(overlay)),
                lists => Err(lists),
            },
            Err(first) => Err(match shape::faults_of_overlay(&json) {
                faults if faults.is_empty() => vec![first],
                faults => faults,
            }),
        })
    });
    let told = match read {
        Ok(Ok(overlay)) => return Ok(overlay),
        Ok(Err(problems)) => problems,
        Err(problem) => vec![problem],
    };
    Err(located(&document, told))
}

/// Entries are what they are in a policy, whose `name` is the key here.
fn named_by_key(section: &str, entries: &mut Map<String, Value>) -> Result<(), Problem> {
    for (key, entry) in entries {
        let Value::Object(fields) = entry else { continue };
        let name = fields.entry("name").or_insert_with(|| Value::from(key.as_str()));
        if name.as_str() != Some(key) {
            let why = format!("{name} stands below the key `{key}`; leave the name out");
            return Err(Problem::at(format!("{section}.{key}.name"), why));
        }
    }
    Ok(())
}

impl Overlay {
    /// The policy as it is with this put over it.
    ///
    /// # Errors
    /// Everything that the outcome lacks to be a valid policy; entries go by their names, as in `services.blue.endpoints`.
    pub fn over(&self, policy: &Policy) -> Result<Policy, Vec<Problem>> {
        self.over_within(policy, &Effort::endless()).map_err(Unread::problems)
    }

    /// The same, until somebody ends it.
    ///
    /// # Errors
    /// As of [`Self::over`], or that it was ended.
    pub fn over_within(&self, policy: &Policy, effort: &Effort<'_>) -> Result<Policy, Unread> {
        let merged = Policy {
            listeners: put_over(&policy.listeners, &self.listeners, |l| &l.name),
            services: put_over(&policy.services, &self.services, |s| &s.name),
            routes: put_over(&policy.routes, &self.routes, |r| &r.name),
            ..policy.clone()
        };
        let mut problems = validate(&merged, effort)?;
        if problems.is_empty() {
            return Ok(merged);
        }
        for problem in &mut problems {
            problem.place.path = by_name(&problem.place.path, &merged);
            if let Some(other) = &mut problem.other {
                other.path = by_name(&other.path, &merged);
            }
        }
        Err(Unread::Invalid(problems))
    }
}

fn put_over<T: Clone>(
    entries: &[T],
    over: &BTreeMap<String, Option<T>>,
    name: impl Fn(&T) -> &String,
) -> Vec<T> {
    let kept = entries.iter().filter_map(|entry| over.get(name(entry)).map_or(Some(entry), Option::as_ref));
    let known: BTreeSet<_> = entries.iter().map(&name).collect();
    let added = over.iter().filter(|(key, _)| !known.contains(key));
    kept.chain(added.filter_map(|(_, entry)| entry.as_ref())).cloned().collect()
}

/// `services[3].dns` as `services.blue.dns`: the place in a list that nobody wrote helps nobody.
fn by_name(path: &str, policy: &Policy) -> String {
    let named = || {
        let (list, rest) = path.split_once('[')?;
        let (index, rest) = rest.split_once(']')?;
        let index: usize = index.parse().ok()?;
        let name = match list {
            "listeners" => &policy.listeners.get(index)?.name,
            "services" => &policy.services.get(index)?.name,
            "routes" => &policy.routes.get(index)?.name,
            _ => return None,
        };
        Some(format!("{list}.{name}{rest}"))
    };
    named().unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const POLICY: &str = r#"
services:
  - {name: blue, endpoints: ["10.0.0.1:1", "10.0.0.2:1"], panic_threshold: 7}
  - {name: green, endpoints: ["10.0.0.3:1"]}
routes:
  - {name: canary, server_type: 200, worlds: [7], to: [{service: green}]}
  - {name: rest, server_type: 200, to: [{service: blue}]}
default_intention: deny
"#;

    fn over(overlay: &str) -> Result<Policy, Vec<String>> {
        let said = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
        parse_overlay(overlay).map_err(said)?.over(&parse(POLICY).unwrap()).map_err(said)
    }

    fn names<T>(entries: &[T], name: impl Fn(&T) -> &String) -> String {
        entries.iter().map(|entry| name(entry).as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_name_that_is_there_is_replaced_whole_and_in_its_place_another_is_added_and_null_removes() {
        let policy = over(
            "services:\n  blue: {endpoints: ['10.9.0.1:1']}\n  azure-only: {endpoints: ['10.9.0.2:1']}\n\
             routes: {canary: null, never-there: null}\n",
        )
        .unwrap();
        assert_eq!(names(&policy.services, |s| &s.name), "blue green azure-only");
        assert_eq!(policy.services[0].endpoints.len(), 1);
        assert_eq!(policy.services[0].panic_threshold, None, "nothing is left of the one before");
        assert_eq!(names(&policy.routes, |r| &r.name), "rest");
        assert!(policy.default_intention.is_some(), "the rest stays");
        assert_eq!(over("{}").unwrap(), parse(POLICY).unwrap());
        assert_eq!(over("services: {green: {name: green, endpoints: ['10.0.0.3:1']}}"), over("{}"));
    }

    #[test]
    fn what_is_wrong_with_it_is_named_with_its_line() {
        for (text, expected) in [
            ("services: [{name: blue}]", "line 1, services: invalid type: sequence"),
            ("services:\n  blue: {endpoint: x}", "line 2, services.blue.endpoint: unknown field `endpoint`"),
            (
                "services:\n  blue: {name: red}",
                "line 2, services.blue.name: \"red\" stands below the key `blue`",
            ),
            ("intentions: []", "unknown field `intentions`"),
            ("services: {blue: 5}", "line 1, services.blue: 5 is no mapping"),
            ("a: [", "line 2"),
        ] {
            let problems = over(text).unwrap_err();
            assert!(
                problems[0].starts_with(expected) || problems[0].contains(expected),
                "{text}: {problems:?}"
            );
        }
    }

    #[test]
    fn what_it_makes_of_a_policy_is_validated() {
        let problems = over("services: {blue: null, green: {endpoints: []}}").unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("services.green: has neither"), "{problems:?}");
        assert!(
            problems[1].starts_with("routes.rest.to[0].service: there is no service `blue`"),
            "{problems:?}"
        );
        let twice = "listeners: {a: {bind: '0.0.0.0:1'}, b: {bind: '0.0.0.0:1'}}";
        let problem = over(twice).unwrap_err().remove(0);
        assert!(
            problem.contains("listeners.b.bind") && problem.contains("(see listeners.a.bind)"),
            "{problem}"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            let _ = parse_overlay(&text);
        }
    }
}
