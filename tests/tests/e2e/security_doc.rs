//! What docs/security.md promises has a test, by the name that it gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use realmgate_tests::parts;

/// Where the tests of the workspace are: by name, the places that they have in the sources, such as `xds/listener/access`.
fn tests() -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in ["control-plane", "filter", "tests", "wire"] {
        for file in rust_files(&parts::workspace().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let place = file.with_extension("").display().to_string();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                let Some(name) = declared.and_then(|rest| rest.split(['(', '<']).next()) else { continue };
                if std::mem::take(&mut marked) {
                    found.entry(name.to_owned()).or_default().push(place.clone());
                }
            }
        }
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => rust_files(&path),
            Some(extension) if extension == "rs" => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

/// A name is where the test is, in the words of its file's path, and its own: `xds::listener::access::a_certificate_decides_alone`.
fn is_there(name: &str, tests: &BTreeMap<String, Vec<String>>) -> bool {
    let (place, test) = name.rsplit_once("::").unwrap();
    let folders: Vec<_> = place.split("::").collect();
    let fits = |file: &String| {
        let mut parts = file.split('/');
        folders.iter().all(|folder| parts.any(|part| part == *folder))
    };
    tests.get(test).is_some_and(|files| files.iter().any(fits))
}

#[test]
fn every_line_has_its_test() {
    let page = fs::read_to_string(parts::workspace().join("docs/security.md")).unwrap();
    let tests = tests();
    let spans = page.split('`').skip(1).step_by(2);
    let named: Vec<_> = spans.filter(|span| span.contains("::") && !span.contains(' ')).collect();
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name, &tests)).collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    assert!(missing.is_empty(), "docs/security.md names tests that are not there: {missing:#?}");

    // Tables whose last column says what holds a line have no line without it.
    let mut held = false;
    for line in page.lines() {
        match line.strip_prefix('|') {
            None => held = false,
            Some(_) if line.ends_with("| held by |") => held = true,
            Some(row) if held && !row.starts_with("---") => {
                let last = row.trim_end_matches('|').rsplit('|').next().unwrap();
                assert!(last.contains("::"), "docs/security.md: no test holds: {line}");
            }
            Some(_) => {}
        }
    }
}
