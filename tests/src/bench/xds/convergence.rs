//! From a rule in Redis to a real Envoy that has it.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::ms;
use super::super::report::Samples;
use super::realmgate::{BY_RULE, Realmgate};
use super::server::{Server, Way};
use super::{Rows, relay};
use crate::stage::port;
use crate::{Envoy, Failure};

const CHANGES: u32 = 200;
const RELAY: u16 = 18_001;
const PATIENCE: Duration = Duration::from_secs(10);
/// A change that follows another closely waits for its turn; here each is alone.
const PAUSE: Duration = Duration::from_millis(30);

pub(super) async fn run(clusters: u32, rows: &mut Rows) -> Result<(), Failure> {
    let mut server = Realmgate::start(clusters, 1)?;
    let (at, admin) = (server.net.at(RELAY), server.net.at(port::ADMIN));
    let mut acknowledged = relay::start(at, server.xds()).await?;
    let bootstrap = server.control_plane.edge_bootstrap("edge-1", admin)?;
    let relayed = bootstrap.replace(&format!("port_value: {}", port::XDS), &format!("port_value: {RELAY}"));
    if relayed == bootstrap {
        return Err(Failure::new("the bootstrap does not name the port of the control plane"));
    }
    let envoy = Envoy::with(server.net.dir(), relayed, admin).name("edge").start()?;
    let mut times = Samples::default();
    // The first is not counted.
    for run in 0..=CHANGES {
        sleep(PAUSE).await;
        while acknowledged.try_recv().is_ok() {}
        let change = server.change(Way::Redis)?;
        let seen = timeout(PATIENCE, acknowledged.recv()).await;
        let seen =
            seen.ok().flatten().ok_or_else(|| Failure::new("the Envoy does not acknowledge a change"))?;
        if run > 0 {
            times.push(ms(seen.saturating_sub(change.sent)));
        }
    }
    let updates = envoy.stat(&format!("cluster.{BY_RULE}.update_success"));
    if updates < u64::from(CHANGES) {
        return Err(Failure::new(format!("the Envoy took only {updates} of {CHANGES} changes")));
    }
    let (half, most) = (times.quantile(0.5), times.quantile(0.99));
    println!(
        "{clusters} clusters: rule in Redis until Envoy has acknowledged: p50 {half:.2} ms, p99 {most:.2} ms"
    );
    rows.add(
        format!("rule in Redis until a real Envoy has acknowledged, clusters: {clusters}, p50 ms"),
        format!("{half:.2}"),
    );
    rows.add(format!("- p99 ms (clusters: {clusters})"), format!("{most:.2}"));
    Ok(())
}
