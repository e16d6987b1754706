//! What a change costs that reaches every proxy, and what it costs to give everything to all of them.

use std::time::Duration;

use super::super::ms;
use super::super::report::Samples;
use super::Rows;
use super::server::{Server, Way, cpu_seconds, quiet, resident_kib};
use crate::fleet::{Kind, moment};
use crate::{Failure, Fleet};

const RUNS: u32 = 5;
const PATIENCE: Duration = Duration::from_mins(5);
/// How many of ten thousand are on their way at a time; what a server needs to hold for those is not measured.
const RAMP: usize = 100;

/// All proxies of a fresh fleet connect at once and get everything.
pub(super) fn full_sync(
    server: &mut dyn Server,
    fleet: &mut Fleet,
    proxies: u32,
    rows: &mut Rows,
) -> Result<(), Failure> {
    let [mut seconds, mut rate, mut by_cpu, mut cpu] = <[Samples; 4]>::default();
    let mut bytes = Samples::default();
    for run in 1..=RUNS {
        fleet.disconnect()?;
        quiet(server.pid())?;
        let (start, before) = (moment(), cpu_seconds(server.pid())?);
        fleet.connect(proxies as usize, proxies as usize)?;
        let took = fleet.synced(PATIENCE)?.saturating_sub(start).as_secs_f64();
        let worked = cpu_seconds(server.pid())? - before;
        let traffic = fleet.traffic()?;
        let megabytes = traffic.bytes as f64 / 1e6;
        println!(
            "{}: full sync {run} of {RUNS}: {took:.2} s, {megabytes:.0} MB, {worked:.2} s of processor",
            server.name()
        );
        seconds.push(took);
        rate.push(megabytes / took);
        by_cpu.push(megabytes / worked);
        cpu.push(worked);
        bytes.push(traffic.bytes as f64 / f64::from(proxies) / 1000.0);
    }
    rows.add(format!("first full sync of {proxies} proxies: s"), seconds.spread(2));
    rows.add("- kB for each proxy", bytes.spread(0));
    rows.add("- MB/s", rate.spread(0));
    rows.add("- processor time of the server, s", cpu.spread(2));
    rows.add("- MB for each second of it", by_cpu.spread(0));
    Ok(())
}

/// One endpoint changes.
pub(super) fn change(
    server: &mut dyn Server,
    fleet: &mut Fleet,
    proxies: u32,
    rows: &mut Rows,
) -> Result<(), Failure> {
    for way in server.ways() {
        let [mut last, mut median, mut bytes, mut cpu] = <[Samples; 4]>::default();
        // The first is not counted: memory that no change has touched yet.
        for run in 0..=RUNS {
            quiet(server.pid())?;
            let before = cpu_seconds(server.pid())?;
            fleet.watch(Kind::Eds, Some(server.cluster(*way)))?;
            let change = server.change(*way)?;
            let seen = fleet.acknowledged(PATIENCE)?;
            let since = |ns: u64| ms(Duration::from_nanos(ns).saturating_sub(change.sent));
            let (took, half) = (since(seen.last_ns), since(seen.median_ns));
            change.finish()?;
            quiet(server.pid())?;
            let worked = (cpu_seconds(server.pid())? - before) * 1000.0;
            let each = fleet.traffic()?.bytes as f64 / f64::from(proxies);
            println!(
                "{}: change by {way:?}, {run} of {RUNS}: {proxies} proxies, last after {took:.1} ms, half after \
                {half:.1} ms, {each:.0} bytes each, {worked:.0} ms of processor, {losses} connections lost",
                server.name(),
                losses = seen.losses,
            );
            if run > 0 {
                last.push(took);
                median.push(half);
                bytes.push(each);
                cpu.push(worked);
            }
        }
        let how = if *way == Way::Api { "API" } else { "Redis" };
        rows.add(
            format!("one endpoint, by {how}, {proxies} proxies: all have acknowledged after ms"),
            last.spread(1),
        );
        rows.add(format!("- half of the {proxies} after ms (by {how})"), median.spread(1));
        rows.add(format!("- bytes for each of the {proxies} (by {how})"), bytes.spread(0));
        rows.add(format!("- processor time of the server for the {proxies}, ms (by {how})"), cpu.spread(0));
    }
    Ok(())
}

/// As many proxies as one process may have files: memory, then a change.
pub(super) fn many(
    server: &mut dyn Server,
    fleet: &mut Fleet,
    proxies: u32,
    rows: &mut Rows,
) -> Result<(), Failure> {
    quiet(server.pid())?;
    let before = resident_kib(server.pid())?;
    let start = moment();
    fleet.connect(proxies as usize, RAMP)?;
    let took = fleet.synced(PATIENCE)?.saturating_sub(start);
    quiet(server.pid())?;
    let each = (resident_kib(server.pid())? - before) / f64::from(proxies);
    println!("{}: {proxies} proxies after {took:.1?}, {each:.1} KiB each above {before} KiB", server.name());
    rows.add(format!("memory for each of {proxies} proxies, KiB"), format!("{each:.1}"));
    change(server, fleet, proxies, rows)
}
