//! What is saved by letting changes that storm go out together.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::ms;
use super::Rows;
use super::realmgate::{BY_POLICY, Realmgate};
use super::server::{Server, Way, cpu_seconds, quiet};
use crate::stage::port;
use crate::{Envoy, Failure, wait_until};

const CLUSTERS: u32 = 100;
const CHANGES: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(rows: &mut Rows) -> Result<(), Failure> {
    for debounce in ["0s", "10ms", "100ms"] {
        let mut server = Realmgate::with_settings(CLUSTERS, 1, &json!({"xds": {"debounce": debounce}}))?;
        let admin = server.net.at(port::ADMIN);
        let bootstrap = server.control_plane.edge_bootstrap("edge-1", admin)?;
        let mut envoy = Envoy::with(server.net.dir(), bootstrap, admin).name("edge").start()?;
        let updates = format!("cluster.{BY_POLICY}.update_success");
        wait_until("the Envoy has its clusters", PATIENCE, || envoy.stat(&updates) > 0);
        quiet(server.pid())?;
        let before = (envoy.stat(&updates), cpu_seconds(server.pid())?, cpu_seconds(envoy.process().pid())?);
        let start = Instant::now();
        for _ in 0..CHANGES {
            server.change(Way::Api)?.finish()?;
        }
        let took = start.elapsed();
        quiet(server.pid())?;
        let pushes = envoy.stat(&updates) - before.0;
        let of_server = 1000.0 * (cpu_seconds(server.pid())? - before.1);
        let of_envoy = 1000.0 * (cpu_seconds(envoy.process().pid())? - before.2);
        let value = format!(
            "{pushes} pushes; processor ms: {of_server:.0} here, {of_envoy:.0} in the Envoy; requests took {:.0} ms",
            ms(took)
        );
        println!("debounce {debounce}: {CHANGES} changes of a policy in a row: {value}");
        rows.add(format!("{CHANGES} policies in a row, `xds.debounce: {debounce}`, a real Envoy"), value);
    }
    Ok(())
}
