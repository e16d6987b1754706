//! What Envoy's wasm host takes for each thing that a filter can ask of it: modules that do one more each, and nothing with
//! what they get.

use super::compare::Work;
use crate::load::Mode;

/// A module.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// The work at which it is measured.
    pub(super) mode: Mode,
    /// What it does with the first chunk of data.
    first: &'static [&'static str],
    /// What it does with each that follows.
    each: &'static str,
    events: &'static [&'static str],
}

const SERVERS: &str = r#"(func (export "proxy_on_upstream_data") (param i32 i32 i32) (result i32)
    (call $each (i32.const 3))
    (i32.const 0))"#;
const ENDS: &str = r#"(func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_downstream_connection_close") (param i32 i32))
  (func (export "proxy_on_delete") (param i32))"#;
const LOG: &str = r#"(func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_downstream_connection_close") (param i32 i32)
    (drop (call $set_property (i32.const 1152) (i32.const 13) (i32.const 1024) (i32.const 300))))
  (func (export "proxy_on_delete") (param i32))"#;

const READ_FIRST: &str = "(drop (call $read (i32.const 2)))";
/// A function whose name lacks its first letter.
const CALL: &str = "(drop (call $call_foreign (i32.const 1025) (i32.const 21)
      (i32.const 1088) (i32.const 31) (i32.const 8) (i32.const 12)))";
const NAME: &str = "(drop (call $call_foreign (i32.const 1024) (i32.const 22)
      (i32.const 1088) (i32.const 31) (i32.const 8) (i32.const 12)))";
const ROUTE: &[&str] = &[READ_FIRST, NAME];

const READ: &str = "(drop (call $read (local.get 0)))";
const WRITE: &str = "(drop (call $read (local.get 0)))
    (drop (call $set_buffer (local.get 0) (i32.const 0) (i32.const 8) (i32.const 64) (i32.const 8)))";

/// The kinds of work.
pub(super) const MODES: [Mode; 2] = [Mode::Echo, Mode::Connect];

const fn message(name: &'static str, each: &'static str, events: &'static [&'static str]) -> Step {
    Step { name, mode: Mode::Echo, first: ROUTE, each, events }
}

const fn connection(
    name: &'static str,
    first: &'static [&'static str],
    events: &'static [&'static str],
) -> Step {
    Step { name, mode: Mode::Connect, first, each: "", events }
}

/// All of them, each with what the ones of the same mode before it do.
pub(super) const STEPS: [Step; 10] = [
    message("sees what clients send", "", &[]),
    message("and what servers send", "", &[SERVERS]),
    message("reads 8 bytes of either", READ, &[SERVERS]),
    message("replaces them", WRITE, &[SERVERS]),
    connection("waits for the first 8 bytes", &[], &[]),
    connection("reads them", &[READ_FIRST], &[]),
    connection("asks Envoy for a function that it does not have", &[READ_FIRST, CALL], &[]),
    connection("names a cluster instead", ROUTE, &[]),
    connection("is told of each beginning, and of each end twice", ROUTE, &[ENDS]),
    connection("sets a property of 300 bytes", ROUTE, &[LOG]),
];

/// The rows of the table, from what was measured of each of [`MODES`].
pub(super) fn rows(work: &[Work]) -> Vec<Vec<String>> {
    let units = ["a message and its answer", "a connection"];
    let rows = units.into_iter().zip(work).flat_map(|(unit, work)| {
        work.rows().into_iter().filter_map(move |row| match row.as_slice() {
            [name, .., processor, ratio] => {
                Some(vec![name.clone(), unit.to_owned(), processor.clone(), ratio.clone()])
            }
            _ => None,
        })
    });
    rows.collect()
}

impl Step {
    /// The module's text.
    pub(super) fn module(&self) -> String {
        let frame = include_str!("host.wat");
        let (first, each, events) = (self.first.join("\n    "), self.each, self.events.join("\n  "));
        format!("{frame}  (func $first\n    {first})\n  (func $each (param i32)\n    {each})\n  {events})\n")
    }
}

#[cfg(test)]
mod tests {
    use super::STEPS;

    #[test]
    fn modules_are_whole() {
        for step in &STEPS {
            wat::parse_str(step.module()).unwrap_or_else(|error| panic!("{}: {error}", step.name));
        }
        wat::parse_str(include_str!("minimal.wat")).unwrap();
        wat::parse_str(include_str!("framed.wat")).unwrap();
    }
}
