//! Files of the repository that are made by the program and must stay equal to what it makes.

use std::path::Path;
use std::{env, fs};

/// Compares a file, named from the workspace's root, with what it should hold; with `UPDATE_DOCS=1` in the
/// environment writes it instead.
#[track_caller]
pub(crate) fn assert_holds(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, expected).unwrap_or_else(|e| panic!("cannot write {file}: {e}"));
        return;
    }
    let held = fs::read_to_string(&path).unwrap_or_default();
    let again = "UPDATE_DOCS=1 cargo test -p realmgate-control-plane";
    assert!(held == expected, "{file} is out of date; write it again with `{again}`");
}
