//! How fast a change acts: from the request that makes it to the first new connection that goes elsewhere.

use std::time::Instant;

use serde_json::{Value, json};

use super::ms;
use super::report::{Report, Samples};
use super::worlds::{RULES_KEY, RULES_NOTIFY};
use crate::cast::{game, route, servers, servers_speaking, services, until_lands};
use crate::stage::port;
use crate::{Failure, GameServer, Redis, Stage, TestNet};
use realmgate_filter::config::Framing;

/// Of each kind.
const CHANGES: usize = 20;

pub(super) async fn run(report: &mut Report) -> Result<(), Failure> {
    let row = |name: &str, times: &Samples| {
        println!("{name}: {} ms", times.spread(1));
        vec![name.to_owned(), times.spread(1)]
    };
    let policy = row("policy, `PUT /v1/policy`", &policies().await?);
    let rules = row("game-gateway rule, Redis notification", &rules().await?);
    report.change = vec![policy, rules];
    Ok(())
}

async fn policies() -> Result<Samples, Failure> {
    let stage = Stage::start(TestNet::alone(), &json!({}))?;
    let servers = servers(&stage.net, 2, 0).await;
    let policy = |to: &str| {
        json!({"listeners": stage.listener(&json!({})), "services": services(&servers),
            "routes": [route("world", &json!([7]), to)]})
        .to_string()
    };
    stage.control_plane.put_policy(&policy("game-1"));
    until_lands(stage.players(), game(7, 1), Some("game-1"), Instant::now()).await;
    let mut times = Samples::default();
    for server in servers.iter().rev().cycle().take(CHANGES) {
        let start = Instant::now();
        let (status, body) = stage.control_plane.put_policy_with("", &policy(server.name()));
        if !(200..300).contains(&status) {
            return Err(Failure::new(format!("the policy was refused with {status}: {body}")));
        }
        times.push(ms(until_lands(stage.players(), game(7, 1), Some(server.name()), start).await));
    }
    Ok(times)
}

async fn rules() -> Result<Samples, Failure> {
    let net = TestNet::alone();
    let redis = Redis::start(net.dir(), net.at(port::REDIS))?;
    let servers = servers_speaking(Framing::Server, &net, 2, 0).await;
    let rule = |server: &GameServer| -> Value {
        json!({"1": {"server_type": 200, "service_name": "fleet", "world_id": 7,
            "strategy": "round_robin", "endpoints": [server.address().to_string()]}})
    };
    redis.set(RULES_KEY, "{}");
    // Polls so seldom that only a notification can explain a quick change.
    let gateway = json!({"enabled": true, "refresh_interval": "1h"});
    let stage = Stage::start(net, &json!({"redis": {"url": redis.url()}, "game_gateway": gateway}))?;
    let mut times = Samples::default();
    // The first makes the listener and is not counted.
    for (number, server) in servers.iter().cycle().take(CHANGES + 1).enumerate() {
        redis.set(RULES_KEY, &rule(server).to_string());
        let start = Instant::now();
        redis.publish(RULES_NOTIFY, "reload");
        let took = until_lands(stage.game_gateway(), game(7, 1), Some(server.name()), start).await;
        if number > 0 {
            times.push(ms(took));
        }
    }
    Ok(times)
}
