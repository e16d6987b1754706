//! The rim to Envoy: this module and those below it alone know `proxy_wasm`.
//!
//! Calls go through `proxy_wasm::hostcalls`, whose results are handled; the SDK's trait helpers unwrap them.

mod counts;
mod envoy;
mod guard;
mod shared;
mod vm;

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, PeerType};
use realmgate_wire::ClientHeader;

use self::counts::TELL_MS;
use self::envoy::Envoy;
use crate::gateway::Gateway;
use crate::guard::ROOT_ID;
use crate::host::{HostError, Way};
use crate::limits::SharedTable;
use crate::session::{Session, Verdict};

/// Envoy calls this once per VM, before anything else.
#[allow(unsafe_code)] // an export is unsafe by name: nothing else may be called `_initialize`
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // Also makes a trap say what it was about.
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|context| match &*shared::root_id() {
        ROOT_ID => Box::new(guard::Root),
        _ => Box::new(Root::new(context)),
    });
}

thread_local! {
    /// What the connections of all root contexts of the VM count in: a new configuration does not start from 0.
    static TABLE: SharedTable = SharedTable::default();
}

/// A plugin configuration: one per listener, several may share a VM.
struct Root {
    shared: Rc<RefCell<Shared>>,
}

/// What a root context shares with its connections.
struct Shared {
    gateway: Option<Gateway>,
    envoy: Envoy,
    tick_ms: u32,
}

impl Root {
    fn new(context: u32) -> Self {
        let envoy = Envoy::new(vm::entropy() ^ u64::from(context));
        Self { shared: Rc::new(RefCell::new(Shared { gateway: Gateway::new().ok(), envoy, tick_ms: 0 })) }
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let Ok(mut shared) = self.shared.try_borrow_mut() else { return false };
        let Shared { gateway: Some(gateway), envoy, tick_ms } = &mut *shared else { return false };
        gateway.count_in(&shared::plugin_name(), TABLE.with(Rc::clone));
        let json = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size);
        let json = json.ok().flatten().unwrap_or_default();
        if let Err(error) = gateway.configure(&json, envoy) {
            let _ = hostcalls::log(LogLevel::Error, &format!("realmgate: configuration refused: {error}"));
            return false;
        }
        envoy.is_logged = gateway.is_logged();
        let period = gateway.tick_period_ms().map_or(TELL_MS, |period| period.min(TELL_MS));
        if period != *tick_ms {
            *tick_ms = period;
            let _ = hostcalls::set_tick_period(std::time::Duration::from_millis(u64::from(period)));
        }
        true
    }

    fn on_tick(&mut self) {
        let Ok(mut shared) = self.shared.try_borrow_mut() else { return };
        let Shared { gateway: Some(gateway), envoy, tick_ms } = &mut *shared else { return };
        gateway.tick(*tick_ms, envoy);
        counts::tell();
    }

    fn create_stream_context(&self, context: u32) -> Option<Box<dyn StreamContext>> {
        counts::begin();
        Some(Box::new(Connection { context, session: None, shared: Rc::clone(&self.shared) }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::StreamContext)
    }
}

struct Connection {
    context: u32,
    session: Option<Rc<Session>>,
    shared: Rc<RefCell<Shared>>,
}

impl Connection {
    fn end(&mut self, by_client: bool) {
        let Some(session) = self.session.take() else { return };
        let Ok(mut shared) = self.shared.try_borrow_mut() else { return };
        if let Shared { gateway: Some(gateway), envoy, .. } = &mut *shared {
            gateway.end(&session, by_client, envoy);
        }
    }

    fn translates(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.translates())
    }

    fn translate(&self, way: Way, size: usize) -> Action {
        let Some(session) = &self.session else { return Action::Pause };
        let Ok(mut shared) = self.shared.try_borrow_mut() else { return Action::Pause };
        let Shared { gateway: Some(gateway), envoy, .. } = &mut *shared else { return Action::Pause };
        match gateway.translate(session, way, size, envoy) {
            // Even where nothing is left of a chunk: it may be the last.
            Verdict::Pass => Action::Continue,
            Verdict::Wait | Verdict::Closed => Action::Pause,
        }
    }
}

// The SDK drops it when Envoy deletes the context: the one callback that comes at every end. `on_done` and `on_log` would
// come with it, and each costs a call into the VM.
impl Drop for Connection {
    fn drop(&mut self) {
        self.end(false);
        counts::end();
    }
}

impl Context for Connection {}

impl StreamContext for Connection {
    fn on_new_connection(&mut self) -> Action {
        if let Ok(mut shared) = self.shared.try_borrow_mut()
            && let Shared { gateway: Some(gateway), envoy, .. } = &mut *shared
        {
            self.session = Some(gateway.open(self.context, envoy));
        }
        // Holds back tcp_proxy, which would choose its cluster now.
        Action::Pause
    }

    fn on_downstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        let Some(session) = &self.session else { return Action::Pause };
        if end_of_stream {
            session.on_end_of_stream(Way::ToServer);
        }
        let verdict = match session.settled() {
            Some(Verdict::Pass) if self.translates() => return self.translate(Way::ToServer, size),
            Some(verdict) => verdict,
            None if size < ClientHeader::LEN && !end_of_stream => Verdict::Wait,
            None => {
                let Ok(mut shared) = self.shared.try_borrow_mut() else { return Action::Pause };
                let Shared { gateway: Some(gateway), envoy, .. } = &mut *shared else {
                    return Action::Pause;
                };
                let input = hostcalls::get_buffer(BufferType::DownstreamData, 0, ClientHeader::LEN);
                let input = input.ok().flatten().unwrap_or_default();
                match gateway.data(session, &input, end_of_stream, envoy) {
                    Verdict::Pass if session.translates() => {
                        gateway.translate(session, Way::ToServer, size, envoy)
                    }
                    verdict => verdict,
                }
            }
        };
        match verdict {
            Verdict::Pass => Action::Continue,
            Verdict::Wait | Verdict::Closed => Action::Pause,
        }
    }

    fn on_upstream_data(&mut self, size: usize, _end_of_stream: bool) -> Action {
        match self.session.as_ref().and_then(|session| session.settled()) {
            Some(Verdict::Pass) if self.translates() => self.translate(Way::ToClient, size),
            Some(Verdict::Pass) => Action::Continue,
            // What a server sends after its session was closed must not reach the client untranslated.
            _ => Action::Pause,
        }
    }

    // This and the next come only where an access log wants to know.
    fn on_downstream_close(&mut self, peer: PeerType) {
        self.end(peer != PeerType::Local);
    }

    // The end of the server's stream, where its bytes are not seen, too.
    fn on_upstream_close(&mut self, _: PeerType) {
        if let Some(session) = &self.session {
            session.on_end_of_stream(Way::ToClient);
        }
    }
}

fn refused<T: std::fmt::Debug>(call: &'static str) -> impl FnOnce(T) -> HostError {
    move |status| HostError { call, reason: format!("{status:?}") }
}
