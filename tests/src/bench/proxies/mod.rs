//! The edge beside its peers on the same work: plain Envoy, Envoy with the least filter there can be, and HAProxy.

mod cast;
mod compare;
mod envoys;
mod haproxy;
mod host;
mod scale;

use std::fmt::Write;

use super::processors;
use super::report::table;
use crate::Failure;
use crate::load::Mode;
use cast::{Cast, Games};
use compare::Work;
use envoys::Beside;

/// The heading of the report's section.
pub(super) const HEADING: &str = "## The edge beside its peers";

/// Parts of the rounds, each with all proxies started anew: where its memory happens to lie makes a percent or two for a
/// process.
const CASTS: u32 = 4;

/// How long and how often.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Seconds of each measurement. Short, since others who share the machine come and go: ratios are formed between
    /// neighbours.
    #[arg(long, default_value_t = 0.1)]
    pub seconds: f64,
    /// Rounds, each of all proxies in turn.
    #[arg(long, default_value_t = 120)]
    pub rounds: u32,
    /// Seconds of the mixed load of many players.
    #[arg(long, default_value_t = 600.0)]
    pub mixed_seconds: f64,
    /// Players of the mixed load; each needs two open files of Envoy.
    #[arg(long, default_value_t = 9000)]
    pub mixed_players: usize,
}

/// What is measured: name, mode, and message size.
const WORK: [(&str, Mode, usize); 4] = [
    ("64-byte messages, one at a time", Mode::Echo, 64),
    ("64-byte messages, 16 at a time", Mode::Pipelined, 64),
    ("new connections with one message", Mode::Connect, 64),
    ("16 KiB messages, one at a time", Mode::Echo, 16 * 1024),
];

/// Measures, and writes the section.
pub(super) async fn run(effort: Effort) -> Result<(String, String), Failure> {
    processors::keep(std::process::id(), processors::LOAD)?;
    let games = Games::start()?;
    let mut work = WORK.map(|(_, mode, size)| Work::new(mode, size));
    let mut steps = host::MODES.map(|mode| Work::new(mode, 64));
    let mut cast = Cast::start(&games).await?;
    // First, while none of them has memory left over from other work.
    let memory = scale::memory(&cast.proxies())?;
    let rounds = effort.rounds.div_ceil(CASTS);
    for number in 1..=CASTS {
        for work in &mut work {
            work.compare(&cast.proxies(), rounds, effort)?;
        }
        for (mode, work) in host::MODES.into_iter().zip(&mut steps) {
            let mut beside = Beside::steps(&games.net, &cast.edge, games.addresses(), mode)?;
            work.compare(&beside.proxies(), rounds, effort)?;
        }
        if number < CASTS {
            // Stopped before the next ones want their ports.
            drop(cast);
            cast = Cast::start(&games).await?;
        }
    }
    let worlds = scale::worlds(&mut cast, &games, Effort { rounds, ..effort }).await?;
    let mixed = scale::mixed(&mut cast.edge, effort)?;

    let mut text = format!("{HEADING}\n\n");
    let mut section = |name: &str, head: &[&str], rows: &[Vec<String>]| {
        // Writing to a string cannot fail.
        let _ = write!(text, "### {name}\n\n{}\n", table(head, rows));
    };
    for ((name, mode, _), work) in WORK.into_iter().zip(&work) {
        let unit = if mode == Mode::Connect { "connections/s" } else { "messages/s" };
        let head = ["", unit, "to plain", "p99, us", "to plain", "processor us each", "plain's to it"];
        section(name, &head, &work.rows());
    }
    let head = ["a module that", "processor us for", "", "plain's to it"];
    section("What Envoy's wasm host takes", &head, &host::rows(&steps));
    section("Memory", &["", "KiB for each idle routed connection", "more than plain"], &memory);
    let head = ["worlds", "connections/s", "processor us each", "to one world's"];
    section("Number of worlds", &head, &worlds);
    section("Many players", &["", "one run"], &mixed);
    text += &words(effort);
    text += &cast.missing();
    let version = cast.beside.version();
    processors::free()?;
    Ok((text, version))
}

fn words(effort: Effort) -> String {
    let place = if processors::enough() {
        "Each proxy has one worker and the first processor; clients (`realmgate-load`), game servers and control planes share the second."
    } else {
        "There is one processor for all."
    };
    let Effort { seconds, rounds, .. } = effort;
    format!(
        "{place} All run at once and are loaded in turn, {rounds} rounds of {seconds} s each, every other round in reverse. \
Before each of {CASTS} parts of them all proxies are started anew. Numbers are medians with the middle half behind them, ratios are formed within a round.

- Plain Envoy has the edge's `tcp_proxy` with the same settings and no filter. It connects to a game server as soon as a client \
connects; the second one with the client's first bytes, as it has to wherever something reads them.
- The minimal module (`tests/src/bench/proxies/minimal.wat`, written by hand) reads 8 bytes and names a cluster. It counts, logs, refuses and \
frees nothing: what it costs is what Envoy's wasm host costs, which no filter can be without.
- The same with the Rust SDK (`tests/peers/sdk`) is what the `proxy-wasm` library adds: a map of connections, and memory for each. The filter \
is not made with it, since it ends the VM at an event for a context that is gone.
- Our filter in its place, in the same Envoy of static configuration, is what the filter itself adds to that: counts, deadlines, reasons and \
a table of routes. Edges have more: `connection_limit` in front, filters by ECDS, ranges of all worlds.
- The minimal module with server framing (`framed.wat`) puts 29 bytes in the place of 8 and 8 in the place of 29 with one read and one write \
for each chunk of data, and checks nothing: no filter that translates can do with less.
- The edges are what a control plane makes of a policy. They have routes of all 32,767 worlds by ranges to 4 services; in server framing both ways are translated (20 + 9 bytes).
- HAProxy has a map of the worlds and looks at the same bytes.
- None writes an access log, but for the edge that does: a JSON line for each connection.
- Processor time is what the kernel counted for the proxy's process, for each message with its answer or each connection; plain Envoy's \
divided by it is the ratio of rates that it allows. Where others share the machine it says more than the rates.

The modules of the table of Envoy's wasm host (`host.rs`) each do one thing more, and nothing with what they get. What costs a message is to read: \
for each read Envoy has the module allocate the memory, and for the time of that call it makes a set of the names of the calls that are \
allowed (`WasmBase::allocMemory` of proxy-wasm-cpp-host). A read of no bytes, which needs no memory, takes a tenth of it. No call of the \
ABI hands out data otherwise, so that a message in server framing costs two such reads, its own and its answer's; writing is cheap, with \
or without the body. The filter reads once for each chunk, however many messages are in it, and not at all where only a body goes by. What \
would help is that set made once, in Envoy, or a filter outside of wasm.

What costs a connection: half is that there is a module at all, which is asked at the beginning and holds the connection back until it has \
bytes; a quarter is to read them, and a quarter to name the cluster: a function called by name, a message that Envoy parses, an object made by \
name, and in `tcp_proxy` a route for this connection alone. None of it can be left out: `tcp_proxy` settles its cluster when it first hears of a \
connection, so that the filter has to be asked before. Being told of beginnings and ends is little each, and of who ended a connection the filter \
is told only where an access log wants to know. The filter's own code takes under a microsecond for a connection when nothing else runs; between \
the kernel's and Envoy's it runs from cold caches.

Tried on plain Envoy with one worker, and without effect beyond noise: buffers of 32 KiB instead of 1 MiB, `enable_reuse_port` off, \
`connection_limit` in front, no access log. With two workers and our filter, exact connection balance: 200 connections in equal halves instead of \
90 to 110, at the same cost of a connection and a message. So all of that is left as Envoy has it.
"
    )
}
