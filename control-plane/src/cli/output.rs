//! What commands print: the server's document as it is, or a table made of it.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

use super::Failure;

/// The form of a command's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Table,
    /// The server's document as JSON.
    Json,
    /// The server's document as YAML.
    Yaml,
}

impl Output {
    /// Whether people read it.
    pub(super) fn is_table(self) -> bool {
        self == Self::Table
    }

    /// Prints a document, by `table` if people read it.
    pub(super) fn print(self, document: &Value, table: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        match self {
            Self::Table => print(&printable(&table(document))),
            Self::Json => print(&format!("{document:#}")),
            Self::Yaml => {
                let yaml = serde_saphyr::to_string(document);
                print(&yaml.map_err(|e| Failure::failed(format!("cannot write YAML: {e}")))?)
            }
        }
    }
}

/// Prints text, which ends in a line break then, to the standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        // Whoever read the output, `head` for instance, has enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|e| Failure::failed(format!("cannot write the output: {e}"))),
    }
}

/// Says something beside the result, to the standard error output.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}

/// Names and messages come from proxies: what would steer the terminal is made visible.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A table without lines, as `kubectl` prints them.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    // No padding on the left: the first column starts where the line does.
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A text field; `-` when it is missing, empty or of another type.
pub(super) fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).filter(|t| !t.is_empty()).unwrap_or("-")
}

/// A number field; `-` when it is missing or of another type.
pub(super) fn number(document: &Value, pointer: &str) -> String {
    document.pointer(pointer).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |n| n.to_string())
}

/// The elements of an array field; none when it is missing.
pub(super) fn list<'a>(document: &'a Value, pointer: &str) -> &'a [Value] {
    document.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
