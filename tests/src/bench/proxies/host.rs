//! What Envoy's wasm host takes for each thing that a filter can ask of it: modules that do one more each, and nothing with
//! what they get.

use crate::load::Mode;

/// A module.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// The work at which it is measured.
    pub(super) mode: Mode,
    /// What it does with each chunk of data.
    each: &'static str,
    events: &'static [&'static str],
}

const SERVERS: &str = r#"(func (export "proxy_on_upstream_data") (param i32 i32 i32) (result i32)
    (call $each (i32.const 3))
    (i32.const 0))"#;
const BEGINNING: &str = r#"(func (export "proxy_on_context_create") (param i32 i32))"#;
const ENDS: &str = r#"(func (export "proxy_on_downstream_connection_close") (param i32 i32))
  (func (export "proxy_on_delete") (param i32))"#;
const LOG: &str = r#"(func (export "proxy_on_downstream_connection_close") (param i32 i32)
    (drop (call $set_property (i32.const 1152) (i32.const 13) (i32.const 1024) (i32.const 300))))
  (func (export "proxy_on_delete") (param i32))"#;

const READ: &str = "(drop (call $read (local.get 0)))";
const WRITE: &str = "(drop (call $read (local.get 0)))
    (drop (call $set_buffer (local.get 0) (i32.const 0) (i32.const 8) (i32.const 64) (i32.const 8)))";

/// All of them, each with what the ones of the same mode before it do.
pub(super) const STEPS: [Step; 8] = [
    Step { name: "sees what clients send", mode: Mode::Echo, each: "", events: &[] },
    Step { name: "and what servers send", mode: Mode::Echo, each: "", events: &[SERVERS] },
    Step { name: "reads 8 bytes of either", mode: Mode::Echo, each: READ, events: &[SERVERS] },
    Step { name: "replaces them", mode: Mode::Echo, each: WRITE, events: &[SERVERS] },
    Step { name: "reads 8 bytes and names a cluster", mode: Mode::Connect, each: "", events: &[] },
    Step { name: "is told of each beginning", mode: Mode::Connect, each: "", events: &[BEGINNING] },
    Step { name: "of each end, twice", mode: Mode::Connect, each: "", events: &[BEGINNING, ENDS] },
    Step { name: "sets a property of 300 bytes", mode: Mode::Connect, each: "", events: &[BEGINNING, LOG] },
];

impl Step {
    /// The module's text.
    pub(super) fn module(&self) -> String {
        let (frame, each, events) = (include_str!("host.wat"), self.each, self.events.join("\n  "));
        format!("{frame}  (func $each (param i32)\n    {each})\n  {events})\n")
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
