//! The connections that a process holds, as the kernel counts them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use crate::Failure;

/// Established connections of a process to a server with an IPv4 address.
pub fn connections(pid: u32, server: SocketAddr) -> Result<usize, Failure> {
    let IpAddr::V4(ip) = server.ip() else {
        return Err(Failure::new(format!("{server} is not of IPv4")));
    };
    let folder = format!("/proc/{pid}/fd");
    let sockets: BTreeSet<String> = fs::read_dir(&folder)
        .map_err(Failure::because(&folder))?
        // A file may be closed between the two looks.
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(ip.octets()), server.port());
    let file = format!("/proc/{pid}/net/tcp");
    let table = fs::read_to_string(&file).map_err(Failure::because(&file))?;
    let held = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        let (to, state, inode) = (fields.next(), fields.next(), fields.nth(5));
        to == Some(remote.as_str())
            && state == Some("01")
            && inode.is_some_and(|inode| sockets.contains(inode))
    };
    Ok(table.lines().filter(held).count())
}
