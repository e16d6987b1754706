//! [`Guard`] behind the ABI: a root context for each configuration, and all of them guard the same connections.

use super::abi::{self, Buffer, Level};
use super::{counts, refused};
use crate::guard::{Guard, Peers};
use crate::host::HostError;
use crate::telemetry::Metric;

/// Takes a configuration of this size; whether it could be.
pub(super) fn configure(guard: &mut Guard, size: usize) -> bool {
    let json = abi::buffer(Buffer::PluginConfiguration, 0, size).unwrap_or_default();
    match guard.configure(&json, &mut Envoy) {
        Ok(closed) => {
            count(closed);
            true
        }
        Err(error) => {
            counts::count(Metric::ConfigRejected, 1);
            abi::log(Level::Error, &format!("realmgate: configuration refused: {error}"));
            false
        }
    }
}

/// Looks at those that had not proven who they are.
pub(super) fn look(guard: &mut Guard) {
    count(guard.look(&mut Envoy));
}

fn count(closed: usize) {
    if closed > 0 {
        counts::count(Metric::IntentionClosed, i64::try_from(closed).unwrap_or(i64::MAX));
    }
}

struct Envoy;

impl Peers for Envoy {
    fn id(&mut self, connection: u32) -> Option<String> {
        abi::select(connection).ok()?;
        let id = abi::property("connection\0uri_san_peer_certificate").ok()?;
        // Of who has shown no certificate it is empty.
        String::from_utf8(id).ok().filter(|id| !id.is_empty())
    }

    fn close(&mut self, connection: u32) -> Result<(), HostError> {
        abi::select(connection).map_err(refused("set_effective_context"))?;
        abi::close().map_err(refused("close"))
    }
}
