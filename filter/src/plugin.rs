//! The rim to Envoy: the only module that knows `proxy_wasm`.
//!
//! Calls go through `proxy_wasm::hostcalls`, whose results are handled; the SDK's trait helpers unwrap them.

mod counts;
mod guard;
mod shared;
mod vm;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, RootContext, StreamContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, PeerType, Status};
use realmgate_wire::ClientHeader;

use self::counts::TELL_MS;
use crate::gateway::Gateway;
use crate::guard::ROOT_ID;
use crate::host::{Host, HostError, UpstreamFailure, Way};
use crate::limits::SharedTable;
use crate::route::sticky_point;
use crate::session::{Session, Verdict};
use crate::telemetry::Metric;

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
        let envoy =
            Envoy { random: vm::entropy() ^ u64::from(context), message: Vec::new(), lacks_key: false };
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

    fn on_upstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        if end_of_stream && let Some(session) = &self.session {
            session.on_end_of_stream(Way::ToClient);
        }
        match self.session.as_ref().and_then(|session| session.settled()) {
            Some(Verdict::Pass) if self.translates() => self.translate(Way::ToClient, size),
            Some(Verdict::Pass) => Action::Continue,
            // What a server sends after its session was closed must not reach the client untranslated.
            _ => Action::Pause,
        }
    }

    fn on_downstream_close(&mut self, peer: PeerType) {
        self.end(peer != PeerType::Local);
    }
}

/// [`Host`] by proxy-wasm calls.
struct Envoy {
    /// State of `SplitMix64`.
    random: u64,
    /// Scratch space for [`Self::set_filter_state`].
    message: Vec<u8>,
    /// Whether this Envoy was found not to know [`HASH_KEY`].
    lacks_key: bool,
}

/// Where the load balancer finds the hash key. `envoy.string` would be taken, too, but is not hashable: the
/// balancer would choose at random.
const HASH_KEY: &str = "envoy.hashable_string";

/// Where it finds it before Envoy 1.38, which knows one hashable object only that a filter can set: an
/// address. Only `ORIGINAL_DST` clusters take it for more than a key.
const OLD_HASH_KEY: &str = "envoy.network.transport_socket.original_dst_address";

/// A hash key as an address. IPv4 because Envoy refuses IPv6 addresses on machines without IPv6.
#[allow(clippy::cast_possible_truncation)] // the bits that fit
fn key_as_address(key: &str) -> String {
    let hash = sticky_point(key);
    let ip = Ipv4Addr::from((hash >> 32) as u32);
    format!("{ip}:{}", (hash >> 16) as u16)
}

impl Envoy {
    /// Calls Envoy's `set_envoy_filter_state` with `SetEnvoyFilterStateArguments { path: 1, value: 2, span: 3
    /// }`, written by hand: a protobuf library would be half of the module. The span is left out, which means
    /// `FilterChain`: as long as the connection.
    fn set_filter_state(&mut self, path: &str, value: &str) -> Result<(), Status> {
        self.message.clear();
        put_string(&mut self.message, 1, path);
        put_string(&mut self.message, 2, value);
        hostcalls::call_foreign_function("set_envoy_filter_state", Some(&self.message)).map(|_| ())
    }
}

/// Appends a length-delimited field of a protobuf message.
fn put_string(out: &mut Vec<u8>, field: u8, text: &str) {
    out.push(field << 3 | 2);
    let mut length = text.len();
    loop {
        let [low, ..] = length.to_le_bytes();
        length >>= 7;
        out.push(if length == 0 { low } else { low | 0x80 });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(text.as_bytes());
}

const fn buffer(way: Way) -> BufferType {
    match way {
        Way::ToServer => BufferType::DownstreamData,
        Way::ToClient => BufferType::UpstreamData,
    }
}

fn refused<T: std::fmt::Debug>(call: &'static str) -> impl FnOnce(T) -> HostError {
    move |status| HostError { call, reason: format!("{status:?}") }
}

impl Host for Envoy {
    fn select(&mut self, connection: u32) -> Result<(), HostError> {
        hostcalls::set_effective_context(connection).map_err(refused("set_effective_context"))
    }

    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError> {
        self.set_filter_state("envoy.tcp_proxy.cluster", cluster).map_err(refused("the cluster"))
    }

    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError> {
        if !self.lacks_key {
            match self.set_filter_state(HASH_KEY, key) {
                Err(Status::NotFound) => self.lacks_key = true,
                other => return other.map_err(refused("the hash key")),
            }
        }
        self.set_filter_state(OLD_HASH_KEY, &key_as_address(key)).map_err(refused("the hash key"))
    }

    fn set_property(&mut self, name: &'static str, value: &str) -> Result<(), HostError> {
        hostcalls::set_property(vec![name], Some(value.as_bytes())).map_err(refused("set_property"))
    }

    fn upstream_failure(&mut self) -> Option<UpstreamFailure> {
        let flags = hostcalls::get_property(vec!["response", "flags"]).ok().flatten()?;
        let flags = u64::from_le_bytes(flags.try_into().ok()?);
        if flags == 0 {
            return None;
        }
        let reason = hostcalls::get_property(vec!["upstream", "transport_failure_reason"]).ok().flatten();
        let reason = String::from_utf8_lossy(&reason.unwrap_or_default()).into_owned();
        Some(UpstreamFailure { flags, reason })
    }

    fn source_address(&mut self, out: &mut String) -> Result<(), HostError> {
        const CALL: &str = "the source address";
        let bytes = hostcalls::get_property(vec!["source", "address"]).map_err(refused(CALL))?;
        let text = bytes.as_deref().map(std::str::from_utf8).transpose().map_err(refused(CALL))?;
        out.clear();
        out.push_str(text.ok_or_else(|| refused(CALL)("none"))?);
        Ok(())
    }

    fn now(&mut self) -> Result<u64, HostError> {
        vm::now()
    }

    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        shared::load(key, out)
    }

    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
        shared::store(key, value, version)
    }

    fn session_id(&mut self) -> Result<i64, HostError> {
        vm::session_id()
    }

    fn read(&mut self, way: Way, len: usize) -> Result<Vec<u8>, HostError> {
        let bytes = hostcalls::get_buffer(buffer(way), 0, len).map_err(refused("get_buffer"))?;
        Ok(bytes.unwrap_or_default())
    }

    fn replace(&mut self, way: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
        hostcalls::set_buffer(buffer(way), 0, len, by).map_err(refused("set_buffer"))
    }

    fn append(&mut self, way: Way, bytes: &[u8]) -> Result<(), HostError> {
        // Envoy knows two places: 0, and whatever is behind the end.
        hostcalls::set_buffer(buffer(way), usize::MAX, 0, bytes).map_err(refused("set_buffer"))
    }

    fn close(&mut self) -> Result<(), HostError> {
        // Behind a network filter Envoy knows one connection only: this closes both directions, once the
        // callback is over.
        hostcalls::close_downstream().map_err(refused("close"))
    }

    fn count(&mut self, metric: Metric, by: i64) {
        counts::count(metric, by);
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn warn(&mut self, message: &str) {
        let _ = hostcalls::log(LogLevel::Warn, message);
    }
}
