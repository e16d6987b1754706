//! Leaves the debug sections out of the wasm module: cargo's `strip` setting does not reach a crate that is
//! built as a library, too, and they would be nine tenths of what every Envoy has to load.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32") {
        println!("cargo::rustc-link-arg-cdylib=--strip-debug");
    }
}
