//! Filter modules that tests deploy: ours, another build of it, and one that passes for it and refuses everything.

use std::fs;
use std::path::Path;

use crate::parts;

/// Our filter.
pub fn good() -> Vec<u8> {
    let path = parts::FILTER.find().expect("the filter is built");
    fs::read(path).expect("the filter can be read")
}

/// Another build of it: a custom section means nothing. Its id, its length, the length of its name, and that.
pub fn next() -> Vec<u8> {
    [&good()[..], b"\0\x05\x04next"].concat()
}

/// One that looks like our filter to a control plane, and refuses every configuration.
pub fn refusing() -> Vec<u8> {
    let text = r#"(module (memory (export "memory") 1)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 4096))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
        (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 0))
        (data (i32.const 0) "realmgate_connections_routed_total"))"#;
    wat::parse_str(text).expect("it is a module")
}

/// Puts a module in the place of another at once.
pub fn deploy(file: &Path, module: &[u8]) {
    let next = file.with_extension("next");
    fs::write(&next, module).and_then(|()| fs::rename(next, file)).expect("a folder of the test's own");
}
