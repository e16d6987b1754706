//! What a VM has for itself: chance, and session ids that no other VM has.

use std::cell::RefCell;

use realmgate_wire::SessionIds;

use super::{abi, shared};
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
    let node = abi::property("node\0id").unwrap_or_default();
    entropy() ^ sticky_point(&String::from_utf8_lossy(&node))
}

/// As [`crate::host::Host::now`].
pub(super) fn now() -> Result<u64, HostError> {
    abi::steady_time().ok_or_else(|| HostError { call: "the clock", reason: "none".to_owned() })
}

/// A number to start from, different in every VM, worker and process.
pub(super) fn entropy() -> u64 {
    // The bits that change soonest come to be the highest.
    abi::unix_time().unwrap_or_default().reverse_bits()
        ^ u64::from_le_bytes(abi::random().unwrap_or_default())
}
