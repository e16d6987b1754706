//! Many worlds: all of them by ranges, two thousand with a rule and a cluster each, and many more on demand.

use std::time::{Duration, Instant};

use realmgate_wire::ServerId;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::ms;
use super::report::{Report, Samples};
use crate::cast::{game, lands, route, servers, servers_speaking, services, until_lands};
use crate::load::watch::resident_kib;
use crate::stage::port;
use crate::{Failure, Frame, GameClient, GameServer, Redis, Stage, TestNet};
use realmgate_filter::config::Framing;

pub(super) const RULES_KEY: &str = "game-gateway:routing:rules";
pub(super) const RULES_NOTIFY: &str = "game-gateway:routing:rules:notify";

const RULES: u16 = 2000;

/// As many on demand, of which some are visited.
const ON_DEMAND: u16 = 30_000;
const VISITED: u16 = 200;

/// Routes of all worlds: ranges of 1,024 in turn to the servers.
pub(super) fn ranges(servers: &[GameServer]) -> Value {
    let last = ServerId::MAX_WORLD;
    let ranges: Vec<_> =
        (0..32_u16).map(|n| format!("{}-{}", (n * 1024).max(1), (n * 1024 + 1023).min(last))).collect();
    let routes = servers.iter().enumerate().map(|(skip, server)| {
        let own: Vec<_> = ranges.iter().skip(skip).step_by(servers.len()).collect();
        route(server.name(), &json!(own), server.name())
    });
    routes.collect()
}

/// All worlds by ranges, while somebody plays.
pub(super) async fn by_ranges(report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::start(TestNet::alone(), &json!({}))?;
    let servers = servers(&stage.net, 4, 0).await;
    let policy = |routes: Value| {
        json!({"listeners": stage.listener(&json!({})), "services": services(&servers), "routes": routes})
            .to_string()
    };
    let edge = stage.players();
    stage.control_plane.put_policy(&policy(json!([route("first", &json!([1]), "game-1")])));
    until_lands(edge, game(1, 1), Some("game-1"), Instant::now()).await;
    let (stop, stopped) = watch::channel(false);
    let player = GameClient::connect(edge).await.map_err(Failure::because("connect"))?;
    let playing = tokio::spawn(longest_exchange(player, stopped));

    let start = Instant::now();
    let (status, body) = stage.control_plane.put_policy_with("", &policy(ranges(&servers)));
    if !(200..300).contains(&status) {
        return Err(Failure::new(format!("the policy was refused with {status}: {body}")));
    }
    let took = until_lands(edge, game(ServerId::MAX_WORLD, 1), Some("game-4"), start).await;
    stop.send_replace(true);
    let longest = playing.await.map_err(Failure::because("the player"))?;
    let longest = longest.map_err(Failure::because("the player"))?;
    let size = stage.edge.filter_config().len();
    report.row("32,767 worlds by ranges: in force after", format!("{:.0} ms", ms(took)));
    report.row("its filter configuration", format!("{size} bytes"));
    report.row("longest echo of a live session meanwhile", format!("{:.1} ms", ms(longest)));
    Ok(())
}

/// Two thousand rules, each of one world with a cluster of its own.
pub(super) async fn by_rules(report: &mut Report) -> Result<(), Failure> {
    let net = TestNet::alone();
    let redis = Redis::start(net.dir(), net.at(port::REDIS))?;
    let servers = servers_speaking(Framing::Server, &net, 4, 0).await;
    redis.set(RULES_KEY, "{}");
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": {"enabled": true}});
    let mut stage = Stage::start(net, &settings)?;
    let before = resident_kib(stage.edge.process().pid())?;

    redis.set(RULES_KEY, &rules(&servers, RULES, |world| format!("world-{world}")));
    let start = Instant::now();
    redis.publish(RULES_NOTIFY, "reload");
    let took = until_lands(stage.game_gateway(), game(RULES, 1), Some("game-4"), start).await;
    let grown = resident_kib(stage.edge.process().pid())?.saturating_sub(before);
    let resident = resident_kib(stage.control_plane.process().pid())?;
    report.row("2,000 rules with a cluster each: in force after", format!("{:.0} ms", ms(took)));
    report.row("Envoy's memory grows by", format!("{} MiB", grown / 1024));
    report.row("which is for each cluster", format!("{} KiB", grown / u64::from(RULES)));
    report.row("memory of the control plane", format!("{} MiB", resident / 1024));
    Ok(())
}

/// Many more rules, whose clusters the edge has with their first player.
pub(super) async fn on_demand(report: &mut Report) -> Result<(), Failure> {
    let net = TestNet::alone();
    let redis = Redis::start(net.dir(), net.at(port::REDIS))?;
    let servers = servers_speaking(Framing::Server, &net, 4, 0).await;
    redis.set(RULES_KEY, "{}");
    let gateway = json!({"enabled": true, "clusters": "on_demand"});
    let mut stage = Stage::start(net, &json!({"redis": {"url": redis.url()}, "game_gateway": gateway}))?;
    let edge = stage.game_gateway();
    let before = resident_kib(stage.edge.process().pid())?;
    redis.set(RULES_KEY, &rules(&servers, ON_DEMAND, |_| "world".to_owned()));
    let start = Instant::now();
    redis.publish(RULES_NOTIFY, "reload");
    let took = until_lands(edge, game(ON_DEMAND, 1), Some("game-4"), start).await;
    let grown = resident_kib(stage.edge.process().pid())?.saturating_sub(before);
    let [mut first, mut later] = <[Samples; 2]>::default();
    for world in 1..=VISITED {
        for times in [&mut first, &mut later] {
            let start = Instant::now();
            lands(edge, game(world, 1)).await.map_err(Failure::because("a player"))?;
            times.push(ms(start.elapsed()));
        }
    }
    report.row("30,000 rules with a cluster each, on demand: in force after", format!("{:.0} ms", ms(took)));
    report.row("Envoy's memory grows by", format!("{:.1} MiB", grown as f64 / 1024.0));
    report.row("first player of a world: served after", format!("{} ms", first.spread(1)));
    report.row("the next one", format!("{} ms", later.spread(1)));
    Ok(())
}

/// Rules of so many worlds, each served by one of the servers in turn, with services of these names.
fn rules(servers: &[GameServer], worlds: u16, service: impl Fn(u16) -> String) -> String {
    let rules = (1..=worlds).zip(servers.iter().cycle()).map(|(world, server)| {
        let rule = json!({"server_type": 200, "service_name": service(world), "world_id": world,
            "strategy": "round_robin", "endpoints": [server.address().to_string()]});
        (world.to_string(), rule)
    });
    Value::Object(rules.collect::<Map<_, _>>()).to_string()
}

/// Exchanges frames at a player's pace until told to stop; the longest time that one took.
async fn longest_exchange(mut client: GameClient, stop: watch::Receiver<bool>) -> std::io::Result<Duration> {
    let frame = Frame::to_world(1, 1, "tick");
    // The first makes the connection to the game server.
    client.exchange(&frame).await?;
    let mut longest = Duration::ZERO;
    while !*stop.borrow() {
        let start = Instant::now();
        client.exchange(&frame).await?;
        longest = longest.max(start.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(longest)
}
