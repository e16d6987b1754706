//! What is saved by letting changes that storm go out together.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::realmgate::{BY_RULE, Realmgate};
use super::server::{Server, Way, cpu_seconds, quiet};
use super::{CLUSTERS, Rows};
use crate::fleet::Kind;
use crate::{Failure, Fleet};

const PROXIES: u32 = 1000;
/// The storm: so many changes of one endpoint, one each so often.
const CHANGES: u32 = 200;
const PACE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn run(rows: &mut Rows) -> Result<(), Failure> {
    for debounce in ["0s", "10ms", "50ms", "100ms"] {
        let mut server = Realmgate::with_settings(CLUSTERS, 1, &json!({"xds": {"debounce": debounce}}))?;
        let mut fleet = Fleet::start(server.xds())?;
        fleet.connect(PROXIES as usize, PROXIES as usize)?;
        fleet.synced(PATIENCE)?;
        quiet(server.pid())?;
        let before = cpu_seconds(server.pid())?;
        fleet.watch(Kind::Eds, Some(BY_RULE))?;
        let start = Instant::now();
        for number in 0..CHANGES {
            sleep((PACE * number).saturating_sub(start.elapsed()));
            server.change(Way::Redis)?;
        }
        quiet(server.pid())?;
        let worked = 1000.0 * (cpu_seconds(server.pid())? - before);
        let traffic = fleet.traffic()?;
        let each = |sum: u64| sum as f64 / f64::from(PROXIES);
        let value = format!(
            "{:.1} responses and {:.1} kB for each proxy; {worked:.0} ms of processor",
            each(traffic.messages),
            each(traffic.bytes) / 1000.0
        );
        println!("debounce {debounce}: a storm of {CHANGES} changes: {value}");
        rows.add(
            format!("{CHANGES} changes, one each {PACE:?}, {PROXIES} proxies, `xds.debounce: {debounce}`"),
            value,
        );
    }
    Ok(())
}
