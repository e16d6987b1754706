//! What commands print: the server's document as it is, or a table made of it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

use super::Failure;
use crate::telemetry::visible::escaped;

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
        self.print_painted(document, table, str::to_owned)
    }

    /// Prints a document, for people one text of it as it is.
    pub(super) fn print_text(self, document: &Value, pointer: &str) -> Result<(), Failure> {
        if self.is_table() {
            print(&printable(text(document, pointer)))
        } else {
            self.print(document, |_| String::new())
        }
    }

    /// The same; `paint` puts colours into a table that goes to a terminal, when all that could steer it is out.
    pub(super) fn print_painted(
        self,
        document: &Value,
        table: impl FnOnce(&Value) -> String,
        paint: impl FnOnce(&str) -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Table => {
                let text = table(&visible(document));
                // https://no-color.org
                let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
                if plain || !io::stdout().is_terminal() { print(&text) } else { print(&paint(&text)) }
            }
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

/// The document with its texts on one line each: names and messages come from proxies, and must not look like rows of their own.
fn visible(document: &Value) -> Value {
    match document {
        Value::String(text) => Value::String(escaped(text).into_owned()),
        Value::Array(list) => list.iter().map(visible).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (escaped(key).into_owned(), visible(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => document.clone(),
    }
}

/// Text of several lines, in which what would steer the terminal is made visible.
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

/// How long ago a moment was, given as its time since the Unix epoch; `-` when it is not known.
pub(super) fn ago(moment: Option<Duration>) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The clock that named the moment may be ahead of ours.
    moment.map_or_else(|| "-".to_owned(), |moment| format!("{} ago", span(now.saturating_sub(moment))))
}

/// A length of time in its largest unit.
fn span(length: Duration) -> String {
    match length.as_secs() {
        secs @ 0..120 => format!("{secs}s"),
        secs @ 120..7200 => format!("{}m", secs / 60),
        secs @ 7200..172_800 => format!("{}h", secs / 3600),
        secs => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (secs, expected) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(span(Duration::from_secs(secs)), expected);
        }
        assert_eq!(ago(None), "-");
        assert_eq!(ago(Some(Duration::MAX)), "0s ago");
    }

    #[test]
    fn what_others_say_is_one_line_of_a_table() {
        let document =
            serde_json::json!({"id": "a\nb  edge\u{1b}[2J", "list": [{"k\n": "\u{2028}"}, 1, null]});
        let shown =
            serde_json::json!({"id": "a\\nb  edge\\u{1b}[2J", "list": [{"k\\n": "\\u{2028}"}, 1, null]});
        assert_eq!(visible(&document), shown);
    }

    #[test]
    fn what_steers_a_terminal_is_made_visible() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\u{fffd}[2J\nb");
    }
}
