//! The host side of the ABI: what the module can call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use realmgate_tests::scenario::{Outcome, closed_by_filter};
use wasmtime::{Caller, Extern, Linker, Memory};

type Called<'a> = Caller<'a, Host>;

/// Status codes of the ABI.
const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;

/// Buffers of the ABI.
const DOWNSTREAM_DATA: u32 = 2;
const UPSTREAM_DATA: u32 = 3;
const PLUGIN_CONFIGURATION: u32 = 7;

/// Shared by the VMs of a process: values and the numbers of their last writes.
#[derive(Default)]
pub(crate) struct Shared {
    values: BTreeMap<String, (Vec<u8>, u32)>,
    writes: u32,
    random: u64,
    /// What the steady clock shows.
    pub(super) now_ms: u64,
}

impl Shared {
    pub(super) fn of_chance(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

    fn draw(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random
    }
}

/// What the host holds; by context id where it belongs to a connection.
#[derive(Default)]
pub(super) struct Host {
    pub(super) configuration: Vec<u8>,
    /// Where new connections come from.
    pub(super) source: Option<String>,
    /// Root contexts, by what their plugin is called to be run by.
    pub(super) roots: BTreeMap<u32, &'static str>,
    pub(super) connections: BTreeMap<u32, Connection>,
    pub(super) current: u32,
    pub(super) effective: Option<u32>,
    /// Metric names by id, and their values.
    pub(super) metrics: Vec<(String, i64)>,
    /// By root context, also of those that are gone: like Envoy, which goes on with them.
    pub(super) timers: BTreeMap<u32, Timer>,
    /// Milliseconds that have passed for this VM.
    pub(super) elapsed_ms: u64,
    pub(super) log: Vec<String>,
    pub(super) calls: usize,
    /// So many of the next calls are refused, whatever they are for: those of them that can be.
    pub(super) refusals: u32,
    pub(super) shared: Arc<Mutex<Shared>>,
}

/// The timer of a root context.
#[derive(Clone, Copy)]
pub(super) struct Timer {
    pub(super) period_ms: u32,
    pub(super) due_ms: u64,
}

#[derive(Default)]
pub(super) struct Connection {
    pub(super) root: u32,
    /// The SPIFFE id that the client has proven.
    pub(super) peer: Option<String>,
    pub(super) held: Vec<u8>,
    /// From the server, on its way to the client.
    pub(super) replied: Vec<u8>,
    pub(super) source: Option<String>,
    pub(super) to_close: bool,
    /// Stays open for a while although it is to be closed, like one whose client is slow to read.
    pub(super) lingers: bool,
    pub(super) gone: bool,
    pub(super) outcome: Outcome,
}

impl Host {
    fn context(&self) -> u32 {
        self.effective.unwrap_or(self.current)
    }

    fn connection(&mut self) -> Option<&mut Connection> {
        self.connections.get_mut(&self.context())
    }

    pub(super) fn set_timer(&mut self, root: u32, period_ms: u32) {
        if period_ms == 0 {
            self.timers.remove(&root);
        } else {
            let due_ms = self.elapsed_ms + u64::from(period_ms);
            self.timers.insert(root, Timer { period_ms, due_ms });
        }
    }
}

/// Counts a call; whether it is refused.
fn is_refused(caller: &mut Called<'_>) -> bool {
    let host = caller.data_mut();
    host.calls += 1;
    let is_refused = host.refusals > 0;
    host.refusals = host.refusals.saturating_sub(1);
    is_refused
}

/// Defines the calls.
pub(super) fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let env = "env";
    linker.func_wrap(env, "proxy_log", |mut caller: Called<'_>, _level: u32, at: u32, size: u32| {
        let message = text(&mut caller, at, size);
        caller.data_mut().log.push(message);
        OK
    })?;
    linker.func_wrap(env, "proxy_get_current_time_nanoseconds", |mut caller: Called<'_>, to: u32| {
        write(&mut caller, to, &1_700_000_000_000_000_000_u64.to_le_bytes());
        OK
    })?;
    linker.func_wrap(env, "proxy_set_tick_period_milliseconds", |mut caller: Called<'_>, period: u32| {
        let host = caller.data_mut();
        let context = host.context();
        let of = host.connections.get(&context).filter(|_| !host.roots.contains_key(&context));
        let root = of.map_or(context, |connection| connection.root);
        host.set_timer(root, period);
        OK
    })?;
    linker.func_wrap(env, "proxy_get_buffer_bytes", get_buffer)?;
    linker.func_wrap(env, "proxy_set_buffer_bytes", set_buffer)?;
    linker.func_wrap(env, "proxy_get_shared_data", get_shared_data)?;
    linker.func_wrap(env, "proxy_set_shared_data", set_shared_data)?;
    let wasi = "wasi_snapshot_preview1";
    linker.func_wrap(wasi, "random_get", random_get)?;
    linker.func_wrap(
        wasi,
        "clock_time_get",
        |mut caller: Called<'_>, clock: u32, _precision: u64, to: u32| {
            caller.data_mut().calls += 1;
            assert_eq!(clock, 1, "the monotonic one");
            let now = caller.data().shared.lock().unwrap().now_ms * 1_000_000;
            write(&mut caller, to, &now.to_le_bytes());
            0
        },
    )?;
    linker.func_wrap(env, "proxy_get_property", get_property)?;
    linker.func_wrap(env, "proxy_set_property", set_property)?;
    linker.func_wrap(env, "proxy_call_foreign_function", foreign)?;
    linker.func_wrap(env, "proxy_set_effective_context", |mut caller: Called<'_>, id: u32| {
        let host = caller.data_mut();
        let is_open = host.connections.get(&id).is_some_and(|connection| !connection.gone);
        let known = is_open || host.roots.contains_key(&id);
        host.effective = known.then_some(id);
        if known { OK } else { BAD_ARGUMENT }
    })?;
    linker.func_wrap(env, "proxy_close_stream", |mut caller: Called<'_>, _stream: u32| {
        if is_refused(&mut caller) {
            return INTERNAL_FAILURE;
        }
        if let Some(connection) = caller.data_mut().connection() {
            connection.to_close = true;
        }
        OK
    })?;
    linker.func_wrap(
        env,
        "proxy_define_metric",
        |mut caller: Called<'_>, _kind: u32, at: u32, size: u32, to: u32| {
            let name = text(&mut caller, at, size);
            let id = u32::try_from(caller.data().metrics.len()).unwrap();
            caller.data_mut().metrics.push((name, 0));
            write(&mut caller, to, &id.to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap(env, "proxy_increment_metric", |mut caller: Called<'_>, id: u32, by: i64| {
        caller.data_mut().calls += 1;
        caller.data_mut().metrics[usize::try_from(id).unwrap()].1 += by;
        OK
    })?;
    Ok(())
}

/// The two extremes that Envoy knows: data in front, instead of so many bytes, or data behind the end.
fn set_buffer(mut caller: Called<'_>, kind: u32, start: u32, size: u32, at: u32, len: u32) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    let bytes = read(&mut caller, at, len);
    let Some(connection) = caller.data_mut().connection() else { return NOT_FOUND };
    let buffer = match kind {
        DOWNSTREAM_DATA => &mut connection.held,
        UPSTREAM_DATA => &mut connection.replied,
        _ => return NOT_FOUND,
    };
    let (start, size) = (usize::try_from(start).unwrap(), usize::try_from(size).unwrap());
    if start == 0 {
        buffer.splice(..size, bytes);
    } else if start >= buffer.len() {
        buffer.extend(bytes);
    } else {
        return BAD_ARGUMENT;
    }
    OK
}

fn get_shared_data(mut caller: Called<'_>, at: u32, size: u32, to: u32, to_size: u32, to_cas: u32) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    let key = text(&mut caller, at, size);
    let found = caller.data().shared.lock().unwrap().values.get(&key).cloned();
    let Some((value, cas)) = found else { return NOT_FOUND };
    give(&mut caller, &value, to, to_size);
    write(&mut caller, to_cas, &cas.to_le_bytes());
    OK
}

fn set_shared_data(mut caller: Called<'_>, at: u32, size: u32, value: u32, value_size: u32, cas: u32) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    let key = text(&mut caller, at, size);
    let value = read(&mut caller, value, value_size);
    let mut shared = caller.data().shared.lock().unwrap();
    if shared.values.get(&key).is_some_and(|(_, last)| cas != 0 && cas != *last) {
        return CAS_MISMATCH;
    }
    shared.writes += 1;
    let writes = shared.writes;
    shared.values.insert(key, (value, writes));
    OK
}

/// Not random, but never the same.
fn random_get(mut caller: Called<'_>, to: u32, len: u32) -> u32 {
    for i in 0..len {
        let [byte, ..] = caller.data().shared.lock().unwrap().draw().to_be_bytes();
        write(&mut caller, to + i, &[byte]);
    }
    OK
}

fn get_buffer(mut caller: Called<'_>, kind: u32, start: u32, size: u32, to: u32, to_size: u32) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    let bytes = match kind {
        DOWNSTREAM_DATA => caller.data_mut().connection().map(|connection| connection.held.clone()),
        UPSTREAM_DATA => caller.data_mut().connection().map(|connection| connection.replied.clone()),
        PLUGIN_CONFIGURATION => Some(caller.data().configuration.clone()),
        _ => None,
    };
    let Some(bytes) = bytes else { return NOT_FOUND };
    let start = usize::try_from(start).unwrap().min(bytes.len());
    let end = start.saturating_add(usize::try_from(size).unwrap()).min(bytes.len());
    give(&mut caller, &bytes[start..end], to, to_size);
    OK
}

fn get_property(mut caller: Called<'_>, at: u32, size: u32, to: u32, to_size: u32) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    let path = text(&mut caller, at, size);
    let host = caller.data_mut();
    let root_id = host.roots.get(&host.current).copied();
    let connection = host.connection();
    let value = match &*path {
        "node\0id" => Some("edge-1".to_owned()),
        "plugin_root_id" => root_id.map(str::to_owned),
        "source\0address" => connection.and_then(|connection| connection.source.clone()),
        // Empty where no certificate was shown.
        "connection\0uri_san_peer_certificate" => {
            connection.map(|connection| connection.peer.clone().unwrap_or_default())
        }
        _ => None,
    };
    let Some(value) = value else { return NOT_FOUND };
    give(&mut caller, value.as_bytes(), to, to_size);
    OK
}

fn set_property(mut caller: Called<'_>, path: u32, size: u32, value: u32, value_size: u32) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    let (path, value) = (text(&mut caller, path, size), text(&mut caller, value, value_size));
    if let Some(connection) = caller.data_mut().connection()
        && path == realmgate_filter::access_log::PROPERTY
    {
        connection.outcome.closed = closed_by_filter(&value);
    }
    OK
}

fn foreign(
    mut caller: Called<'_>,
    name: u32,
    name_size: u32,
    arguments: u32,
    size: u32,
    _to: u32,
    _to_size: u32,
) -> u32 {
    if is_refused(&mut caller) {
        return INTERNAL_FAILURE;
    }
    if text(&mut caller, name, name_size) != "set_envoy_filter_state" {
        return NOT_FOUND;
    }
    let arguments = read(&mut caller, arguments, size);
    let Some((path, value)) = filter_state(&arguments) else { return BAD_ARGUMENT };
    let Some(connection) = caller.data_mut().connection() else { return BAD_ARGUMENT };
    match path.as_str() {
        "envoy.tcp_proxy.cluster" => connection.outcome.cluster = Some(value),
        "envoy.hashable_string" => connection.outcome.hash_key = Some(value),
        _ => return NOT_FOUND,
    }
    OK
}

/// Path and value of a `SetEnvoyFilterStateArguments`: two strings, as fields 1 and 2.
fn filter_state(mut message: &[u8]) -> Option<(String, String)> {
    let mut fields = [const { String::new() }; 2];
    while let Some((&tag, rest)) = message.split_first() {
        let (mut length, mut shift, mut rest) = (0_usize, 0, rest);
        loop {
            let (&byte, further) = rest.split_first()?;
            length |= usize::from(byte & 0x7f) << shift;
            (shift, rest) = (shift + 7, further);
            if byte < 0x80 {
                break;
            }
        }
        let (value, further) = rest.split_at_checked(length)?;
        let field = fields.get_mut(usize::from(tag >> 3).checked_sub(1)?)?;
        *field = String::from_utf8(value.to_vec()).ok()?;
        message = further;
    }
    let [path, value] = fields;
    Some((path, value))
}

fn memory(caller: &mut Called<'_>) -> Memory {
    caller.get_export("memory").and_then(Extern::into_memory).unwrap()
}

fn read(caller: &mut Called<'_>, at: u32, size: u32) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    memory(caller).read(&caller, usize::try_from(at).unwrap(), &mut bytes).unwrap();
    bytes
}

fn text(caller: &mut Called<'_>, at: u32, size: u32) -> String {
    String::from_utf8(read(caller, at, size)).unwrap()
}

fn write(caller: &mut Called<'_>, at: u32, bytes: &[u8]) {
    memory(caller).write(caller, usize::try_from(at).unwrap(), bytes).unwrap();
}

/// Hands bytes over in memory that the module allocates.
fn give(caller: &mut Called<'_>, bytes: &[u8], to: u32, to_size: u32) {
    let size = u32::try_from(bytes.len()).unwrap();
    if size == 0 {
        // Envoy asks for no memory then.
        write(caller, to, &0_u32.to_le_bytes());
        write(caller, to_size, &0_u32.to_le_bytes());
        return;
    }
    let malloc = caller.get_export("malloc").and_then(Extern::into_func).unwrap();
    let at = malloc.typed::<u32, u32>(&caller).unwrap().call(&mut *caller, size).unwrap();
    write(caller, at, bytes);
    write(caller, to, &at.to_le_bytes());
    write(caller, to_size, &size.to_le_bytes());
}
