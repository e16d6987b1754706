//! Joins file, environment and flags into settings: a flag beats the environment, which beats the file, which
//! beats the default. Every problem is reported, not just the first.

use std::ffi::OsString;

use serde_json::{Map, Value};

use super::layers::{self, Layer};
use super::problem::{Origin, Problem};
use super::table::Setting;
use super::{Settings, check};

/// Everything that says something about the settings.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file.
    pub file: Option<ConfigFile>,
    /// All environment variables; those without our prefix are ignored.
    pub env: Vec<(OsString, OsString)>,
    /// Flags that were given.
    pub flags: Vec<(&'static Setting, String)>,
}

/// A configuration file that has been read.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Its name as it was given.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Sources {
    /// The settings, or everything that is wrong with them.
    pub fn settings(self) -> Result<Settings, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut given = Layer::new();
        if let Some(file) = &self.file {
            given.extend(layers::from_file(&file.name, &file.text, &mut problems));
        }
        given.extend(layers::from_env(self.env, &mut problems));
        given.extend(layers::from_flags(self.flags, &mut problems));

        let mut settings = typed(given.clone(), &mut problems);
        for finding in check::check(&mut settings) {
            let origin = given.get(finding.path).map_or(Origin::Default, |g| g.origin.clone());
            problems.push(Problem { origin, path: finding.path.to_owned(), message: finding.message });
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }
}

/// Gives the values their types. A value that does not fit is reported and left out, so that the next round
/// finds the next one; a round removes one value, so there are few.
fn typed(mut given: Layer, problems: &mut Vec<Problem>) -> Settings {
    loop {
        match serde_path_to_error::deserialize(nested(&given)) {
            Ok(settings) => return settings,
            Err(e) => {
                let path = e.path().to_string();
                let message = e.into_inner().to_string();
                let Some(bad) = given.remove(path.as_str()) else {
                    problems.push(Problem { origin: Origin::Default, path, message });
                    return Settings::default();
                };
                problems.push(Problem { origin: bad.origin, path, message });
            }
        }
    }
}

/// `{"xds.listen": v}` as `{"xds": {"listen": v}}`.
fn nested(given: &Layer) -> Value {
    let mut root = Map::new();
    for (path, given) in given {
        put(&mut root, path, &given.value);
    }
    Value::Object(root)
}

fn put(object: &mut Map<String, Value>, path: &str, value: &Value) {
    let Some((section, rest)) = path.split_once('.') else {
        object.insert(path.to_owned(), value.clone());
        return;
    };
    let inner = object.entry(section).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        put(inner, rest, value);
    }
}
