//! Whether values have the shape of a policy: mappings where mappings belong, keys that are known, numbers in their bounds. Told
//! of the whole document at once, and in words for operators, where reading it as a type ends at the first fault. Pure.
//!
//! What is right is taken from the JSON Schema, which is made of the types.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::{Policy, Problem};

/// How a problem of a key that does not belong there begins.
pub(super) const UNKNOWN: &str = "unknown field";

/// Most problems that are told of one document.
const MOST: usize = 100;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<Policy>().to_value()
});

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Lists in place of mappings alone: serde takes them field by field.
    Lists,
    /// All that can be told.
    All,
}

/// Lists where a mapping belongs, in a policy that can be read all the same.
pub(super) fn lists_for_mappings(policy: &Value) -> Vec<Problem> {
    found(policy, "", &SCHEMA, Search::Lists)
}

/// Everything that keeps a policy from being read, as far as its shape tells.
pub(super) fn faults(policy: &Value) -> Vec<Problem> {
    found(policy, "", &SCHEMA, Search::All)
}

/// The same of an overlay: entries are what they are in a policy, by name.
pub(super) fn faults_of_overlay(overlay: &Value) -> Vec<Problem> {
    of_entries(overlay, Search::All)
}

/// Lists where a mapping belongs, in an overlay.
pub(super) fn lists_in_overlay(overlay: &Value) -> Vec<Problem> {
    of_entries(overlay, Search::Lists)
}

fn of_entries(overlay: &Value, search: Search) -> Vec<Problem> {
    let sections = overlay.as_object().into_iter().flatten();
    let entries = sections.flat_map(|(section, entries)| {
        let schema = SCHEMA.pointer(&format!("/properties/{section}/items"));
        let entries = entries.as_object().into_iter().flatten();
        let entries = entries.filter(|(_, entry)| !entry.is_null());
        entries.filter_map(move |(name, entry)| Some((format!("{section}.{name}"), entry, schema?)))
    });
    entries.flat_map(|(path, entry, schema)| found(entry, &path, schema, search)).take(MOST).collect()
}

fn found(value: &Value, path: &str, schema: &Value, search: Search) -> Vec<Problem> {
    let mut look = Look { search, problems: Vec::new() };
    look.at(value, path, schema);
    look.problems
}

struct Look {
    search: Search,
    problems: Vec<Problem>,
}

impl Look {
    fn tell(&mut self, path: &str, message: String) {
        if self.problems.len() < MOST {
            self.problems.push(Problem::at(path, message));
        }
    }

    fn at(&mut self, value: &Value, path: &str, schema: &Value) {
        if let Some(schema) = branch(value, schema) {
            return self.at(value, path, schema);
        }
        if schema.get("anyOf").or_else(|| schema.get("oneOf")).is_some() {
            return self.choice(value, path, schema);
        }
        let is = |name: &str| types(schema).any(|of| of == name);
        match (value, fields(schema)) {
            (Value::Object(given), Some(known)) => self.mapping(given, path, schema, known),
            (Value::Array(items), None) => {
                if let Some(schema) = schema.get("items") {
                    for (number, item) in items.iter().enumerate() {
                        self.at(item, &format!("{path}[{number}]"), schema);
                    }
                }
            }
            (Value::Array(_), Some(known)) => {
                self.tell(path, format!("this is a list; a mapping is wanted{}", example(path, known)));
            }
            _ if self.search == Search::Lists => {}
            (Value::Null, _) if !is("null") && schema.get("type").is_some() => {
                self.tell(path, "nothing stands here; give it a value or leave the key out".to_owned());
            }
            (Value::Null, _) => {}
            (scalar, Some(known)) => {
                self.tell(path, format!("{scalar} is no mapping, which is wanted{}", example(path, known)));
            }
            (other, None) if is("array") => {
                self.tell(path, format!("{}; a list is wanted, as [...]", named(other)));
            }
            (value, None) if is("integer") => self.number(value, path, schema),
            (value, None) if is("boolean") && !value.is_boolean() => {
                self.tell(path, format!("{}; true or false is wanted", named(value)));
            }
            (value, None) if is("string") && !value.is_string() => {
                self.tell(path, format!("{}; a text is wanted: put it in quotes", named(value)));
            }
            (Value::String(word), None) => {
                let words = words(schema);
                if !words.is_empty() && !words.contains(&word.as_str()) {
                    self.tell(path, format!("`{word}` is none of `{}`", words.join("`, `")));
                }
            }
            _ => {}
        }
    }

    fn mapping(
        &mut self,
        given: &serde_json::Map<String, Value>,
        path: &str,
        schema: &Value,
        known: &serde_json::Map<String, Value>,
    ) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        for (key, value) in given {
            match known.get(key) {
                Some(schema) => self.at(value, &below(key), schema),
                None if self.search == Search::All
                    && schema.get("additionalProperties") == Some(&false.into()) =>
                {
                    let names: Vec<_> = known.keys().map(String::as_str).collect();
                    self.tell(&below(key), format!("{UNKNOWN} `{key}`; known are `{}`", names.join("`, `")));
                }
                None => {}
            }
        }
        if self.search == Search::All {
            let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            for key in required.filter_map(Value::as_str).filter(|key| !given.contains_key(*key)) {
                self.tell(path, format!("missing field `{key}`"));
            }
        }
    }

    fn number(&mut self, value: &Value, path: &str, schema: &Value) {
        let bound = |name| schema.get(name).and_then(Value::as_i64);
        let (least, most) = (bound("minimum"), bound("maximum").or_else(|| most_of(schema)));
        let fits =
            |number: i64| least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most);
        if value.as_i64().is_some_and(fits) || (value.is_u64() && most.is_none()) {
            return;
        }
        let bounds = match (least, most) {
            (Some(least), Some(most)) => format!(" from {least} to {most}"),
            (Some(least), None) => format!(" from {least}"),
            _ => String::new(),
        };
        self.tell(path, format!("{}; a whole number{bounds} is wanted", named(value)));
    }

    /// A value that may be one of several things, and is none of them.
    fn choice(&mut self, value: &Value, path: &str, schema: &Value) {
        let known = branches(schema).find_map(fields);
        match (value, known) {
            (Value::Array(_), Some(known))
                if !branches(schema).any(|of| types(of).any(|of| of == "array")) =>
            {
                self.tell(path, format!("this is a list; a mapping is wanted{}", example(path, known)));
            }
            (Value::String(word), _) if self.search == Search::All => {
                let is_free =
                    branches(schema).any(|of| types(of).any(|of| of == "string") && words(of).is_empty());
                let words: Vec<_> = branches(schema).flat_map(words).collect();
                if !is_free && !words.contains(&word.as_str()) {
                    let mappings = branches(schema).filter_map(fields).flat_map(|fields| fields.keys());
                    let all = words.into_iter().chain(mappings.map(String::as_str)).collect::<Vec<_>>();
                    self.tell(path, format!("`{word}` is none of `{}`", all.join("`, `")));
                }
            }
            _ => {}
        }
    }
}

/// What a choice is between, choices within it taken apart.
fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    let mut all = Vec::new();
    let mut rest = vec![schema];
    while let Some(one) = rest.pop() {
        match one.get("anyOf").or_else(|| one.get("oneOf")).and_then(Value::as_array) {
            Some(several) => rest.extend(several.iter().rev()),
            None => all.push(one),
        }
    }
    all.into_iter()
}

/// Of a choice the one thing that this value can be meant as.
fn branch<'a>(value: &Value, schema: &'a Value) -> Option<&'a Value> {
    // One that is no choice would be found again and again.
    schema.get("anyOf").or_else(|| schema.get("oneOf"))?;
    let is_meant = |of: &&Value| match value {
        Value::Object(given) => fields(of).is_some_and(|known| {
            // Of several mappings one key tells which.
            branches(schema).filter_map(fields).count() == 1
                || given.keys().any(|key| known.contains_key(key))
        }),
        Value::Array(_) => types(of).any(|of| of == "array"),
        _ => false,
    };
    let mut meant = branches(schema).filter(is_meant);
    meant.next().filter(|_| meant.next().is_none())
}

fn fields(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let of = schema.get("type");
    let several = of.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    of.and_then(Value::as_str).into_iter().chain(several)
}

/// The only texts that are taken; none = any.
fn words(schema: &Value) -> Vec<&str> {
    let several = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    schema.get("const").into_iter().chain(several).filter_map(Value::as_str).collect()
}

fn most_of(schema: &Value) -> Option<i64> {
    match schema.get("format").and_then(Value::as_str)? {
        "uint8" => Some(u8::MAX.into()),
        "uint16" => Some(u16::MAX.into()),
        "uint32" => Some(u32::MAX.into()),
        _ => None,
    }
}

/// `, as limits: {connections: ...}`.
fn example(path: &str, known: &serde_json::Map<String, Value>) -> String {
    let key = path.rsplit('.').next().unwrap_or_default();
    let field = known.keys().next().map_or("", String::as_str);
    match key.split_once('[') {
        _ if key.is_empty() => String::new(),
        Some((list, _)) => format!(", as {list}: [{{{field}: ...}}]"),
        None => format!(", as {key}: {{{field}: ...}}"),
    }
}

/// The value as people know it.
fn named(value: &Value) -> String {
    match value {
        Value::Array(_) => "this is a list".to_owned(),
        Value::Object(_) => "this is a mapping".to_owned(),
        Value::String(text) => format!("`{text}` is a text"),
        other => format!("this is {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn problems(text: &str) -> Vec<String> {
        parse(text).expect_err("the document is wrong").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_of_shape_is_told_at_its_place_and_in_plain_words() {
        let text = r#"listeners:
  - {name: edge, bind: "127.0.0.1:7000", limits: [5, 6, 7], bnid: x}
  - {name: other}
services:
  - {name: blue, endpoints: "127.0.0.1:1", connections: {max: many}}
  - {name: 7, health_check: [], endpoints: ["127.0.0.1:1"]}
  - {name: green, health_check: pong, endpoints: ["nowhere"]}
routes:
  - {name: r, server_type: 300, to: [[blue]], strategy: rondo}
default_intention: maybe
"#;
        let expected = [
            "line 2, listeners[0].limits: this is a list; a mapping is wanted, as limits: {",
            "line 2, listeners[0].bnid: unknown field `bnid`; known are `",
            "line 3, listeners[1]: missing field `bind`",
            "line 5, services[0].endpoints: `127.0.0.1:1` is a text; a list is wanted",
            "line 5, services[0].connections.max: `many` is a text; a whole number from 0 to 4294967295 is wanted",
            "line 6, services[1].name: this is 7; a text is wanted: put it in quotes",
            "line 6, services[1].health_check: this is a list; a mapping is wanted, as health_check: {",
            "line 7, services[2].health_check: \"pong\" is no mapping",
            "line 9, routes[0].server_type: this is 300; a whole number from 0 to 255 is wanted",
            "line 9, routes[0].to[0]: this is a list; a mapping is wanted, as to: [{",
            "line 9, routes[0].strategy: `rondo` is none of `round_robin`",
            "line 10, default_intention: `maybe` is none of `allow`, `deny`",
        ];
        let problems = problems(text);
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{expected}\n{problems:#?}");
        }
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    }

    #[test]
    fn what_values_mean_is_told_of_every_entry_that_has_its_shape() {
        let text = "services:\n  - {name: a, endpoints: [nowhere]}\n  - {name: b, endpoints: [\"h:99999\"]}\n  - {name: c, wait: 1}\n";
        let problems = problems(text);
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(problems[0].starts_with("line 2, services[0].endpoints[0]: "), "{problems:#?}");
        assert!(problems[1].contains("`99999` is not a port from 1 to 65535"), "{problems:#?}");
    }

    #[test]
    fn a_list_in_place_of_a_mapping_is_refused_where_it_could_be_read() {
        for (text, path) in [
            (
                "{\"listeners\": [{\"name\": \"e\", \"bind\": \"127.0.0.1:1\", \"limits\": [5]}]}",
                "listeners[0].limits",
            ),
            ("services: [{name: a, endpoints: ['h:1'], health_check: []}]", "services[0].health_check"),
        ] {
            let problems = problems(text);
            assert!(problems.len() == 1 && problems[0].contains(path), "{problems:#?}");
        }
        let overlay =
            super::super::parse_overlay("services: {a: {endpoints: ['h:1'], health_check: []}, b: null}");
        let told = overlay.expect_err("a list").iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(told.len() == 1 && told[0].contains("services.a.health_check: this is a list"), "{told:#?}");
    }

    #[test]
    fn an_unknown_key_is_placed_at_the_key() {
        let place = &parse("routes: []\nroute:\n  - {name: x}\n").unwrap_err()[0].place;
        assert_eq!((place.path.as_str(), place.line, place.column), ("route", Some(2), Some(1)));
    }
}
