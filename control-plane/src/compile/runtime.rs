//! What proxies are told while they run, by RTDS: switches of Envoy's own, and those that stand in the shape of listeners.
//! A bootstrap names the layer; a listener never has to change for it.

use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use envoy_types::pb::google::protobuf::Struct;

use crate::xds::{Resource, ResourceSet};

/// The layer that `envoy-bootstrap` names.
pub const LAYER: &str = "realmgate";

/// Empty: every switch is as the listeners and Envoy have it by default. Values to come stand here, at most one in a map,
/// since the order of more is not settled on the wire.
static LAYERS: LazyLock<Arc<ResourceSet>> = LazyLock::new(|| {
    let layer = Runtime { name: LAYER.to_owned(), layer: Some(Struct::default()) };
    Arc::new(ResourceSet::on_demand([Resource::new(LAYER, &layer)]))
});

/// The layers of every proxy.
pub(super) fn layers() -> Arc<ResourceSet> {
    Arc::clone(&LAYERS)
}
