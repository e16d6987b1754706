//! What a hundred thousand endpoints take, without proxies and with some.

use std::time::Duration;

use super::Rows;
use super::server::{Server, quiet, resident_kib};
use crate::{Failure, Fleet};

const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn run(server: &mut dyn Server, fleet: &mut Fleet, rows: &mut Rows) -> Result<(), Failure> {
    let mut connected = 0;
    for (proxies, name) in [
        (0, "memory with 100,000 endpoints in 1,000 clusters, MiB"),
        (1, "- with one proxy"),
        (100, "- with 100 proxies"),
    ] {
        fleet.connect(proxies - connected, 10)?;
        fleet.synced(PATIENCE)?;
        connected = proxies;
        quiet(server.pid())?;
        let mib = resident_kib(server.pid())? / 1024.0;
        println!("{}: 100,000 endpoints, {proxies} proxies: {mib:.0} MiB", server.name());
        rows.add(name, format!("{mib:.0}"));
    }
    Ok(())
}
