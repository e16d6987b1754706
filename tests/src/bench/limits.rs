//! What limits cost: those who are let in, and those who are turned away; and what that costs an attacker.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::report::{Samples, table};
use super::worlds::ranges;
use super::xds::cpu_seconds;
use crate::cast::{game, servers, services, until_lands};
use crate::{Failure, Frame, GameClient, Stage, TestNet};

/// The heading of the section that [`run`] gives.
pub(super) const HEADING: &str = "## Limits";

/// Enough to keep an Envoy with one worker busy all the time.
const CLIENTS: u16 = 50;

const ROUNDS: u32 = 5;
/// Short: each connection leaves a port behind that cannot be used again for a while.
const TIME: Duration = Duration::from_secs(1);

/// As many as never matter.
const MANY: u32 = 1_000_000;

/// A way to meet the edge.
struct Case {
    name: &'static str,
    limits: Value,
    /// Whether the players are let in.
    let_in: bool,
}

/// Measures; gives the section of the report.
pub(super) async fn run() -> Result<String, Failure> {
    let mut stage = Stage::start(TestNet::alone(), &json!({}))?;
    let servers = servers(&stage.net, 4, 0).await;
    let edge = stage.players();
    let none = json!({});
    let all =
        json!({"connections": MANY, "connections_per_ip": MANY, "new_connections_per_ip_per_second": MANY});
    let case = |name, limits: &Value, let_in| Case { name, limits: limits.clone(), let_in };
    let cases = [
        case("let in, without limits", &none, true),
        case("let in, `connections` alone", &json!({"connections": MANY}), true),
        case("let in, `connections_per_ip` alone", &json!({"connections_per_ip": MANY}), true),
        case("let in, all three limits", &all, true),
        case("refused by `connections`", &json!({"connections": 1}), false),
        case("refused by `connections_per_ip`", &json!({"connections_per_ip": 1}), false),
        case(
            "refused by `new_connections_per_ip_per_second`",
            &json!({"new_connections_per_ip_per_second": 1}),
            false,
        ),
    ];
    let mut samples: Vec<[Samples; 3]> = cases.iter().map(|_| Default::default()).collect();
    for round in 1..=ROUNDS {
        for (case, [rate, ours, theirs]) in cases.iter().zip(&mut samples) {
            let policy = json!({"listeners": stage.listener(&case.limits), "services": services(&servers),
                "routes": ranges(&servers)});
            stage.control_plane.put_policy(&policy.to_string());
            // One is there already; what came before the limit is forgotten.
            until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
            let mut holder = GameClient::connect(edge).await.map_err(Failure::because("the first"))?;
            let _ = holder.who_are_you(game(1, 1)).await;
            let envoy = stage.edge.process().pid();
            let (before, here) = (cpu_seconds(envoy)?, cpu_seconds(std::process::id())?);
            let per_second =
                if case.let_in { connections(edge, TIME).await? } else { refusals(edge, TIME).await? };
            let count = per_second * TIME.as_secs_f64();
            rate.push(per_second);
            ours.push((cpu_seconds(envoy)? - before) * 1e6 / count);
            theirs.push((cpu_seconds(std::process::id())? - here) * 1e6 / count);
            println!("{}, round {round} of {ROUNDS}: {per_second:.0}/s", case.name);
        }
    }
    let rows = cases.iter().zip(&samples).map(|(case, [rate, ours, theirs])| {
        vec![case.name.to_owned(), rate.spread(0), ours.spread(0), theirs.spread(0)]
    });
    let rows: Vec<_> = rows.collect();
    let table = table(&["", "connections/s", "Envoy, us each", "clients, us each"], &rows);
    Ok(format!(
        "{HEADING}

{table}
{CLIENTS} clients of one address and one worker of Envoy, {ROUNDS} rounds of a second. Those who are let in connect, send \
one message, read the answer and close; the game servers' time is among the clients'. Those who are refused connect and \
wait for their end. Time is processor time of user and kernel; most of a refusal is the kernel's, for the connection.
"
    ))
}

/// Connections per second that are let in: each sends one message, reads its answer and closes.
async fn connections(to: SocketAddr, time: Duration) -> Result<f64, Failure> {
    clients(time, move |number| async move {
        let mut client = GameClient::connect(to).await?;
        client.exchange(&Frame::to_world(1 + number * 650, 1, vec![0; 56])).await.map(drop)
    })
    .await
}

/// Connections per second that are closed unheard.
async fn refusals(to: SocketAddr, time: Duration) -> Result<f64, Failure> {
    clients(time, move |_| async move {
        // A reset may come before the connect has returned.
        if let Ok(client) = GameClient::connect(to).await {
            let _ = client.read_until_closed().await;
        }
        Ok(())
    })
    .await
}

/// How often a second all clients together do this, each with its number.
async fn clients<W>(time: Duration, what: impl Fn(u16) -> W + Copy + Send + 'static) -> Result<f64, Failure>
where
    W: Future<Output = io::Result<()>> + Send,
{
    let start = Instant::now();
    let client = |number| async move {
        let mut done = 0_u32;
        while start.elapsed() < time {
            what(number).await?;
            done += 1;
        }
        Ok::<_, io::Error>(done)
    };
    let mut clients: JoinSet<_> = (0..CLIENTS).map(client).collect();
    let mut done = 0.0;
    while let Some(client) = clients.join_next().await {
        let client = client.map_err(Failure::because("a client"))?;
        done += f64::from(client.map_err(Failure::because("a client"))?);
    }
    Ok(done / start.elapsed().as_secs_f64())
}
