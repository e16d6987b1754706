//! Whether a file is a filter module that an Envoy can run: looked at before any proxy is told of it.

use wasmparser::{ExternalKind, Parser, Payload, Validator};

/// What is wrong with a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// Nothing is in it.
    #[error("the file is empty")]
    Empty,
    /// It is something else.
    #[error("not a WebAssembly module: it does not begin with `\\0asm`")]
    NotWasm,
    /// It ends too early, or is damaged.
    #[error("not a whole WebAssembly module: {what} at byte {at} of {size}; copy it again")]
    Malformed {
        /// What the parser says.
        what: String,
        /// Where.
        at: u64,
        /// How long it is.
        size: usize,
    },
    /// It speaks another version of proxy-wasm, or none.
    #[error("not built for proxy-wasm 0.2: it exports none of {}", ABI_VERSIONS.join(", "))]
    Abi,
    /// Something that Envoy calls is missing.
    #[error("it does not export {0}, without which Envoy cannot call it")]
    Export(&'static str),
    /// It needs what Envoy has not.
    #[error("it imports `{name}` of `{module}`, and Envoy gives only {}", HOST_MODULES.join(", "))]
    Import {
        /// Where it would have to come from.
        module: String,
        /// What.
        name: String,
    },
    /// It is another filter.
    #[error("a proxy-wasm module, but not Realmgate's filter: its statistics are not in it")]
    Foreign,
}

impl ModuleError {
    /// A short name for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotWasm => "not_wasm",
            Self::Malformed { .. } => "malformed",
            Self::Abi => "abi",
            Self::Export(_) => "export",
            Self::Import { .. } => "import",
            Self::Foreign => "foreign",
        }
    }
}

/// The versions of the interface that Envoy 1.37 and newer speak, as modules say them.
const ABI_VERSIONS: [&str; 2] = ["proxy_abi_version_0_2_0", "proxy_abi_version_0_2_1"];

/// One of these gives Envoy memory of the module's.
const ALLOCATORS: [&str; 2] = ["proxy_on_memory_allocate", "malloc"];

/// What Envoy's wasm host gives to modules.
const HOST_MODULES: [&str; 3] = ["env", "wasi_snapshot_preview1", "wasi_unstable"];

/// Names of statistics that every version of the filter has. They are what dashboards stand on, so they stay; a marker made for
/// this would be missing in modules of before.
const MARKER: &[u8] = b"realmgate_connections_routed_total";

/// Whether `bytes` are our filter, whole, and for an interface that Envoy has.
pub fn check(bytes: &[u8]) -> Result<(), ModuleError> {
    if bytes.is_empty() {
        return Err(ModuleError::Empty);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(ModuleError::NotWasm);
    }
    let malformed = |error: wasmparser::BinaryReaderError| ModuleError::Malformed {
        what: error.message().to_owned(),
        at: error.offset(),
        size: bytes.len(),
    };
    Validator::new().validate_all(bytes).map_err(malformed)?;
    let (mut exports, mut marked) = (Vec::new(), false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(malformed)?;
                    if !HOST_MODULES.contains(&import.module) {
                        let (module, name) = (import.module.to_owned(), import.name.to_owned());
                        return Err(ModuleError::Import { module, name });
                    }
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    exports.push((export.name, export.kind));
                }
            }
            Payload::DataSection(section) => {
                for segment in section {
                    let data = segment.map_err(malformed)?.data;
                    marked |= data.windows(MARKER.len()).any(|window| window == MARKER);
                }
            }
            _ => {}
        }
    }
    let any = |names: &[&str], kind| names.iter().any(|name| exports.contains(&(*name, kind)));
    if !any(&ABI_VERSIONS, ExternalKind::Func) {
        return Err(ModuleError::Abi);
    }
    if !any(&["memory"], ExternalKind::Memory) {
        return Err(ModuleError::Export("`memory`"));
    }
    if !any(&ALLOCATORS, ExternalKind::Func) {
        return Err(ModuleError::Export("`proxy_on_memory_allocate` or `malloc`"));
    }
    if marked { Ok(()) } else { Err(ModuleError::Foreign) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The least module that passes, with one of its parts replaced.
    fn module(part: &str, by: &str) -> Vec<u8> {
        let text = r#"(module
            (import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 0))
            (data (i32.const 8) "a realmgate_connections_routed_total b"))"#;
        assert!(text.contains(part), "{part}");
        wat::parse_str(text.replace(part, by)).unwrap()
    }

    #[test]
    fn what_an_envoy_can_run_passes() {
        assert_eq!(check(&module("", "")), Ok(()));
        assert_eq!(check(&module("0_2_1", "0_2_0")), Ok(()));
        assert_eq!(check(&module("proxy_on_memory_allocate", "malloc")), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases: [(&[u8], &str, &str); 9] = [
            (b"", "empty", "the file is empty"),
            (b"<html>404</html>", "not_wasm", "does not begin with"),
            (b"\0asm", "malformed", "at byte 4 of 4"),
            (&module("proxy_abi_version_0_2_1", "proxy_abi_version_0_3_0"), "abi", "proxy_abi_version_0_2_0"),
            (&module("(export \"memory\")", ""), "export", "`memory`"),
            (&module("proxy_on_memory_allocate", "alloc"), "export", "`malloc`"),
            (&module("\"env\"", "\"go\""), "import", "`proxy_log` of `go`"),
            (&module("connections_routed", "other"), "foreign", "not Realmgate's filter"),
            // A component, which begins like a module.
            (b"\0asm\x0d\0\x01\0", "malformed", "at byte"),
        ];
        for (bytes, label, words) in cases {
            let error = check(bytes).unwrap_err();
            assert_eq!(error.label(), label, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_module_that_is_cut_short_never_passes(cut in 0..10_000_usize) {
            let whole = module("", "");
            let cut = cut % whole.len();
            prop_assert!(check(&whole[..cut]).is_err(), "{cut} bytes of {}", whole.len());
        }

        #[test]
        fn a_damaged_module_is_an_answer_and_no_panic(at in 0..10_000_usize, byte in any::<u8>()) {
            let mut damaged = module("", "");
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = check(&damaged);
        }
    }
}
