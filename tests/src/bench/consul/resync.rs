//! A control plane that knows only its policy, until a proxy has everything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::super::report::Samples;
use super::crowd::Crowd;
use super::{Rows, metric};
use crate::fleet::moment;
use crate::load::watch::kib;
use crate::sockets::connections;
use crate::{Failure, Fleet};

const ROUNDS: u32 = 5;
const PATIENCE: Duration = Duration::from_mins(1);
const GLANCE: Duration = Duration::from_millis(5);

pub(super) fn run(crowd: &Crowd, rows: &mut Rows) -> Result<(), Failure> {
    let [mut seconds, mut resident, mut peak, mut most, mut rest, mut questions] =
        [(); 6].map(|()| Samples::default());
    let (services, instances) = (crowd.services(), crowd.all_instances());
    for round in 1..=ROUNDS {
        let start = moment();
        let mut control_plane = crowd.control_plane(&format!("fresh-{round}"))?;
        let pid = control_plane.process().pid();
        let held = || connections(pid, crowd.consul.http_address());
        let mut fleet = Fleet::start(control_plane.xds())?;
        fleet.connect(1, 1)?;
        let done = AtomicBool::new(false);
        let (synced, at_once) = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    // Read too late, it is not counted.
                    most = most.max(held().unwrap_or_default());
                    thread::sleep(GLANCE);
                }
                most
            });
            let synced = fleet.synced(PATIENCE);
            done.store(true, Ordering::Relaxed);
            (synced, watcher.join().unwrap_or_default())
        });
        seconds.push(synced?.saturating_sub(start).as_secs_f64());
        let read = metric(&control_plane, "realmgate_consul_instances");
        if read < instances as f64 {
            return Err(Failure::new(format!("a proxy is in sync with {read} of {instances} instances")));
        }
        let status = format!("/proc/{pid}/status");
        let megabytes = |key| kib(&status, key).map(|kib| kib as f64 * 1024.0 / 1e6);
        resident.push(megabytes("VmRSS:")?);
        peak.push(megabytes("VmHWM:")?);
        most.push(at_once as f64);
        rest.push(held()? as f64);
        questions.push(metric(&control_plane, "realmgate_consul_requests_total"));
    }
    rows.add(
        format!("full resync, {instances} instances of {services} services, s"),
        seconds.spread(2),
        "at most 2",
    );
    rows.add("- resident memory then, MB", resident.spread(0), "below 100");
    rows.add("- most until then, MB", peak.spread(0), "below 100");
    rows.add("- questions to Consul", questions.spread(0), "");
    rows.add("- most connections to Consul, as far as seen every 5 ms", most.spread(0), "");
    rows.add("- connections to Consul then", rest.spread(0), "");
    Ok(())
}
