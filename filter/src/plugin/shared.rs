//! Values that the VMs of a process share. They belong to the VM's id and outlive the VM.

use super::abi::{self, Status};
use super::refused;
use crate::host::HostError;

/// Passed with a write, it lets the write make a key but not replace one: no value carries it, since Envoy numbers its
/// writes from 1. (0 would mean "replace whatever is there".)
const ABSENT: u32 = u32::MAX;

/// As [`crate::host::Host::load`].
pub(super) fn load(key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
    match abi::shared_data(key) {
        Ok((value, version)) => {
            // A copy of our own.
            *out = value;
            Ok(Some(version))
        }
        Err(Status::NOT_FOUND) => {
            out.clear();
            Ok(None)
        }
        Err(status) => Err(refused("get_shared_data")(status)),
    }
}

/// As [`crate::host::Host::store`].
pub(super) fn store(key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
    match abi::set_shared_data(key, value, version.unwrap_or(ABSENT)) {
        Ok(()) => Ok(true),
        Err(Status::CAS_MISMATCH) => Ok(false),
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
    String::from_utf8_lossy(&abi::property(property).unwrap_or_default()).into_owned()
}
