//! All that is measured beside each other: edges, other Envoys, HAProxy, and the game servers behind them.

use std::net::SocketAddr;
use std::time::Instant;

use realmgate_filter::config::Framing;
use realmgate_wire::ServerId;
use serde_json::{Value, json};

use super::compare::Proxy;
use super::envoys::Beside;
use super::haproxy;
use crate::bench::processors;
use crate::cast::{game, route, until_lands_somewhere};
use crate::load::{Identity, Servers};
use crate::process::Process;
use crate::stage::port;
use crate::{Failure, Stage, TestNet};

const SERVERS: u16 = 4;
/// Where the servers that speak the gateway's framing begin.
const FRAMED_FROM: u16 = 100;

/// The game servers, which stay while the proxies in front of them are started anew.
pub(super) struct Games {
    pub(super) net: TestNet,
    plain: Servers,
    framed: Servers,
}

impl Games {
    pub(super) fn start() -> Result<Self, Failure> {
        let net = TestNet::new();
        let plain = servers(&net, port::GAME, Framing::Client)?;
        let framed = servers(&net, port::GAME + FRAMED_FROM, Framing::Server)?;
        Ok(Self { net, plain, framed })
    }

    /// Those that speak the client's framing.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        self.plain.addresses()
    }
}

/// The proxies.
pub(super) struct Cast {
    pub(super) edge: Stage,
    pub(super) beside: Beside,
    logging: Stage,
    framed: Stage,
    haproxy: Result<Process, Failure>,
    haproxy_at: SocketAddr,
}

impl Cast {
    /// Starts them, each kept to the proxies' processor.
    pub(super) async fn start(games: &Games) -> Result<Self, Failure> {
        let Games { net, plain, framed } = games;
        let quiet = json!({"edge": {"access_log": ""}});
        let edge = self::edge(plain, Framing::Client, &quiet).await?;
        let haproxy_at = net.at(7020);
        let mut cast = Self {
            logging: self::edge(plain, Framing::Client, &json!({})).await?,
            framed: self::edge(framed, Framing::Server, &quiet).await?,
            beside: Beside::start(net, &edge, plain.addresses(), framed.addresses())?,
            haproxy: haproxy::start(net, haproxy_at, plain.addresses()),
            haproxy_at,
            edge,
        };
        for proxy in cast.proxies() {
            processors::keep(proxy.pid, processors::PROXY)?;
        }
        Ok(cast)
    }

    /// The first is the one that ratios are to.
    pub(super) fn proxies(&mut self) -> Vec<Proxy> {
        let mut proxies = self.beside.proxies();
        let edges = [
            ("edge", &mut self.edge),
            ("edge, with its access log", &mut self.logging),
            ("edge, server framing", &mut self.framed),
        ];
        let edge = |(name, stage): (&'static str, &mut Stage)| Proxy {
            name,
            at: stage.players(),
            pid: stage.edge.process().pid(),
        };
        proxies.extend(edges.map(edge));
        if let Ok(haproxy) = &mut self.haproxy {
            proxies.push(Proxy { name: "HAProxy", at: self.haproxy_at, pid: haproxy.pid() });
        }
        proxies
    }

    /// Why one of them is not there; empty where all are.
    pub(super) fn missing(&self) -> String {
        let missing = |failure| format!("\nHAProxy was not measured: {failure}\n");
        self.haproxy.as_ref().err().map_or_else(String::new, missing)
    }

    /// Gives the edge the worlds up to `last`, in stretches of `stretch`.
    pub(super) async fn serve_worlds(&self, games: &Games, last: u16, stretch: u16) {
        serve(&self.edge, games.addresses(), Framing::Client, last, stretch).await;
    }
}

fn servers(net: &TestNet, first: u16, framing: Framing) -> Result<Servers, Failure> {
    let servers: Vec<_> = (0..SERVERS)
        .map(|n| (net.at(first + n), Identity { world: 0, instance: n.to_le_bytes()[0] }))
        .collect();
    Servers::start(&servers, framing).map_err(Failure::because("game servers"))
}

async fn edge(servers: &Servers, framing: Framing, settings: &Value) -> Result<Stage, Failure> {
    let stage = Stage::start(TestNet::new(), settings)?;
    serve(&stage, servers.addresses(), framing, ServerId::MAX_WORLD, 1024).await;
    Ok(stage)
}

/// Shares the worlds out to the servers, in stretches.
async fn serve(stage: &Stage, servers: &[SocketAddr], framing: Framing, last: u16, stretch: u16) {
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
    let policy = json!({"listeners": stage.listener(&json!({})), "services": services, "routes": routes});
    stage.control_plane.put_policy(&policy.to_string());
    until_lands_somewhere(stage.players(), game(last, 1), Instant::now()).await;
}
