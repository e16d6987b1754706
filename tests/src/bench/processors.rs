//! Which processors a process may use: the proxy has one for itself, all others share the next.

use std::fs;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Failure;

/// The proxies'.
pub(super) const PROXY: &[usize] = &[0];
/// Clients', game servers' and control planes'.
pub(super) const LOAD: &[usize] = &[1];

/// Whether each side can have one of its own.
pub(super) fn enough() -> bool {
    // Asked once: a process that is kept to one of them would be told that there is one.
    static ENOUGH: OnceLock<bool> = OnceLock::new();
    *ENOUGH.get_or_init(|| available_parallelism().is_ok_and(|count| count.get() > 1))
}

/// Keeps all threads of a process, and those that they start, to these processors, where there are enough.
pub(super) fn keep(pid: u32, processors: &[usize]) -> Result<(), Failure> {
    if !enough() {
        return Ok(());
    }
    let set = set_of(processors);
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).map_err(Failure::because(tasks.clone()))?.flatten() {
        let id = task.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        // A thread that has ended needs no place.
        let _ = id.map(|id| sched_setaffinity(Some(id), &set));
    }
    Ok(())
}

fn set_of(processors: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    set
}

/// Keeps the thread that calls to these processors.
pub(super) fn keep_thread(processors: &[usize]) {
    let set = set_of(processors);
    // Where it cannot be, it stays with its process.
    let _ = sched_setaffinity(None, &set);
}

/// Microseconds that each processor has worked since the machine started, in steps of 10 ms.
pub(super) fn busy_us() -> Result<Vec<f64>, Failure> {
    /// The kernel's unit, the same on every Linux for x86 and Arm.
    const TICK_US: f64 = 10_000.0;
    let text = fs::read_to_string("/proc/stat").map_err(Failure::because("/proc/stat"))?;
    // `cpu0 user nice system idle iowait irq softirq ...`
    let line = |line: &str| {
        let one = line.strip_prefix("cpu").filter(|rest| !rest.starts_with(' '))?;
        let ticks: Vec<f64> = one.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        let [user, nice, system, _, _, irq, softirq, ..] = *ticks else { return None };
        Some((user + nice + system + irq + softirq) * TICK_US)
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Lets this process use all of them again.
pub(super) fn free() -> Result<(), Failure> {
    let all: Vec<_> = (0..CpuSet::MAX_CPU.min(1024)).collect();
    keep(std::process::id(), &all)
}
