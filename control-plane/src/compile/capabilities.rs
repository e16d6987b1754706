//! What Envoy lets the filter do, and what it tells it: no more than it needs.
//!
//! Envoy calls a module for every event that it has a function for, and not every listener needs all: a call that does
//! nothing still costs a tenth of a microsecond, for every message that a game server sends. What is not on this list
//! Envoy neither calls nor serves. Envoy before 1.40 does not know where the list stands and calls all: slower by so
//! much, and otherwise the same.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::extensions::wasm::v3::SanitizationConfig;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use realmgate_filter::FilterConfig;
use realmgate_filter::capabilities::{CALLS, ENDS, EVENTS, GUARD_EVENTS, SERVER_DATA};

/// What a plugin of the module is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A listener's filter: what clients send, and perhaps more.
    Gateway {
        /// What game servers send, because it has to be translated.
        replies: bool,
        /// Who ended a connection, because it is logged.
        ends: bool,
    },
    /// A sidecar's guard: that there are connections.
    Guard,
}

impl Told {
    /// What a listener's filter with this configuration has to know.
    pub(super) fn of(config: &FilterConfig) -> Self {
        Self::Gateway { replies: config.translates(), ends: config.access_log }
    }

    /// A part of the VM's configuration: VMs that agree in that, in id and code are one.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Gateway { replies: true, ends: true } => "",
            Self::Gateway { replies: true, ends: false } => "-unlogged",
            Self::Gateway { replies: false, ends: true } => "-clients",
            Self::Gateway { replies: false, ends: false } => "-clients-unlogged",
            Self::Guard => "-guard",
        }
    }

    fn events(self) -> Vec<&'static str> {
        match self {
            Self::Gateway { replies, ends } => {
                let mut events = EVENTS.to_vec();
                events.extend(replies.then_some(SERVER_DATA));
                events.extend(ends.then_some(ENDS).into_iter().flatten());
                events
            }
            Self::Guard => GUARD_EVENTS.to_vec(),
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
pub(super) fn restrict(wasm: &mut Any, told: Told) {
    let allowed =
        told.events().into_iter().chain(CALLS).map(|name| (name.to_owned(), SanitizationConfig {})).collect();
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
        let gateway = |replies, ends| Told::Gateway { replies, ends };
        let cases = [
            (gateway(false, false), 22),
            (gateway(false, true), 24),
            (gateway(true, false), 23),
            (gateway(true, true), 25),
            (Told::Guard, 20),
        ];
        for (told, count) in cases {
            let mut wasm = envoy::any(&Wasm { config: Some(plugin.clone()) });
            restrict(&mut wasm, told);
            let read = Wasm::decode(&*wasm.value).unwrap().config.unwrap();
            let Some(Vm::VmConfig(vm)) = read.vm else { panic!("no VM") };
            assert_eq!((&*read.name, &*vm.vm_id), ("name", "id"));
            let allowed = vm.capability_restriction_config.unwrap().allowed_capabilities;
            assert_eq!(allowed.len(), count);
            let Told::Gateway { replies, ends } = told else { continue };
            assert_eq!(allowed.contains_key(SERVER_DATA), replies);
            assert!(ENDS.iter().all(|event| allowed.contains_key(*event) == ends));
        }
    }
}
