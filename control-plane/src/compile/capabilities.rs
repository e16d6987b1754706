//! What Envoy lets the filter do, and what it tells it: no more than it needs.
//!
//! Envoy calls a module for every event that it has a function for, and the SDK exports all of them: a call that does
//! nothing still costs a tenth of a microsecond, for every message that a game server sends. What is not on this list
//! Envoy neither calls nor serves. Envoy before 1.40 does not know where the list stands and calls all: slower by so
//! much, and otherwise the same.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::extensions::wasm::v3::SanitizationConfig;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use realmgate_filter::capabilities::{CALLS, EVENTS, GUARD_EVENTS, SERVER_DATA};

/// Whose bytes the filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sees {
    /// What clients send.
    Clients,
    /// What game servers send, too.
    BothWays,
    /// Nobody's: a guard.
    Nothing,
}

impl Sees {
    /// A part of the VM's configuration: VMs that agree in that, in id and code are one.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Clients => "-clients",
            Self::BothWays => "",
            Self::Nothing => "-guard",
        }
    }
}

/// `Wasm { config: PluginConfig { vm_config: VmConfig { capability_restriction_config } } }`, those fields alone, with
/// a map that is always encoded in the same order: the versions of resources are hashes of their bytes.
#[derive(Clone, PartialEq, Message)]
struct WasmPart {
    #[prost(message, optional, tag = "1")]
    config: Option<PluginPart>,
}

#[derive(Clone, PartialEq, Message)]
struct PluginPart {
    #[prost(message, optional, tag = "3")]
    vm_config: Option<VmPart>,
}

#[derive(Clone, PartialEq, Message)]
struct VmPart {
    #[prost(message, optional, tag = "8")]
    restriction: Option<Restriction>,
}

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::zero_sized_map_values, reason = "a map of empty messages is what the protocol has")]
struct Restriction {
    #[prost(btree_map = "string, message", tag = "1")]
    allowed: BTreeMap<String, SanitizationConfig>,
}

/// Adds the list to an encoded `Wasm`. What stands twice in an encoded message is merged by whoever reads it.
pub(super) fn restrict(wasm: &mut Any, sees: Sees) {
    let events = if sees == Sees::Nothing { &GUARD_EVENTS[..] } else { &EVENTS[..] };
    let data = (sees == Sees::BothWays).then_some(SERVER_DATA);
    let names = events.iter().copied().chain(CALLS).chain(data);
    let allowed = names.map(|name| (name.to_owned(), SanitizationConfig {})).collect();
    let vm_config = Some(VmPart { restriction: Some(Restriction { allowed }) });
    let part = WasmPart { config: Some(PluginPart { vm_config }) };
    wasm.value.extend_from_slice(&part.encode_to_vec());
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm;
    use envoy_types::pb::envoy::extensions::wasm::v3::plugin_config::Vm;
    use envoy_types::pb::envoy::extensions::wasm::v3::{PluginConfig, VmConfig};

    use super::*;
    use crate::compile::envoy;

    #[test]
    fn the_list_merges_into_the_vm() {
        let vm = VmConfig { vm_id: "id".to_owned(), ..VmConfig::default() };
        let plugin =
            PluginConfig { name: "name".to_owned(), vm: Some(Vm::VmConfig(vm)), ..PluginConfig::default() };
        for (sees, count) in [(Sees::Clients, 24), (Sees::BothWays, 25), (Sees::Nothing, 20)] {
            let mut wasm = envoy::any(&Wasm { config: Some(plugin.clone()) });
            restrict(&mut wasm, sees);
            let read = Wasm::decode(&*wasm.value).unwrap().config.unwrap();
            let Some(Vm::VmConfig(vm)) = read.vm else { panic!("no VM") };
            assert_eq!((&*read.name, &*vm.vm_id), ("name", "id"));
            let allowed = vm.capability_restriction_config.unwrap().allowed_capabilities;
            assert_eq!(allowed.len(), count);
            assert_eq!(allowed.contains_key(SERVER_DATA), sees == Sees::BothWays);
        }
    }
}
