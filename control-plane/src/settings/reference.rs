//! Writes docs/settings.md from the list of settings.

use std::fmt::Write;

use super::layers::OTHER_VARIABLES;
use super::table::{Setting, sections, table};

const HEAD: &str = "\
# Settings

<!-- Generated from control-plane/src/settings by `UPDATE_DOCS=1 cargo test -p realmgate-control-plane`. -->

`realmgate serve` reads `realmgate.yaml` from the working directory when it is there, or the file that `--config`
names. Keys nest as their dots say:

```yaml
xds:
  listen: 127.0.0.1:18000
log:
  level: debug
```

Each setting is also an environment variable and a flag. A flag beats the environment, the environment beats the
file, the file beats the default. Unknown keys, unknown `REALMGATE_` variables and values that do not fit are all
reported before any port is bound, and the process ends with exit code 64.

";

/// The text of docs/settings.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for section in sections() {
        let settings: Vec<_> = table().iter().filter(|s| parent(&s.path) == section.path).collect();
        if settings.is_empty() {
            continue;
        }
        if section.path.is_empty() {
            text.push_str("## General\n\n");
        } else {
            let _ = write!(text, "## `{}`\n\n{}\n\n", section.path, section.help);
        }
        for setting in settings {
            let _ = writeln!(text, "{}", entry(setting));
        }
        text.push('\n');
    }
    let _ = write!(
        text,
        "## Other variables\n\n\
         `realmgate serve` lets these pass, and those that Kubernetes sets for services whose names start with \
         `realmgate`:\n{}. Any other variable that starts with `REALMGATE_` is refused.\n",
        OTHER_VARIABLES.map(|name| format!("`{name}`")).join(", ")
    );
    text
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn entry(setting: &Setting) -> String {
    let Setting { path, env, flag, help, .. } = setting;
    let default = setting.default_text();
    let default = if default == "empty" { default } else { format!("`{default}`") };
    format!("- **`{path}`** (default {default}; `{env}`, `--{flag}`): {help}")
}
