//! What a process takes: processor time and memory, as the kernel counts them.

use std::fs;

use crate::Failure;

/// Nanoseconds that all live threads of a process have run. A thread that ended takes its share along, so this is for
/// processes with threads that stay, as proxies are.
pub fn processor_ns(pid: u32) -> Result<u64, Failure> {
    let tasks = format!("/proc/{pid}/task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).map_err(Failure::because(tasks.clone()))?.flatten() {
        // A thread may end between the two looks.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> Result<u64, Failure> {
    kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The number behind `key` in a file of `/proc` that counts in KiB.
pub fn kib(file: &str, key: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(file).map_err(Failure::because(file))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.ok_or_else(|| Failure::new(format!("no {key} in {file}")))
}
