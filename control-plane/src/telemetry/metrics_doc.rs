//! Holds `docs/metrics.md` against the code: each metric that is defined has its row, and no row is of another.
//!
//! Metrics are defined in files named `metrics.rs` in the control plane, and in the filter's `telemetry.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The names that follow each `before` in `text`.
fn names<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = String> {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    text.split(before).skip(1).map(move |rest| rest.chars().take_while(is_name).collect::<String>())
}

fn defined(folder: &Path, file: &str, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            defined(&path, file, all);
        } else if path.file_name().is_some_and(|name| name == file) {
            let text = fs::read_to_string(&path).unwrap();
            all.extend(names(&text, "\"").filter(|name| name.starts_with("realmgate_")));
        }
    }
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_exists() {
    let mut code = BTreeSet::new();
    defined(&Path::new(ROOT).join("control-plane/src"), "metrics.rs", &mut code);
    defined(&Path::new(ROOT).join("filter/src"), "telemetry.rs", &mut code);
    // The beginnings of names that a test puts together.
    code.retain(|name| !name.ends_with('_'));
    let text = fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let documented: BTreeSet<String> =
        names(&text, "\n| `").filter(|name| name.starts_with("realmgate_")).collect();
    let missing: Vec<_> = code.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not documented: {missing:?}; not in code: {unknown:?}"
    );
    assert!(code.len() > 20, "the search finds nothing");
}
