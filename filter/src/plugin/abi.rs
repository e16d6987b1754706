//! The proxy-wasm ABI 0.2.1, as far as the filter needs it: what Envoy calls and what it can be called for. All the unsafe
//! code of the filter.
//!
//! It takes the place of an SDK whose dispatcher panics, and with that ends the VM with every session of the worker, when
//! Envoy calls for a context that it has deleted. What is behind the functions here takes any call in any order.
#![allow(unsafe_code, reason = "exports and imports are unsafe by nature, and what they point to is here")]

use std::alloc::{Layout, alloc};

use super::contexts;

/// Why Envoy refused a call, as the ABI numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Status(u32);

impl Status {
    pub(super) const NOT_FOUND: Self = Self(1);
    pub(super) const CAS_MISMATCH: Self = Self(8);

    const fn check(self) -> Result<(), Self> {
        if self.0 == 0 { Ok(()) } else { Err(self) }
    }
}

/// Levels of Envoy's log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    Warn = 3,
    Error = 4,
    Critical = 5,
}

/// Where data lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Buffer {
    DownstreamData = 2,
    UpstreamData = 3,
    PluginConfiguration = 7,
}

/// Whether a metric goes up and down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter = 0,
    Gauge = 1,
}

/// What becomes of the data that an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Action {
    Continue = 0,
    Pause = 1,
}

/// What Envoy calls. A function that is not here it does not miss.
mod exports {
    use super::{Action, Layout, alloc, contexts};

    #[unsafe(no_mangle)]
    extern "C" fn proxy_abi_version_0_2_1() {}

    #[unsafe(no_mangle)]
    extern "C" fn _initialize() {
        contexts::on_start();
    }

    /// Memory for what Envoy hands over, which [`super::take`] frees. Null where there is none: Envoy then refuses the call
    /// that it was for. Envoy calls it in the middle of calls of ours, so it touches nothing else.
    #[unsafe(no_mangle)]
    extern "C" fn malloc(size: usize) -> *mut u8 {
        match Layout::array::<u8>(size) {
            // SAFETY: the layout is not of size 0.
            Ok(layout) if size > 0 => unsafe { alloc(layout) },
            _ => std::ptr::null_mut(),
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_context_create(context: u32, root: u32) {
        contexts::on_create(context, root);
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
        contexts::on_configure(root, size).into()
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_tick(root: u32) {
        contexts::on_tick(root);
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_new_connection(context: u32) -> Action {
        contexts::on_new_connection(context)
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_downstream_data(context: u32, size: usize, end_of_stream: u32) -> Action {
        contexts::on_downstream_data(context, size, end_of_stream != 0)
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_upstream_data(context: u32, size: usize, _end_of_stream: u32) -> Action {
        contexts::on_upstream_data(context, size)
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_downstream_connection_close(context: u32, by: u32) {
        const LOCAL: u32 = 1;
        contexts::on_downstream_close(context, by != LOCAL);
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_upstream_connection_close(context: u32, _by: u32) {
        contexts::on_upstream_close(context);
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_delete(context: u32) {
        contexts::on_delete(context);
    }
}

/// What Envoy can be called for.
mod imports {
    use super::Status;

    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) safe fn proxy_set_tick_period_milliseconds(period: u32) -> Status;
        pub(super) safe fn proxy_set_effective_context(context: u32) -> Status;
        pub(super) safe fn proxy_close_stream(stream: u32) -> Status;
        pub(super) safe fn proxy_increment_metric(id: u32, by: i64) -> Status;
        pub(super) fn proxy_log(level: u32, text: *const u8, len: usize) -> Status;
        pub(super) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> Status;
        pub(super) fn proxy_define_metric(kind: u32, name: *const u8, len: usize, id: *mut u32) -> Status;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            len: usize,
            at: *mut *mut u8,
            size: *mut usize,
        ) -> Status;
        pub(super) fn proxy_set_buffer_bytes(
            buffer: u32,
            start: usize,
            len: usize,
            bytes: *const u8,
            size: usize,
        ) -> Status;
        pub(super) fn proxy_get_property(
            path: *const u8,
            len: usize,
            at: *mut *mut u8,
            size: *mut usize,
        ) -> Status;
        pub(super) fn proxy_set_property(
            path: *const u8,
            len: usize,
            value: *const u8,
            size: usize,
        ) -> Status;
        pub(super) fn proxy_get_shared_data(
            key: *const u8,
            len: usize,
            at: *mut *mut u8,
            size: *mut usize,
            version: *mut u32,
        ) -> Status;
        pub(super) fn proxy_set_shared_data(
            key: *const u8,
            len: usize,
            value: *const u8,
            size: usize,
            version: u32,
        ) -> Status;
        pub(super) fn proxy_call_foreign_function(
            name: *const u8,
            len: usize,
            arguments: *const u8,
            size: usize,
            results: *mut *mut u8,
            results_size: *mut usize,
        ) -> Status;
    }

    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub(super) fn random_get(at: *mut u8, len: usize) -> u32;
        pub(super) fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
    }
}

/// Bytes that Envoy handed over by a call that gave where they are. An empty value has no memory.
fn take(call: impl FnOnce(*mut *mut u8, *mut usize) -> Status) -> Result<Vec<u8>, Status> {
    let (mut at, mut size) = (std::ptr::null_mut(), 0);
    call(&raw mut at, &raw mut size).check()?;
    if at.is_null() || size == 0 {
        return Ok(Vec::new());
    }
    let bytes = std::ptr::slice_from_raw_parts_mut(at, size);
    // SAFETY: Envoy had it allocated by `malloc` with this size, filled it, and forgets it.
    Ok(unsafe { Box::from_raw(bytes) }.into_vec())
}

// Each call below hands over the bounds of slices that outlive it, or places of the type that the ABI says it writes.

/// Writes to Envoy's log.
pub(super) fn log(level: Level, text: &str) {
    // SAFETY: see above.
    let _ = unsafe { imports::proxy_log(level as u32, text.as_ptr(), text.len()) };
}

/// Nanoseconds since 1970.
pub(super) fn unix_time() -> Result<u64, Status> {
    let mut time = 0;
    // SAFETY: see above.
    unsafe { imports::proxy_get_current_time_nanoseconds(&raw mut time) }.check()?;
    Ok(time)
}

/// Nanoseconds of Envoy's steady clock, which all its threads share.
pub(super) fn steady_time() -> Option<u64> {
    /// WASI's number of the clock that only goes on.
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: see above.
    let error = unsafe { imports::clock_time_get(MONOTONIC, 1, &raw mut time) };
    (error == 0).then_some(time)
}

/// 8 bytes from the cryptographic generator of Envoy, which serves this one call of WASI to every module.
pub(super) fn random() -> Option<[u8; 8]> {
    let mut bytes = [0; 8];
    // SAFETY: see above.
    let error = unsafe { imports::random_get(bytes.as_mut_ptr(), bytes.len()) };
    (error == 0).then_some(bytes)
}

/// Sets the timer of the root context under which the call is made; 0 = none.
pub(super) fn set_tick_period(ms: u32) -> Result<(), Status> {
    imports::proxy_set_tick_period_milliseconds(ms).check()
}

/// Makes the calls that follow, until the event is over, act on another context.
pub(super) fn select(context: u32) -> Result<(), Status> {
    imports::proxy_set_effective_context(context).check()
}

/// Closes the connection once the event is over. Behind a network filter Envoy knows one connection only: this closes both
/// directions.
pub(super) fn close() -> Result<(), Status> {
    const DOWNSTREAM: u32 = 2;
    imports::proxy_close_stream(DOWNSTREAM).check()
}

/// Defines a metric, or finds it by its name; gives its id.
pub(super) fn define_metric(kind: Kind, name: &str) -> Result<u32, Status> {
    let mut id = 0;
    // SAFETY: see above.
    unsafe { imports::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) }.check()?;
    Ok(id)
}

/// Adds to a metric.
pub(super) fn increment_metric(id: u32, by: i64) {
    let _ = imports::proxy_increment_metric(id, by);
}

/// At most `len` bytes of a buffer from `start` on.
pub(super) fn buffer(buffer: Buffer, start: usize, len: usize) -> Result<Vec<u8>, Status> {
    // SAFETY: see above.
    take(|at, size| unsafe { imports::proxy_get_buffer_bytes(buffer as u32, start, len, at, size) })
}

/// Replaces `len` bytes of a buffer from `start` on.
pub(super) fn set_buffer(buffer: Buffer, start: usize, len: usize, by: &[u8]) -> Result<(), Status> {
    // SAFETY: see above.
    unsafe { imports::proxy_set_buffer_bytes(buffer as u32, start, len, by.as_ptr(), by.len()) }.check()
}

/// A property by its path, whose parts are set apart by zero bytes.
pub(super) fn property(path: &str) -> Result<Vec<u8>, Status> {
    // SAFETY: see above.
    take(|at, size| unsafe { imports::proxy_get_property(path.as_ptr(), path.len(), at, size) })
}

/// Sets a property of the connection.
pub(super) fn set_property(path: &str, value: &[u8]) -> Result<(), Status> {
    // SAFETY: see above.
    unsafe { imports::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) }.check()
}

/// A value that VMs share, and the number of its last write.
pub(super) fn shared_data(key: &str) -> Result<(Vec<u8>, u32), Status> {
    let mut version = 0;
    // SAFETY: see above.
    let value = take(|at, size| unsafe {
        imports::proxy_get_shared_data(key.as_ptr(), key.len(), at, size, &raw mut version)
    })?;
    Ok((value, version))
}

/// Writes a value that VMs share, if its last write was this one.
pub(super) fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<(), Status> {
    // SAFETY: see above.
    unsafe { imports::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) }
        .check()
}

/// Calls a function of Envoy's own that has no result.
pub(super) fn call(name: &str, arguments: &[u8]) -> Result<(), Status> {
    let none = std::ptr::null_mut();
    // SAFETY: see above; without a place for results Envoy gives none.
    unsafe {
        imports::proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            arguments.as_ptr(),
            arguments.len(),
            none,
            std::ptr::null_mut(),
        )
    }
    .check()
}
