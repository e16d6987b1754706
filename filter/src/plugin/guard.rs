//! [`Guard`] behind proxy-wasm: a root context for each configuration, and all of them guard the same connections.

use std::cell::RefCell;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{BufferType, ContextType, LogLevel};

use super::{counts, refused};
use crate::guard::{Guard, Peers, TICK_MS};
use crate::host::HostError;
use crate::telemetry::Metric;

thread_local! {
    /// The connections of all root contexts of the VM: each change of the rules is a new root context. A sidecar has one
    /// listener that is guarded.
    static GUARD: RefCell<Guard> = RefCell::new(Guard::default());
}

pub(super) struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let _ = hostcalls::set_tick_period(Duration::from_millis(u64::from(TICK_MS)));
        let json = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        let json = json.ok().flatten().unwrap_or_default();
        match GUARD.with_borrow_mut(|guard| guard.configure(&json, &mut Envoy)) {
            Ok(closed) => {
                count(closed);
                true
            }
            Err(error) => {
                counts::count(Metric::ConfigRejected, 1);
                let _ =
                    hostcalls::log(LogLevel::Error, &format!("realmgate: configuration refused: {error}"));
                false
            }
        }
    }

    fn on_tick(&mut self) {
        count(GUARD.with_borrow_mut(|guard| guard.look(&mut Envoy)));
        counts::tell();
    }

    fn create_stream_context(&self, context: u32) -> Option<Box<dyn StreamContext>> {
        GUARD.with_borrow_mut(|guard| guard.begin(context));
        counts::begin();
        Some(Box::new(Connection { context }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }
}

fn count(closed: usize) {
    counts::count(Metric::IntentionClosed, i64::try_from(closed).unwrap_or(i64::MAX));
}

struct Connection {
    context: u32,
}

impl Drop for Connection {
    fn drop(&mut self) {
        GUARD.with_borrow_mut(|guard| guard.end(self.context));
        counts::end();
    }
}

impl Context for Connection {}

impl StreamContext for Connection {}

struct Envoy;

impl Peers for Envoy {
    fn id(&mut self, connection: u32) -> Option<String> {
        hostcalls::set_effective_context(connection).ok()?;
        let id = hostcalls::get_property(vec!["connection", "uri_san_peer_certificate"]).ok().flatten()?;
        // Of who has shown no certificate it is empty.
        String::from_utf8(id).ok().filter(|id| !id.is_empty())
    }

    fn close(&mut self, connection: u32) -> Result<(), HostError> {
        hostcalls::set_effective_context(connection).map_err(refused("set_effective_context"))?;
        // Envoy closes once the callback is over: nothing is called while the guard is borrowed.
        hostcalls::close_downstream().map_err(refused("close"))
    }
}
