//! The edge beside its peers on the same work: plain Envoy, Envoy with the least filter there can be, and HAProxy.

mod envoys;
mod haproxy;
mod host;
mod processors;

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use realmgate_filter::config::Framing;
use realmgate_wire::ServerId;
use serde_json::{Value, json};

use super::report::{Samples, table};
use crate::cast::{game, route, until_lands_somewhere};
use crate::load::{Identity, Mode, Outcome, Plan, Servers, run as load};
use crate::stage::port;
use crate::{Failure, Stage, TestNet};
use envoys::Beside;

/// The heading of the report's section.
pub(super) const HEADING: &str = "## The edge beside its peers";

const SERVERS: u16 = 4;
/// Where the servers that speak the gateway's framing begin.
const FRAMED_FROM: u16 = 100;
const CONNECTIONS: usize = 50;
/// Addresses that players come from.
const SOURCES: u8 = 16;

/// How long and how often.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.4)]
    pub seconds: f64,
    /// Rounds, each of all proxies in turn.
    #[arg(long, default_value_t = 30)]
    pub rounds: u32,
    /// Seconds of the mixed load of many players.
    #[arg(long, default_value_t = 600.0)]
    pub mixed_seconds: f64,
    /// Players of the mixed load; each needs two open files of Envoy.
    #[arg(long, default_value_t = 9000)]
    pub mixed_players: usize,
}

/// A proxy under load.
struct Proxy {
    name: &'static str,
    at: SocketAddr,
    pid: u32,
}

/// What is measured: name, mode, message size, and of which number the rate is made.
const WORK: [(&str, Mode, usize); 4] = [
    ("64-byte messages, one at a time", Mode::Echo, 64),
    ("64-byte messages, 16 at a time", Mode::Pipelined, 64),
    ("new connections with one message", Mode::Connect, 64),
    ("16 KiB messages, one at a time", Mode::Echo, 16 * 1024),
];

/// Measures, and writes the section.
pub(super) async fn run(effort: Effort) -> Result<(String, String), Failure> {
    let own = std::process::id();
    let pinned = available_parallelism().is_ok_and(|count| count.get() > 1);
    let keep = |pid: u32, processors: &[usize]| {
        if pinned { processors::keep(pid, processors) } else { Ok(()) }
    };
    keep(own, processors::LOAD)?;

    let net = TestNet::new();
    let servers = servers(&net, port::GAME, Framing::Client)?;
    let framed_servers = self::servers(&net, port::GAME + FRAMED_FROM, Framing::Server)?;
    let quiet = json!({"edge": {"access_log": ""}});
    let mut edge = edge(&servers, Framing::Client, &quiet).await?;
    let mut logging = self::edge(&servers, Framing::Client, &json!({})).await?;
    let mut framed = self::edge(&framed_servers, Framing::Server, &quiet).await?;
    let mut beside = Beside::start(&net, &edge, servers.addresses(), framed_servers.addresses())?;
    let mut haproxy = haproxy::start(&net, net.at(7010), servers.addresses());
    let mut proxies = beside.proxies();
    proxies.push(Proxy { name: "edge", at: edge.players(), pid: edge.edge.process().pid() });
    proxies.push(Proxy {
        name: "edge, with its access log",
        at: logging.players(),
        pid: logging.edge.process().pid(),
    });
    proxies.push(Proxy {
        name: "edge, server framing",
        at: framed.players(),
        pid: framed.edge.process().pid(),
    });
    let missing = match &mut haproxy {
        Ok(process) => {
            proxies.push(Proxy { name: "HAProxy", at: net.at(7010), pid: process.pid() });
            String::new()
        }
        Err(failure) => format!("\nHAProxy was not measured: {failure}\n"),
    };
    for proxy in &proxies {
        keep(proxy.pid, processors::PROXY)?;
    }

    let mut text = format!("{HEADING}\n\n");
    // First, while none of them has memory left over from other work.
    let memory = memory(&proxies)?;
    for (name, mode, size) in WORK {
        let rows = compare(&proxies, mode, size, effort)?;
        let unit = if mode == Mode::Connect { "connections/s" } else { "messages/s" };
        let head = ["", unit, "to plain", "p99, us", "to plain", "processor us each", "plain's to it"];
        let _ = write!(text, "### {}\n\n{}\n", name, table(&head, &rows));
    }
    text += &host(&net, &edge, servers.addresses(), effort, keep)?;
    let _ = write!(
        text,
        "### Memory\n\n{}\n",
        table(&["", "KiB for each idle routed connection", "more than plain"], &memory)
    );
    let worlds = worlds(&mut edge, servers.addresses(), effort).await?;
    let _ = write!(
        text,
        "### Number of worlds\n\n{}\n",
        table(&["worlds", "connections/s", "processor us each"], &worlds)
    );
    let mixed = mixed(&mut edge, effort)?;
    let _ = write!(text, "### Many players\n\n{}\n", table(&["", "one run"], &mixed));
    text += &words(effort, pinned);
    text += &missing;
    let version = beside.version();
    processors::free()?;
    Ok((text, version))
}

fn servers(net: &TestNet, first: u16, framing: Framing) -> Result<Servers, Failure> {
    let servers: Vec<_> = (0..SERVERS)
        .map(|n| (net.at(first + n), Identity { world: 0, instance: n.to_le_bytes()[0] }))
        .collect();
    Servers::start(&servers, framing).map_err(Failure::because("game servers"))
}

/// A policy that shares these worlds out to the servers, in stretches of `stretch`.
fn policy(stage: &Stage, servers: &[SocketAddr], framing: Framing, last: u16, stretch: u16) -> String {
    let name = |n: usize| format!("game-{n}");
    let service = |(n, at): (usize, &SocketAddr)| json!({"name": name(n), "endpoints": [at.to_string()], "framing": framing,});
    let services: Vec<_> = servers.iter().enumerate().map(service).collect();
    let starts: Vec<_> = (1..=last).step_by(stretch.into()).collect();
    let routes = servers.iter().enumerate().filter_map(|(n, _)| {
        let own = starts.iter().skip(n).step_by(servers.len());
        let own: Vec<_> =
            own.map(|low| format!("{low}-{}", low.saturating_add(stretch - 1).min(last))).collect();
        (!own.is_empty()).then(|| route(&name(n), &json!(own), &name(n)))
    });
    let routes: Vec<_> = routes.collect();
    json!({"listeners": stage.listener(&json!({})), "services": services, "routes": routes}).to_string()
}

async fn edge(servers: &Servers, framing: Framing, settings: &Value) -> Result<Stage, Failure> {
    let stage = Stage::start(TestNet::new(), settings)?;
    stage.control_plane.put_policy(&policy(&stage, servers.addresses(), framing, ServerId::MAX_WORLD, 1024));
    until_lands_somewhere(stage.players(), game(ServerId::MAX_WORLD, 1), Instant::now()).await;
    Ok(stage)
}

fn plan(mode: Mode, to: SocketAddr, size: usize, seconds: f64) -> Plan {
    Plan {
        players: CONNECTIONS,
        size,
        worlds: (1..=ServerId::MAX_WORLD).step_by(650).collect(),
        // From the system's choice of ports, 14,000 connections a second to one address are too many: it looks through all of
        // those that closed within the last second for each new one, and players come no faster than it does.
        sources: (1..=SOURCES).map(|n| IpAddr::from(Ipv4Addr::new(127, 1, 0, n))).collect(),
        ..Plan::new(mode, to, Duration::from_secs_f64(seconds))
    }
}

fn clean(outcome: Outcome, of: &str) -> Result<Outcome, Failure> {
    if outcome.errors.is_empty() {
        Ok(outcome)
    } else {
        Err(Failure::new(format!("{of}: {:?}", outcome.errors)))
    }
}

/// All proxies in turn, the other way round in each second round. Ratios are formed within a round.
fn compare(proxies: &[Proxy], mode: Mode, size: usize, effort: Effort) -> Result<Vec<Vec<String>>, Failure> {
    let mut samples: Vec<[Samples; 5]> = proxies.iter().map(|_| Default::default()).collect();
    for round in 0..effort.rounds {
        let mut results: Vec<_> = proxies.iter().map(|_| [0.0; 3]).collect();
        let turns: Vec<_> = results.iter_mut().zip(proxies).collect();
        let turns: Box<dyn Iterator<Item = _>> =
            if round % 2 == 0 { Box::new(turns.into_iter()) } else { Box::new(turns.into_iter().rev()) };
        for (result, proxy) in turns {
            let outcome = load(&plan(mode, proxy.at, size, effort.seconds), 1, &[proxy.pid], false)?;
            let outcome = clean(outcome, proxy.name)?;
            let processor: f64 = outcome.watched.iter().map(|watched| watched.processor_seconds).sum();
            let (rate, count) = if mode == Mode::Connect {
                (outcome.connections_per_second, outcome.connections)
            } else {
                (outcome.messages_per_second, outcome.messages)
            };
            *result = [rate, outcome.latency_us.p99, processor * 1e6 / count.max(1) as f64];
        }
        let Some(&plain) = results.first() else { break };
        for (samples, result) in samples.iter_mut().zip(&results) {
            let ratios = result.iter().take(2).zip(plain).map(|(one, plain)| one / plain);
            samples
                .iter_mut()
                .zip(result.iter().copied().chain(ratios))
                .for_each(|(samples, one)| samples.push(one));
        }
        println!("{mode:?} of {size} bytes, round {} of {}: {results:.0?}", round + 1, effort.rounds);
    }
    let plain = samples.first().map_or(f64::NAN, |[_, _, processor, ..]| processor.least_quarter());
    let row = |(proxy, [rate, p99, processor, rates, p99s]): (&Proxy, &[Samples; 5])| {
        let processor = processor.least_quarter();
        vec![
            proxy.name.to_owned(),
            rate.spread(0),
            rates.spread(3),
            p99.spread(0),
            p99s.spread(2),
            format!("{processor:.2}"),
            format!("{:.3}", plain / processor),
        ]
    };
    Ok(proxies.iter().zip(&samples).map(row).collect())
}

/// What the host of a filter takes.
fn host(
    net: &TestNet,
    edge: &Stage,
    servers: &[SocketAddr],
    effort: Effort,
    keep: impl Fn(u32, &[usize]) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for mode in [Mode::Echo, Mode::Connect] {
        let mut steps = Beside::steps(net, edge, servers, mode)?;
        let proxies = steps.proxies();
        for proxy in &proxies {
            keep(proxy.pid, processors::PROXY)?;
        }
        rows.extend(compare(&proxies, mode, 64, effort)?.into_iter().map(|row| {
            let unit = if mode == Mode::Connect { "a connection" } else { "a message and its answer" };
            let [name, .., processor, ratio] = row.as_slice() else { return row };
            vec![name.clone(), unit.to_owned(), processor.clone(), ratio.clone()]
        }));
    }
    let head = ["a module that", "processor us for", "", "plain's to it"];
    Ok(format!("### What Envoy's wasm host takes\n\n{}\n", table(&head, &rows)))
}

/// What an idle routed connection takes.
fn memory(proxies: &[Proxy]) -> Result<Vec<Vec<String>>, Failure> {
    const PLAYERS: usize = 4000;
    let mut plain = None;
    let mut rows = Vec::new();
    for proxy in proxies {
        // What comes with the first connection, whoever it is, is no connection's.
        let first = Plan { players: 1, ..plan(Mode::Idle, proxy.at, 64, 0.1) };
        clean(load(&first, 1, &[], false)?, proxy.name)?;
        let idle = Plan { players: PLAYERS, ..plan(Mode::Idle, proxy.at, 64, 2.5) };
        let outcome = clean(load(&idle, 1, &[proxy.pid], false)?, proxy.name)?;
        let grown: u64 = outcome.watched.iter().map(|watched| watched.most_kib - watched.before_kib).sum();
        let each = grown as f64 / PLAYERS as f64;
        let plain = *plain.get_or_insert(each);
        println!("{}: {each:.2} KiB for each idle connection", proxy.name);
        rows.push(vec![proxy.name.to_owned(), format!("{each:.2}"), format!("{:.2}", each - plain)]);
    }
    Ok(rows)
}

/// The same edge with one, a hundred, and all worlds, in turn.
async fn worlds(
    edge: &mut Stage,
    servers: &[SocketAddr],
    effort: Effort,
) -> Result<Vec<Vec<String>>, Failure> {
    let counts = [(1_u16, 1_u16), (100, 1), (ServerId::MAX_WORLD, 1024)];
    let mut samples: [[Samples; 2]; 3] = Default::default();
    let pid = edge.edge.process().pid();
    for round in 0..effort.rounds {
        let mut turns: Vec<_> = counts.into_iter().zip(&mut samples).collect();
        if round % 2 > 0 {
            turns.reverse();
        }
        for ((last, stretch), [rates, processor]) in turns {
            serve_worlds(edge, servers, last, stretch).await;
            let worlds = (1..=last).collect();
            let plan = Plan { worlds, ..plan(Mode::Connect, edge.players(), 64, effort.seconds) };
            let outcome = clean(load(&plan, 1, &[pid], false)?, "worlds")?;
            let seconds: f64 = outcome.watched.iter().map(|watched| watched.processor_seconds).sum();
            rates.push(outcome.connections_per_second);
            processor.push(seconds * 1e6 / outcome.connections.max(1) as f64);
        }
        println!("worlds, round {} of {}", round + 1, effort.rounds);
    }
    // What comes next may go to any world, whichever was the last here.
    serve_worlds(edge, servers, ServerId::MAX_WORLD, 1024).await;
    let row = |((last, _), [rates, processor]): ((u16, u16), &[Samples; 2])| {
        vec![last.to_string(), rates.spread(0), format!("{:.2}", processor.least_quarter())]
    };
    Ok(counts.into_iter().zip(&samples).map(row).collect())
}

/// Gives the edge the worlds up to `last`.
async fn serve_worlds(edge: &Stage, servers: &[SocketAddr], last: u16, stretch: u16) {
    edge.control_plane.put_policy(&policy(edge, servers, Framing::Client, last, stretch));
    until_lands_somewhere(edge.players(), game(last, 1), Instant::now()).await;
}

/// Many players of all worlds for a while.
fn mixed(edge: &mut Stage, effort: Effort) -> Result<Vec<Vec<String>>, Failure> {
    let plan = Plan {
        players: effort.mixed_players,
        worlds: (1..=ServerId::MAX_WORLD).collect(),
        rate: Some(effort.mixed_players as f64),
        who: true,
        ..plan(Mode::Mixed, edge.players(), 64, effort.mixed_seconds)
    };
    let pid = edge.edge.process().pid();
    let outcome = load(&plan, 1, &[pid], true)?;
    let errors: u64 = outcome.errors.values().sum();
    let mib = |kib: u64| format!("{} MiB", kib / 1024);
    let memory = |pick: fn(&crate::load::Watched) -> u64| {
        outcome.watched.first().map_or_else(String::new, |one| mib(pick(one)))
    };
    let rows = [
        ("players", effort.mixed_players.to_string()),
        ("seconds", format!("{:.0}", outcome.seconds)),
        ("messages", outcome.messages.to_string()),
        ("connections, those of the beginning not counted", outcome.connections.to_string()),
        (
            "errors",
            format!("{errors} {}", if errors > 0 { format!("{:?}", outcome.errors) } else { String::new() }),
        ),
        ("p50 / p99 / p99.9 from when a message was due, ms", {
            let ms = |us: f64| us / 1000.0;
            let q = outcome.latency_us;
            format!("{:.1} / {:.1} / {:.1}", ms(q.p50), ms(q.p99), ms(q.p999))
        }),
        ("memory of the edge before", memory(|one| one.before_kib)),
        ("after a third of the time", memory(|one| one.third_kib)),
        ("at most", memory(|one| one.most_kib)),
    ];
    Ok(rows.into_iter().map(|(name, value)| vec![name.to_owned(), value.trim().to_owned()]).collect())
}

fn words(effort: Effort, pinned: bool) -> String {
    let place = if pinned {
        "Each proxy has one worker and the first processor; clients (`realmgate-load`), game servers and control planes share the second."
    } else {
        "There is one processor for all."
    };
    let Effort { seconds, rounds, .. } = effort;
    format!(
        "{place} All run at once and are loaded in turn, {rounds} rounds of {seconds} s each, every other round in reverse. \
Numbers are medians with (least-most) behind them, ratios are formed within a round: what spread they have is the machine's.

- Plain Envoy has the edge's `tcp_proxy` with the same settings and no filter. It connects to a game server as soon as a client \
connects; the second one with the client's first bytes, as it has to wherever something reads them.
- The minimal module (`tests/src/bench/proxies/minimal.wat`) reads 8 bytes and names a cluster. It counts, logs, refuses and \
frees nothing: what it costs is what Envoy's wasm host costs, which no filter can be without.
- Our filter in its place, in the same Envoy of static configuration, is what the filter itself adds to that: counts, deadlines, reasons and \
a table of routes. Edges have more: `connection_limit` in front, filters by ECDS, ranges of all worlds.
- The minimal module with server framing (`framed.wat`) puts 29 bytes in the place of 8 and 8 in the place of 29 with one read and one write \
for each chunk of data, and checks nothing: no filter that translates can do with less.
- The edges are what a control plane makes of a policy. They have routes of all 32,767 worlds by ranges to 4 services; in server framing both ways are translated (20 + 9 bytes).
- HAProxy has a map of the worlds and looks at the same bytes.
- None writes an access log, but for the edge that does: a JSON line for each connection.
- Processor time is what the kernel counted for the proxy's process, for each message with its answer or each connection: the mean of \
the least quarter of the rounds, and plain Envoy's divided by it, which is the ratio of rates that it allows. Where others share the \
machine it says more than the rates.

The modules of the table of Envoy's wasm host (`host.rs`) each do one thing more, and nothing with what they get. What costs is to read: \
for each read Envoy has the module allocate the memory, and for the time of that call it makes a set of the names of the calls that are \
allowed (`WasmBase::allocMemory` of proxy-wasm-cpp-host). A read of no bytes, which needs no memory, takes a tenth of it. No call of the \
ABI hands out data otherwise, so that a message in server framing costs two such reads, its own and its answer's; writing is cheap, with \
or without the body. The filter reads once for each chunk, however many messages are in it, and not at all where only a body goes by. What \
would help is that set made once, in Envoy, or a filter outside of wasm.

Tried on plain Envoy with one worker, and without effect beyond noise: buffers of 32 KiB instead of 1 MiB, `enable_reuse_port` off, \
`connection_limit` in front, no access log. So the first two are left as Envoy has them.
"
    )
}
