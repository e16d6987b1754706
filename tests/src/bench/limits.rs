//! What limits cost: those who are let in, and those who are turned away; and what that costs an attacker.
//!
//! Clients and edge stand in network namespaces of their own and on processors of their own, so that each side's processor
//! has all the work of its machine, the kernel's for its packets included: on one loopback device the sender does both.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use serde_json::{Value, json};

use super::processors;
use super::report::{Samples, table};
use super::worlds::ranges;
use crate::cast::{game, servers, services, until_lands};
use crate::netns::{Link, Namespace, command};
use crate::stage::{crowd, port};
use crate::{Failure, Stage, TestNet, parts};

/// The heading of the section that [`run`] gives.
pub(super) const HEADING: &str = "## Limits";

/// Enough to keep an Envoy with one worker busy all the time.
const CLIENTS: u32 = 50;

const ROUNDS: u32 = 10;
const SECONDS: f64 = 1.0;

/// As many as never matter.
const MANY: u32 = 1_000_000;

/// A way to meet the edge.
struct Case {
    name: &'static str,
    /// None: nobody is there but a thread that takes connections and closes them.
    limits: Option<Value>,
    /// Whether the players are let in.
    let_in: bool,
}

/// Measures; gives the section of the report.
pub(super) async fn run() -> String {
    let text = match measure().await {
        Ok(table) => format!(
            "{table}
{CLIENTS} clients of one address (`realmgate-load`) and one worker of Envoy, {ROUNDS} rounds of a second; medians with the middle half \
behind them. Those who are let in connect, send one message, read the answer and close; the game servers' time is among the clients'. Those \
who are refused connect and wait for their end (mode `knock`). Each side has a network namespace and a processor of its own, and its time \
is all that this processor was busy, with what the kernel does for packets that arrive.

What cannot be done without is in the last row, where a thread takes connections and closes them: as much for the one side as for the \
other. Envoy's own `connection_limit`, which looks at nothing, adds what Envoy makes of a connection before any filter hears of it, and with that \
a refusal costs more than the attacker's part already: no filter of Envoy's can turn that round. Ours adds a look at the address and at the \
table that the workers share. What limits do is to make an attack several times cheaper to bear than to serve; to make it dearer than it is to the \
attacker takes a firewall in front, which never makes a connection of it.
"
        ),
        Err(failure) => format!("Not measured: {failure}\n"),
    };
    format!("{HEADING}\n\n{text}")
}

async fn measure() -> Result<String, Failure> {
    if !processors::enough() {
        return Err(Failure::new("each side needs a processor of its own"));
    }
    let away = Namespace::new()?;
    let link = away.link_here()?;
    let [Some(proxy), Some(load)] = [processors::PROXY, processors::LOAD].map(|of| of.first().copied())
    else {
        return Err(Failure::new("no processors"));
    };
    link.take_in_on([proxy, load])?;
    // An address has 28,000 ports, which the clients would use up within seconds.
    away.set("ipv4/tcp_tw_reuse", "1")?;
    processors::keep(std::process::id(), processors::LOAD)?;
    let table = compare(&away, &link).await;
    processors::free()?;
    table
}

async fn compare(away: &Namespace, link: &Link) -> Result<String, Failure> {
    let mut stage = Stage::start(TestNet::alone(), &json!({"edge": {"access_log": ""}}))?;
    processors::keep(stage.edge.process().pid(), processors::PROXY)?;
    let servers = servers(&stage.net, 4, 0).await;
    let [here, _] = link.ends;
    let [edge, nobody] = [0, 1].map(|n| SocketAddr::from((here, port::PLAYERS + n)));
    let case = |name, limits, let_in| Case { name, limits: Some(limits), let_in };
    let all =
        json!({"connections": MANY, "connections_per_ip": MANY, "new_connections_per_ip_per_second": MANY});
    let fast = json!({"new_connections_per_ip_per_second": 1});
    let cases = [
        case("let in, without limits", json!({}), true),
        case("let in, `connections` alone", json!({"connections": MANY}), true),
        case("let in, `connections_per_ip` alone", json!({"connections_per_ip": MANY}), true),
        case("let in, all three limits", all, true),
        // The first of the clients is let in, and keeps the others out.
        case("refused by `connections`", json!({"connections": 1}), false),
        case("refused by `connections_per_ip`", json!({"connections_per_ip": 1}), false),
        case("refused by `new_connections_per_ip_per_second`", fast, false),
        Case { name: "taken and closed, without a proxy", limits: None, let_in: false },
    ];
    let mut samples: Vec<[Samples; 4]> = cases.iter().map(|_| Default::default()).collect();
    for round in 1..=ROUNDS {
        for (case, [rate, ours, theirs, ratio]) in cases.iter().zip(&mut samples) {
            let closer = if let Some(limits) = &case.limits {
                let listener = json!([{"name": "edge", "bind": edge.to_string(), "limits": crowd(limits)}]);
                let policy = json!({"listeners": listener, "services": services(&servers), "routes": ranges(&servers)});
                stage.control_plane.put_policy(&policy.to_string());
                until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
                None
            } else {
                Some(Closer::start(nobody)?)
            };
            let before = processors::busy_us()?;
            let count = clients(away, if closer.is_some() { nobody } else { edge }, case.let_in)?;
            let busy = processors::busy_us()?;
            let spent = |side: &[usize]| {
                let of = |all: &[f64]| side.iter().filter_map(|number| all.get(*number)).sum::<f64>();
                (of(&busy) - of(&before)) / count
            };
            let (here, there) = (spent(processors::PROXY), spent(processors::LOAD));
            println!(
                "{}, round {round} of {ROUNDS}: {count:.0}, {here:.1} us here, {there:.1} there",
                case.name
            );
            rate.push(count / SECONDS);
            ours.push(here);
            theirs.push(there);
            ratio.push(there / here);
        }
    }
    let rows = cases.iter().zip(&samples).map(|(case, [rate, ours, theirs, ratio])| {
        vec![case.name.to_owned(), rate.middle(0), ours.middle(0), theirs.middle(0), ratio.middle(2)]
    });
    let head = ["", "connections/s", "edge's side, us each", "clients' side, us each", "clients' to edge's"];
    Ok(table(&head, &rows.collect::<Vec<_>>()))
}

/// The clients, from their own network: how many came, and left as they should.
fn clients(away: &Namespace, to: SocketAddr, let_in: bool) -> Result<f64, Failure> {
    let mode = if let_in { "connect" } else { "knock" };
    let mut load = command(Some(away.name()), &parts::LOAD.find()?);
    load.args([mode, "--to", &to.to_string(), "--worlds", "1-32767", "--json", "--quiet"]);
    load.args(["--for", &SECONDS.to_string(), "--players", &CLIENTS.to_string()]);
    let output = load.output().map_err(Failure::because("realmgate-load"))?;
    let result: Value = serde_json::from_slice(&output.stdout).map_err(Failure::because("realmgate-load"))?;
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let ends = result.get("ends").and_then(Value::as_object);
    let count = if let_in {
        result.get("connections").map_or(0.0, number)
    } else {
        ends.map_or(0.0, |ends| ends.values().map(number).sum())
    };
    if output.status.success() && count > 0.0 {
        Ok(count)
    } else {
        Err(Failure::new(format!("{mode}: {result}")))
    }
}

/// A thread that takes connections and closes them, and does nothing else.
struct Closer {
    at: SocketAddr,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Closer {
    fn start(at: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(at).map_err(Failure::because("the last row"))?;
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        let work = move || {
            processors::keep_thread(processors::PROXY);
            while !stopped.load(Ordering::Relaxed) {
                drop(listener.accept());
            }
        };
        Ok(Self { at, stops, thread: Some(thread::spawn(work)) })
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        // It waits for one.
        drop(TcpStream::connect(self.at));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
