//! Consul: how fast a change of health reaches an Envoy, and what many services take.

mod changes;
mod crowd;
mod notice;
mod outage;
mod resync;

use std::fs;

use super::report::table;
use crate::stage::port;
use crate::{ControlPlane, Envoy, Failure};
use changes::Acknowledged;
use crowd::Crowd;

/// The heading of the section that [`run`] gives.
pub(super) const HEADING: &str = "## Consul";

const SERVICES: usize = 500;
const INSTANCES: usize = 10;
/// Where the Envoy believes the control plane to be.
const RELAY: u16 = 18_001;

/// Name, value and target of what was measured, in order.
#[derive(Debug, Default)]
struct Rows(Vec<Vec<String>>);

impl Rows {
    fn add(&mut self, name: impl Into<String>, value: String, target: &str) {
        let name = name.into();
        println!("{name}: {value}");
        self.0.push(vec![name, value, target.to_owned()]);
    }
}

/// Measures; gives the section of the report.
pub(super) async fn run() -> Result<String, Failure> {
    // One, five and fifteen minutes.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    let mut rows = Rows::default();
    {
        let crowd = Crowd::start(1, 2)?;
        let mut played = Played::start(&crowd).await?;
        changes::run(&crowd, &mut played, &mut rows).await?;
    }
    let mut crowd = Crowd::start(SERVICES, INSTANCES)?;
    resync::run(&crowd, &mut rows)?;
    let mut played = Played::start(&crowd).await?;
    changes::run(&crowd, &mut played, &mut rows).await?;
    outage::run(&mut crowd, &mut played, &mut rows).await?;
    Ok(section(&rows, &load))
}

/// A control plane that follows the crowd, and an Envoy that has all of it. Stops in the order of the fields.
struct Played {
    _envoy: Envoy,
    control_plane: ControlPlane,
    acknowledged: Acknowledged,
}

impl Played {
    async fn start(crowd: &Crowd) -> Result<Self, Failure> {
        let control_plane = crowd.control_plane("played")?;
        let (at, admin) = (crowd.net.at(RELAY), crowd.net.at(port::ADMIN));
        let acknowledged = super::xds::relay::start(at, control_plane.xds()).await?;
        let bootstrap = control_plane.edge_bootstrap("edge-1", admin)?;
        let port = |port: u16| format!("port_value: {port}");
        let relayed = bootstrap.replace(&port(port::XDS), &port(RELAY));
        let envoy = Envoy::with(crowd.net.dir(), relayed, admin).name("edge").start()?;
        if envoy.stat("cluster_manager.active_clusters") < crowd.services() as u64 {
            return Err(Failure::new("the Envoy is ready without all clusters"));
        }
        Ok(Self { _envoy: envoy, control_plane, acknowledged: Acknowledged(acknowledged) })
    }
}

/// A counter or gauge of the control plane; the sum over its labels.
fn metric(control_plane: &ControlPlane, name: &str) -> f64 {
    let (_, text) = control_plane.get("/metrics");
    let value = |line: &str| {
        let labels = line.strip_prefix(name)?;
        let value = labels
            .strip_prefix(' ')
            .or_else(|| labels.starts_with('{').then_some(labels)?.rsplit(' ').next());
        value?.parse::<f64>().ok()
    };
    text.lines().filter_map(value).sum()
}

fn section(rows: &Rows, load: &str) -> String {
    let table = table(&["", "measured", "target"], &rows.0);
    let changes = changes::CHANGES;
    format!(
        "{HEADING}

{table}
Consul is one real server with {SERVICES} services of {INSTANCES} instances, each with a check of its own, and a policy \
that names all of them; the first rows have one service of two instances. All of it shares the cores, and the load average \
was {load} before.

- Change of health: {changes} changes of one check by `PUT /v1/txn`, each alone, at a real Envoy with all the clusters. \
The benchmark itself holds a blocking query on the same service, and both times count from sending the request to Consul: until the \
acknowledgement of the Envoy passes a relay in front of the control plane, and until that query has returned. Beyond is \
the difference of the two for each change: the control plane waits for one query on all checks, reads the service again, and \
rests three times as long as Consul took to tell it.
- Questions for each change: median of what the control plane counted from one change to the next.
- Full resync: from starting the control plane, which knows only its policy's file, until a simulated proxy that knows \
nothing has acknowledged everything. Memory is resident memory then, and the most that it was until then.
- Restart of Consul: killed and started again with its data; from when it leads until every part of what is taken from it is up \
to date, and until a change that was written at that moment is acknowledged. The control plane asks again 0.1 to 5 s after a loss, with jitter.
"
    )
}
