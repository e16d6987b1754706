//! All proxies come back at once to a server that was killed and started again.

use std::time::Duration;

use super::super::ms;
use super::super::report::Samples;
use super::Rows;
use super::server::{Server, quiet};
use crate::fleet::{Kind, moment};
use crate::{Failure, Fleet};

const RUNS: u32 = 5;
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn run(
    server: &mut dyn Server,
    fleet: &mut Fleet,
    proxies: u32,
    rows: &mut Rows,
) -> Result<(), Failure> {
    fleet.connect(proxies as usize, 100)?;
    fleet.synced(PATIENCE)?;
    let [mut seconds, mut bytes, mut resources] = <[Samples; 3]>::default();
    for run in 1..=RUNS {
        quiet(server.pid())?;
        let way = server.restart_changed()?;
        fleet.watch(Kind::Eds, Some(server.cluster(way)))?;
        let start = moment();
        fleet.reconnect()?;
        let seen = fleet.acknowledged(PATIENCE)?;
        let took = ms(Duration::from_nanos(seen.last_ns).saturating_sub(start)) / 1000.0;
        quiet(server.pid())?;
        let traffic = fleet.traffic()?;
        let each = |all: u64| all as f64 / f64::from(proxies);
        println!(
            "{}: storm {run} of {RUNS}: {took:.2} s, {:.0} bytes each",
            server.name(),
            each(traffic.bytes)
        );
        seconds.push(took);
        bytes.push(each(traffic.bytes));
        resources.push(each(traffic.resources));
    }
    rows.add(
        format!("{proxies} proxies return to a restarted server: all have the one difference after s"),
        seconds.spread(2),
    );
    rows.add("- bytes for each that returns", bytes.spread(0));
    rows.add("- resources for each that returns", resources.spread(1));
    Ok(())
}
