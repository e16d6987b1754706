//! Values that the VMs of a process share. They belong to the VM's id and outlive the VM.

use proxy_wasm::hostcalls;
use proxy_wasm::types::Status;

use super::refused;
use crate::host::HostError;

/// Passed with a write, it lets the write make a key but not replace one: no value carries it, since Envoy numbers its
/// writes from 1. (0 would mean "replace whatever is there".)
const ABSENT: u32 = u32::MAX;

/// As [`crate::host::Host::load`].
pub(super) fn load(key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
    let (value, version) = hostcalls::get_shared_data(key).map_err(refused("get_shared_data"))?;
    // The SDK gives a copy of its own.
    *out = value.unwrap_or_default();
    Ok(version)
}

/// As [`crate::host::Host::store`].
pub(super) fn store(key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
    match hostcalls::set_shared_data(key, Some(value), Some(version.unwrap_or(ABSENT))) {
        Ok(()) => Ok(true),
        Err(Status::CasMismatch) => Ok(false),
        Err(status) => Err(refused("set_shared_data")(status)),
    }
}

/// The name that the configuration goes by: the listener's.
pub(super) fn plugin_name() -> String {
    text("plugin_name")
}

/// What the configuration wants to be run by.
pub(super) fn root_id() -> String {
    text("plugin_root_id")
}

fn text(property: &str) -> String {
    let text = hostcalls::get_property(vec![property]).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}
