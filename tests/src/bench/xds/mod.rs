//! The xDS server: how fast changes reach thousands of proxies, and what they take. The proxies are simulated, by a
//! fleet in another process, but for one row with a real Envoy.

mod convergence;
mod debounce;
mod fanout;
mod memory;
mod peer;
mod realmgate;
pub(super) mod relay;
mod request;
mod server;
mod storm;

use std::fs;
use std::path::Path;

use super::report::table;
use crate::fleet::raise_file_limit;
use crate::{Failure, Fleet};
use peer::Peer;
use realmgate::Realmgate;
use server::Server;

/// The heading of the section that [`run`] gives.
pub(super) const HEADING: &str = "## The xDS server";

const CLUSTERS: u32 = 1000;

/// Name and value of what was measured of one server, in order.
#[derive(Debug, Default)]
struct Rows(Vec<(String, String)>);

impl Rows {
    fn add(&mut self, name: impl Into<String>, value: String) {
        self.0.push((name.into(), value));
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// Measures; gives the section of the report.
pub(super) async fn run() -> String {
    raise_file_limit();
    // One, five and fifteen minutes.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    let mut rows = Rows::default();
    for clusters in [1, CLUSTERS] {
        let name = format!("a real Envoy, {clusters} clusters");
        let result = convergence::run(clusters, &mut rows).await;
        note(&name, result, &mut rows);
    }
    let result = debounce::run(&mut rows);
    note("a storm of changes", result, &mut rows);
    all(&mut |endpoints| Ok(Box::new(Realmgate::start(CLUSTERS, endpoints)?)), &mut rows);
    let mut of_peer = Rows::default();
    let peer = peer::build();
    match &peer {
        Ok(binary) => all(&mut |endpoints| start_peer(binary, endpoints), &mut of_peer),
        Err(why) => println!("go-control-plane: not measured: {why}"),
    }
    let lacking = peer.err().map(|why| format!("not measured: {}", first_line(&why)));
    section(&rows, &of_peer, lacking.as_deref(), &load)
}

fn start_peer(binary: &Path, endpoints: u32) -> Result<Box<dyn Server>, Failure> {
    Ok(Box::new(Peer::start(binary, CLUSTERS, endpoints)?))
}

type Start<'a> = &'a mut dyn FnMut(u32) -> Result<Box<dyn Server>, Failure>;

/// All parts, each with a server and a fleet of its own.
fn all(start: Start<'_>, rows: &mut Rows) {
    let mut part = |name: &str, endpoints, measure: Measure<'_>| {
        let result = start(endpoints).and_then(|mut server| {
            let mut fleet = Fleet::start(server.xds())?;
            measure(server.as_mut(), &mut fleet, rows)
        });
        note(name, result, rows);
    };
    part("1,000 proxies", 1, &|server, fleet, rows| {
        fanout::full_sync(server, fleet, 1000, rows)?;
        fanout::change(server, fleet, 1000, rows)
    });
    part("10,000 proxies", 1, &|server, fleet, rows| fanout::many(server, fleet, 10_000, rows));
    part("restart", 1, &|server, fleet, rows| storm::run(server, fleet, 2000, rows));
    part("100,000 endpoints", 100, &memory::run);
}

type Measure<'a> = &'a dyn Fn(&mut dyn Server, &mut Fleet, &mut Rows) -> Result<(), Failure>;

/// A part that fails costs its own rows only, and says so.
fn note(part: &str, result: Result<(), Failure>, rows: &mut Rows) {
    if let Err(why) = result {
        println!("{part}: failed: {why}");
        rows.add(part, format!("failed: {}", first_line(&why)));
    }
}

/// As much of a reason as fits into a table.
fn first_line(why: &Failure) -> String {
    let why: String = why.to_string().lines().next().unwrap_or_default().chars().take(150).collect();
    why.replace('|', "/")
}

fn section(ours: &Rows, peer: &Rows, lacking: Option<&str>, load: &str) -> String {
    let names = ours.0.iter().map(|(name, _)| name);
    let names = names.chain(peer.0.iter().map(|(name, _)| name).filter(|name| ours.value(name).is_none()));
    let cell = |rows: &Rows, name: &str| rows.value(name).unwrap_or_default().to_owned();
    let rows: Vec<_> = names
        .map(|name| {
            let of_peer = lacking.map_or_else(|| cell(peer, name), str::to_owned);
            vec![name.clone(), cell(ours, name), of_peer]
        })
        .collect();
    let table = table(&["", "Realmgate", "go-control-plane"], &rows);
    format!(
        "{HEADING}

{table}
Both serve {CLUSTERS} clusters with EDS, of one endpoint each where nothing else is said, and every proxy gets all of \
them. Realmgate has 999 of them from the policy, each with a route of its own in the filter's configuration, and one \
from a game-gateway rule in Redis. go-control-plane is its snapshot cache behind a server of a page \
(`tests/peers/go-control-plane`), with the same snapshot for all proxies and as many threads as there are cores; it \
has no filter configuration to send.

The proxies are `realmgate-fleet`: one process with one thread, which shares the cores with the server. Each proxy has \
a connection of its own (from 16 source addresses), speaks delta ADS in the order of an Envoy, and acknowledges \
everything without looking into it. Five runs each. The load average was {load} before they began: where it is above \
0.5 or so, others had a share of the cores, and of the times only the processor times say much.

- One endpoint: from sending the request (`PUT /v1/policy` with all of the policy, or the notification in Redis, its \
rule already written) until the last proxy has written its acknowledgement, on one clock. Bytes are those of gRPC \
messages, without the framing of HTTP/2. Processor time is counted by the kernel in steps of 10 ms, all work included \
that the change brings until the server is quiet again.
- First full sync: all proxies connect at the same moment and know nothing. MB are of messages: resources with their \
names, versions and types.
- Memory: resident, with no proxy subtracted from with all of them, one run.
- Return: the server is killed and started again with one endpoint changed. When it is ready, all proxies connect at \
the same moment and say what they have; from then until the last has acknowledged the change.
- One each 2 ms: changes of one endpoint by Redis. What holds a storm back first are the proxies, who get the next response when the \
one before is answered, so that the default of `xds.debounce` saves little beyond that: it bounds how often the control \
plane compiles (100 times a second) where proxies are few and quick. A change after a quiet time goes out at once whatever \
it says; longer times save work and cost each change of a storm as much.
- Real Envoy: 200 changes, each alone, from the notification in Redis until the acknowledgement passes a relay in front \
of the control plane, which adds what passing on costs.

### What bounds it

From profiles (`perf record`) of the server as it was when this was written:

- One endpoint, 10,000 proxies: flat. No function takes more than 2.5 %: the system's TCP, HTTP/2 frames, waking a task for each connection, and reading the acknowledgement. Our own share (finding what changed, assembling, noting) is below 10 %. What remains is a packet out and a packet in for each proxy. Next would be fewer layers between socket and session.
- First full sync: a proxy's share is one walk over its lists for each type (16 %), comparing (9 %) and hashing (8 %) the thousand names in which it asks for endpoints, allocation (5 %), copying entries into pieces (7 %), and the system. Entries are small here (some 170 bytes of message, of which 73 are the resource), so that bytes a second say less than resources a second; with larger resources the same walk carries more. References to shared resources are counted by all threads, which is most of what the walk costs. Next would be to answer a proxy that has nothing from the set as a whole.
- One endpoint by API: the request is the whole policy, 148 kB of JSON. What it takes longer than a rule in Redis goes into reading, checking and storing that, and into compiling what only a rule's change can leave as it is.
- Memory: 24 KiB of what a proxy takes are the buffers that the h2 library makes for each connection, 16 to write and 8 to read, whatever is sent. The rest is the system's socket, two tasks, and their timers; the stream itself has a few kilobytes whatever it holds. Next would be another HTTP/2. Endpoints of clusters are kept once, encoded.
"
    )
}
