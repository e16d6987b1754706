//! The list of settings, read off the types: what stands in a field's doc comment is its help.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Settings;

/// What the name of every environment variable of ours starts with.
pub const ENV_PREFIX: &str = "REALMGATE_";

/// One setting and its names.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its key in `realmgate.yaml`, nested as the dots say: `xds.listen`.
    pub path: String,
    /// Its environment variable: `REALMGATE_XDS_LISTEN`.
    pub env: String,
    /// Its flag without dashes in front: `xds-listen`.
    pub flag: String,
    /// What it does.
    pub help: String,
    /// Its value when nobody says otherwise, in JSON.
    pub default: Value,
}

impl Setting {
    /// Whether it is a yes or no.
    #[must_use]
    pub const fn is_switch(&self) -> bool {
        matches!(self.default, Value::Bool(_))
    }

    /// Its default as it would be written; the empty text by that word.
    #[must_use]
    pub fn default_text(&self) -> String {
        match self.default.as_str() {
            Some("") => "empty".to_owned(),
            Some(text) => text.to_owned(),
            None => self.default.to_string(),
        }
    }
}

/// A group of settings.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// `game_gateway.limits`; empty for the top.
    pub(super) path: String,
    /// What the group is about.
    pub(super) help: String,
}

/// Every setting, sorted by path.
#[must_use]
pub fn table() -> &'static [Setting] {
    &TABLE.settings
}

/// Every section, sorted by path.
pub(super) fn sections() -> &'static [Section] {
    &TABLE.sections
}

/// The setting with this path.
pub(super) fn find(path: &str) -> Option<&'static Setting> {
    table().iter().find(|s| s.path == path)
}

/// The section with this path.
pub(super) fn is_section(path: &str) -> bool {
    sections().iter().any(|s| s.path == path)
}

/// The names directly below a section, for error messages.
pub(super) fn names_in(section: &str) -> String {
    let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
    let paths = table().iter().map(|s| s.path.as_str());
    let mut names: Vec<_> =
        paths.filter_map(|p| p.strip_prefix(&prefix)).filter_map(|rest| rest.split('.').next()).collect();
    names.dedup();
    names.join(", ")
}

static TABLE: LazyLock<Table> = LazyLock::new(Table::read);

#[derive(Default)]
struct Table {
    settings: Vec<Setting>,
    sections: Vec<Section>,
}

impl Table {
    fn read() -> Self {
        let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
        let schema = generator.into_root_schema_for::<Settings>().to_value();
        // That the defaults can be written as JSON is tested below.
        let defaults = serde_json::to_value(Settings::default()).unwrap_or_default();
        let mut table = Self::default();
        table.add("", &schema, &defaults);
        table.settings.sort_by(|a, b| a.path.cmp(&b.path));
        table
    }

    fn add(&mut self, path: &str, schema: &Value, default: &Value) {
        let help = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some(fields) = schema.get("properties").and_then(Value::as_object) else {
            let env = format!("{ENV_PREFIX}{}", path.replace('.', "_").to_uppercase());
            let flag = path.replace(['.', '_'], "-");
            self.settings.push(Setting { path: path.to_owned(), env, flag, help, default: default.clone() });
            return;
        };
        self.sections.push(Section { path: path.to_owned(), help });
        for (name, schema) in fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.add(&path, schema, default.get(name).unwrap_or(&Value::Null));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_has_a_help_a_default_and_names_of_its_own() {
        let table = table();
        assert!(table.len() > 20, "{table:#?}");
        for setting in table {
            assert!(setting.help.len() > 10, "{setting:?}");
            assert!(
                matches!(setting.default, Value::String(_) | Value::Bool(_) | Value::Number(_)),
                "{setting:?}"
            );
        }
        let distinct = |name: fn(&Setting) -> &str| table.iter().map(name).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(|s| &s.env), table.len());
        assert_eq!(distinct(|s| &s.flag), table.len());
    }

    #[test]
    fn names_follow_from_the_path() {
        let setting = find("game_gateway.limits.max_message_bytes").unwrap();
        assert_eq!(setting.env, "REALMGATE_GAME_GATEWAY_LIMITS_MAX_MESSAGE_BYTES");
        assert_eq!(setting.flag, "game-gateway-limits-max-message-bytes");
        assert_eq!(setting.default_text(), "65535");
        assert_eq!(names_in("log"), "format, level");
        assert!(names_in("").starts_with("api, consul, data_dir, "));
    }
}
