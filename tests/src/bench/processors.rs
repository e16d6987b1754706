//! Which processors a process may use: the proxy has one for itself, all others share the next.

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Failure;

/// The proxies'.
pub(super) const PROXY: &[usize] = &[0];
/// Clients', game servers' and control planes'.
pub(super) const LOAD: &[usize] = &[1];

/// Keeps all threads of a process, and those that they start, to these processors.
pub(super) fn keep(pid: u32, processors: &[usize]) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).map_err(Failure::because(tasks.clone()))?.flatten() {
        let id = task.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        // A thread that has ended needs no place.
        let _ = id.map(|id| sched_setaffinity(Some(id), &set));
    }
    Ok(())
}

/// Lets this process use all of them again.
pub(super) fn free() -> Result<(), Failure> {
    let all: Vec<_> = (0..CpuSet::MAX_CPU.min(1024)).collect();
    keep(std::process::id(), &all)
}
