//! What a VM has for itself: chance, and session ids that no other VM has.

use std::cell::RefCell;
use std::time::UNIX_EPOCH;

use proxy_wasm::hostcalls;
use realmgate_wire::SessionIds;

use super::shared;
use crate::host::HostError;
use crate::route::sticky_point;

thread_local! {
    /// All root contexts of the VM draw from it: each new configuration is a root context, and a block for each
    /// would waste them.
    static IDS: RefCell<SessionIds> = RefCell::new(SessionIds::default());
}

/// Where the VMs of a process meet: 8 bytes of base and 8 bytes of how many blocks are taken. Shared data belongs to a
/// VM id, which all modules have in common: a new one goes on where the old one is.
const BLOCKS: &str = "realmgate.session_blocks";

/// Each failed attempt is another VM's success, so this many VMs would have to come first.
const ATTEMPTS: u32 = 10_000;

/// The next session id.
pub(super) fn session_id() -> Result<i64, HostError> {
    IDS.with_borrow_mut(|ids| {
        if let Some(id) = ids.draw() {
            return Ok(id);
        }
        *ids = next_block()?;
        ids.draw().ok_or_else(|| refused("an empty block"))
    })
}

/// Takes a block that no VM of the process has had.
fn next_block() -> Result<SessionIds, HostError> {
    let mut value = Vec::new();
    for _ in 0..ATTEMPTS {
        let version = shared::load(BLOCKS, &mut value)?;
        let (base, taken) = match (read(&value), version) {
            (Some(blocks), Some(_)) => blocks,
            (None, None) => (base(), 0),
            _ => return Err(refused("a value of another shape")),
        };
        let next = [base.to_le_bytes(), taken.wrapping_add(1).to_le_bytes()].concat();
        if shared::store(BLOCKS, &next, version)? {
            return Ok(SessionIds::of_block(base, taken));
        }
    }
    Err(refused("no end of other writers"))
}

fn read(value: &[u8]) -> Option<(u64, u64)> {
    let (base, taken) = value.split_first_chunk()?;
    Some((u64::from_le_bytes(*base), u64::from_le_bytes(taken.try_into().ok()?)))
}

fn refused(reason: impl std::fmt::Debug) -> HostError {
    HostError { call: "a block of session ids", reason: format!("{reason:?}") }
}

/// The process' base: chance, and the name of the pod in case that chance should be poor.
fn base() -> u64 {
    let node = hostcalls::get_property(vec!["node", "id"]).ok().flatten().unwrap_or_default();
    entropy() ^ sticky_point(&String::from_utf8_lossy(&node))
}

#[allow(unsafe_code)] // calling an import is unsafe by nature
mod wasi {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn random_get(at: *mut u8, len: usize) -> u32;
        fn clock_time_get(clock: u32, precision: u64, at: *mut u64) -> u32;
    }

    /// WASI's number of the clock that only goes on.
    const MONOTONIC: u32 = 1;

    /// Envoy's steady clock, which all its threads share.
    pub(super) fn now() -> Option<u64> {
        let mut time = 0;
        // SAFETY: it writes a u64 where it is told to and nothing else.
        let error = unsafe { clock_time_get(MONOTONIC, 1, &raw mut time) };
        (error == 0).then_some(time)
    }

    /// 8 bytes from the cryptographic generator of Envoy, which serves this one call of WASI to every module.
    pub(super) fn random() -> Option<[u8; 8]> {
        let mut bytes = [0; 8];
        // SAFETY: it writes to the memory that it is given and to nothing else.
        let error = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
        (error == 0).then_some(bytes)
    }
}

/// As [`crate::host::Host::now`].
pub(super) fn now() -> Result<u64, HostError> {
    wasi::now().ok_or_else(|| HostError { call: "the clock", reason: "none".to_owned() })
}

/// A number to start from, different in every VM, worker and process.
pub(super) fn entropy() -> u64 {
    let now = hostcalls::get_current_time().ok().and_then(|now| now.duration_since(UNIX_EPOCH).ok());
    let now = now.map_or(0, |now| u64::from(now.subsec_nanos()) << 32 | now.as_secs() & 0xffff_ffff);
    now ^ u64::from_le_bytes(wasi::random().unwrap_or_default())
}
