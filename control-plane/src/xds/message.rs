//! Requests and responses of both protocol variants in one shape, so that one core serves them.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Resource, ResourceType};

/// The two variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// State of the world: a proxy repeats all its names, CDS and LDS answers are complete.
    Sotw,
    /// Delta: both sides send differences, and removals are said explicitly.
    Delta,
}

/// What a proxy sends: perhaps an acknowledgement, perhaps a change of what it asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: ResourceType,
    /// The response that this acknowledges; empty on the first request of a type.
    pub(crate) nonce: String,
    /// The proxy's words when it refuses that response. The refusal is this, never the version (17).
    pub(crate) error: Option<String>,
    pub(crate) asks: Asks,
}

/// The part of a request that says which resources are wanted.
#[derive(Clone, Debug)]
pub(crate) enum Asks {
    /// State of the world: all names, and the version the proxy has.
    All { names: Vec<String>, version: String },
    /// Delta: what to add and drop, and after a reconnect what the proxy has already.
    Change { subscribe: Vec<String>, unsubscribe: Vec<String>, initial: HashMap<String, String> },
}

/// What a proxy is sent. The resources are shared with the snapshot and all other streams.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) kind: ResourceType,
    pub(crate) version: Arc<str>,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Arc<Resource>>,
    /// Names that do not exist; empty in state of the world, where absence says it.
    pub(crate) removed: Vec<Arc<str>>,
}

impl Response {
    /// Bytes of all entries, the measure of a configuration's size.
    pub(crate) fn size(&self) -> usize {
        self.resources.iter().map(|resource| resource.delta_entry().len()).sum()
    }
}
