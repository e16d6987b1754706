//! HAProxy in TCP mode: reads the first 8 bytes and looks the world up in a map, as far as it can do what the edge does.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use realmgate_wire::ServerId;

use crate::process::Process;
use crate::{Failure, TestNet, parts};

/// Starts one that listens on `bind` and shares the worlds out to `servers`, 1,024 to each in turn.
pub(super) fn start(net: &TestNet, bind: SocketAddr, servers: &[SocketAddr]) -> Result<Process, Failure> {
    let (map, config) = (net.dir().join("worlds.map"), net.dir().join("haproxy.cfg"));
    let mut worlds = String::new();
    for world in 1..=ServerId::MAX_WORLD {
        let server = usize::from(world) / 1024 % servers.len();
        // As the two bytes stand on the wire, without the compressed bit.
        let [low, high] = world.to_le_bytes();
        let _ = writeln!(worlds, "{low:02X}{high:02X} game-{server}");
    }
    fs::write(&map, worlds).map_err(Failure::because("the map of worlds"))?;
    let mut text = format!(
        "global
  nbthread 1
  maxconn 9000
defaults
  mode tcp
  timeout connect 5s
  timeout client 30m
  timeout server 30m
frontend players
  bind {bind}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.len ge 8 }}
  use_backend %[req.payload(6,2),hex,map({map},none)] if {{ req.payload(5,1) -m bin c8 }}
",
        map = map.display(),
    );
    for (number, server) in servers.iter().enumerate() {
        let _ = write!(text, "backend game-{number}\n  server s {server}\n");
    }
    fs::write(&config, text).map_err(Failure::because("HAProxy's configuration"))?;
    let mut command = Command::new(parts::HAPROXY.find()?);
    command.arg("-db").arg("-f").arg(&config);
    let mut process = Process::start("haproxy", &mut command, net.dir())?;
    let listens = || std::net::TcpStream::connect(bind).is_ok();
    process.wait_ready("HAProxy listens", Duration::from_secs(10), listens)?;
    Ok(process)
}
