//! Reads one source of settings, file, environment or flags, into values by path that remember their origin.

use std::collections::BTreeMap;
use std::ffi::OsString;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::Value;

use super::problem::{Origin, Problem};
use super::table::{self, ENV_PREFIX, Setting};

/// Variables that the tests, tools and client commands read; they are no settings.
pub(super) const OTHER_VARIABLES: [&str; 3] = ["REALMGATE_API", "REALMGATE_BIN", "REALMGATE_FILTER_WASM"];

/// A value and where it was said.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What one source says, by path.
pub(super) type Layer = BTreeMap<&'static str, Given>;

/// What a file says.
pub(super) fn from_file(name: &str, text: &str, problems: &mut Vec<Problem>) -> Layer {
    let mut reader = FileReader { name, layer: Layer::new(), problems };
    match MarkedYaml::load_from_str(text) {
        Ok(documents) => match documents.as_slice() {
            [] => {}
            [document] => reader.read("", document),
            [_, second, ..] => {
                let at = reader.at(second);
                reader.refuse(at, "", "a second YAML document; put all settings into one".to_owned());
            }
        },
        Err(e) => {
            let at =
                Origin::File { name: name.to_owned(), line: e.marker().line(), column: e.marker().col() + 1 };
            reader.refuse(at, "", format!("not YAML: {}", e.info()));
        }
    }
    reader.layer
}

struct FileReader<'a> {
    name: &'a str,
    layer: Layer,
    problems: &'a mut Vec<Problem>,
}

impl FileReader<'_> {
    fn at(&self, node: &MarkedYaml<'_>) -> Origin {
        let start = node.span.start;
        Origin::File { name: self.name.to_owned(), line: start.line(), column: start.col() + 1 }
    }

    fn refuse(&mut self, origin: Origin, path: &str, message: String) {
        self.problems.push(Problem { origin, path: path.to_owned(), message });
    }

    /// Reads the node of a section.
    fn read(&mut self, path: &str, node: &MarkedYaml<'_>) {
        let fields = match &node.data {
            YamlData::Mapping(fields) => fields,
            // A section whose every line is commented out.
            YamlData::Value(Scalar::Null) => return,
            _ => {
                let message = format!("not a value but a section of: {}", table::names_in(path));
                return self.refuse(self.at(node), path, message);
            }
        };
        for (key, value) in fields {
            let Some(name) = key.data.as_str() else {
                self.refuse(
                    self.at(key),
                    path,
                    format!("a key that is no text; known: {}", table::names_in(path)),
                );
                continue;
            };
            let below = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            if table::is_section(&below) {
                self.read(&below, value);
            } else if let Some(setting) = table::find(&below) {
                self.read_value(setting, value);
            } else {
                self.refuse(
                    self.at(key),
                    &below,
                    format!("no such setting; known here: {}", table::names_in(path)),
                );
            }
        }
    }

    fn read_value(&mut self, setting: &'static Setting, node: &MarkedYaml<'_>) {
        let value = match &node.data {
            YamlData::Value(Scalar::Boolean(b)) => Value::from(*b),
            YamlData::Value(Scalar::Integer(i)) => Value::from(*i),
            YamlData::Value(Scalar::FloatingPoint(f)) => Value::from(f.into_inner()),
            YamlData::Value(Scalar::String(s)) => Value::from(s.as_ref()),
            YamlData::Value(Scalar::Null) => {
                let message = r#"it has no value; write one, "" for the empty text, or remove the line"#;
                return self.refuse(self.at(node), &setting.path, message.to_owned());
            }
            _ => {
                let message = format!("it takes a single value, such as `{}`", setting.default_text());
                return self.refuse(self.at(node), &setting.path, message);
            }
        };
        self.layer.insert(&setting.path, Given { value, origin: self.at(node) });
    }
}

/// What the environment says. Every variable with our prefix has to be known: a typing error in a name would
/// otherwise be a setting that silently has its default.
pub(super) fn from_env(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in env {
        let Some(name) = name.to_str().filter(|n| n.starts_with(ENV_PREFIX)) else { continue };
        let origin = Origin::Env(name.to_owned());
        let Some(setting) = table::table().iter().find(|s| s.env == name) else {
            if !OTHER_VARIABLES.contains(&name) && !is_service_link(name) {
                let message = "no such setting; docs/settings.md has the list".to_owned();
                problems.push(Problem { origin, path: String::new(), message });
            }
            continue;
        };
        match value.to_str() {
            Some(text) => insert(&mut layer, setting, text, origin, problems),
            None => {
                problems.push(Problem {
                    origin,
                    path: setting.path.clone(),
                    message: "not UTF-8".to_owned(),
                });
            }
        }
    }
    layer
}

/// What the flags say, given as pairs of path and text.
pub(super) fn from_flags(
    flags: impl IntoIterator<Item = (&'static Setting, String)>,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut layer = Layer::new();
    for (setting, text) in flags {
        insert(&mut layer, setting, &text, Origin::Flag(format!("--{}", setting.flag)), problems);
    }
    layer
}

/// Text has no types: the default's type says what it has to be.
fn insert(
    layer: &mut Layer,
    setting: &'static Setting,
    text: &str,
    origin: Origin,
    problems: &mut Vec<Problem>,
) {
    let (value, wanted) = match &setting.default {
        Value::Bool(_) => (text.parse().ok().map(Value::Bool), "true or false"),
        Value::Number(_) => (text.parse::<u64>().ok().map(Value::from), "a number"),
        _ => (Some(Value::from(text)), "text"),
    };
    if let Some(value) = value {
        layer.insert(&setting.path, Given { value, origin });
    } else {
        let message = format!("`{text}` is not {wanted}");
        problems.push(Problem { origin, path: setting.path.clone(), message });
    }
}

/// Kubernetes gives every container the addresses of the services in its namespace, and one of them may well
/// be called `realmgate` or `realmgate-xds`: `REALMGATE_XDS_SERVICE_HOST`, `REALMGATE_PORT_18000_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let of_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix('_').and_then(|r| r.split_once('_')).is_some_and(|(port, _)| is_number(port))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, link)| name.get(at + link.len()..).is_some_and(of_port))
}

#[cfg(test)]
mod tests {
    use super::is_service_link;

    #[test]
    fn kubernetes_may_say_where_our_services_are() {
        for name in [
            "REALMGATE_SERVICE_HOST",
            "REALMGATE_XDS_SERVICE_PORT",
            "REALMGATE_XDS_SERVICE_PORT_GRPC",
            "REALMGATE_PORT",
            "REALMGATE_PORT_18000_TCP",
            "REALMGATE_XDS_PORT_18000_TCP_ADDR",
        ] {
            assert!(is_service_link(name), "{name}");
        }
        for name in ["REALMGATE_XDS_LSTEN", "REALMGATE_PORTS", "REALMGATE_XDS_PORT_LISTEN"] {
            assert!(!is_service_link(name), "{name}");
        }
    }
}
