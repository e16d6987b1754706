//! An existing game-gateway fleet: its rules in Redis act at once and pick the endpoints that they picked.

use std::time::Instant;

use realmgate_filter::config::Framing;
use realmgate_tests::stage::port;
use realmgate_tests::{Frame, GameClient, GameServer, Redis, Stage, Stopwatch, TestNet, wait_until};
use realmgate_wire::ServerId;
use serde_json::{Value, json};

use crate::cast::{LIMIT, game, lands, servers_speaking, until_lands};

const RULES: &str = "game-gateway:routing:rules";
const RULES_NOTIFY: &str = "game-gateway:routing:rules:notify";
const REALMS: &str = "game-gateway:realm:mapping";
const REALMS_NOTIFY: &str = "game-gateway:realm:mapping:notify";

/// A fleet: game servers, Redis and the edge. They stop in this order, and their place goes last.
pub(crate) struct Fleet {
    pub(crate) servers: Vec<GameServer>,
    pub(crate) redis: Redis,
    pub(crate) stage: Stage,
}

impl Fleet {
    pub(crate) async fn start(net: TestNet) -> Self {
        let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
        redis.set(RULES, "{}");
        // As the servers of such a fleet do, and as rules mean unless told otherwise.
        let servers = servers_speaking(Framing::Server, &net, 3, 2).await;
        // Polls so seldom that only a notification can explain a quick change.
        let gateway = json!({"enabled": true, "refresh_interval": "1h"});
        let settings = json!({"redis": {"url": redis.url()}, "game_gateway": gateway});
        let stage = Stage::start(net, &settings).unwrap();
        Self { servers, redis, stage }
    }

    /// Writes the rules, tells, and gives the time of telling.
    pub(crate) fn publish(&self, rules: &[Value]) -> Instant {
        let rules: serde_json::Map<_, _> =
            (1..).map(|n: u32| n.to_string()).zip(rules.iter().cloned()).collect();
        self.redis.set(RULES, &Value::Object(rules).to_string());
        let start = Instant::now();
        self.redis.publish(RULES_NOTIFY, "reload");
        start
    }

    /// A rule to some of the servers.
    pub(crate) fn rule(
        &self,
        server_type: u8,
        world: Option<u16>,
        strategy: &str,
        servers: &[usize],
    ) -> Value {
        let endpoints: Vec<_> = servers.iter().map(|&n| self.servers[n].address().to_string()).collect();
        let mut rule = json!({"server_type": server_type, "service_name": "fleet", "strategy": strategy,
            "endpoints": endpoints});
        if let Some(world) = world {
            rule["world_id"] = world.into();
        }
        rule
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_rule_acts_on_the_next_connection() {
    let fleet = Fleet::start(TestNet::alone()).await;
    let edge = fleet.stage.game_gateway();
    let start = fleet.publish(&[fleet.rule(200, Some(7), "round_robin", &[0])]);
    until_lands(edge, game(7, 1), Some("game-1"), start).await;
    let mut live = GameClient::connect(edge).await.unwrap();
    assert_eq!(live.who_are_you(game(7, 1)).await.unwrap(), "game-1");

    let mut times = Vec::new();
    for round in 0..20 {
        let to = 1 + round % 2;
        let watch = Stopwatch::start();
        let start = fleet.publish(&[fleet.rule(200, Some(7), "round_robin", &[to])]);
        until_lands(edge, game(7, 1), Some(fleet.servers[to].name()), start).await;
        times.push(watch.undisturbed());
        assert_eq!(live.who_are_you(game(7, 1)).await.unwrap(), "game-1", "a live connection was moved");
    }
    times.sort();
    println!("rule to next connection: median {:?}, slowest {:?}", times[10], times[19]);
    assert!(times[10].as_millis() < 200, "{times:?}");

    let start = fleet.publish(&[]);
    until_lands(edge, game(7, 1), None, start).await;
    assert_eq!(
        live.who_are_you(game(7, 1)).await.unwrap(),
        "game-1",
        "removing a rule ended a live connection"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strategies_pick_what_the_old_gateway_picked() {
    let fleet = Fleet::start(TestNet::new()).await;
    let edge = fleet.stage.game_gateway();
    let start = fleet.publish(&[
        fleet.rule(10, None, "round_robin", &[0, 1, 2]),
        fleet.rule(15, None, "consistent_hash", &[0, 1, 2]),
        fleet.rule(200, None, "realm_based", &[0, 1, 2]),
    ]);
    until_lands(edge, game(1, 1), Some("game-2"), start).await;

    // The old gateway's picks of three endpoints for instances 1 to 10.
    let hash = [2, 1, 1, 1, 1, 1, 0, 2, 0, 0];
    let realm = [1, 1, 1, 2, 0, 1, 1, 1, 0, 1];
    for (instance, (hash, realm)) in (1..).zip(hash.into_iter().zip(realm)) {
        let by_hash = lands(edge, ServerId::new(15, 1, instance, false)).await.unwrap();
        let by_realm = lands(edge, game(1, instance)).await.unwrap();
        assert_eq!(
            (&*by_hash, &*by_realm),
            (fleet.servers[hash].name(), fleet.servers[realm].name()),
            "{instance}"
        );
    }
    // Without an instance to hash, both take turns like round_robin.
    for server_type in [10, 15, 200] {
        let before: Vec<_> = fleet.servers.iter().map(GameServer::total).collect();
        for _ in 0..9 {
            lands(edge, ServerId::new(server_type, 1, 0, false)).await.unwrap();
        }
        for (server, before) in fleet.servers.iter().zip(before) {
            assert_eq!(server.total() - before, 3, "type {server_type}, {}", server.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_rules_rank_above_realms_and_realms_above_rules_for_any_world() {
    let fleet = Fleet::start(TestNet::new()).await;
    let edge = fleet.stage.game_gateway();
    let realm = fleet.servers[1].address().to_string();
    fleet.redis.hset(REALMS, "5", &realm);
    fleet.redis.hset(REALMS, "6", &realm);
    fleet.redis.publish(REALMS_NOTIFY, "reload");
    let any = fleet.rule(200, None, "round_robin", &[0]);
    let start = fleet.publish(&[any, fleet.rule(200, Some(5), "round_robin", &[2])]);
    until_lands(edge, game(5, 1), Some("game-3"), start).await;
    until_lands(edge, game(6, 1), Some("game-2"), start).await;
    until_lands(edge, game(9, 1), Some("game-1"), start).await;

    fleet.redis.hdel(REALMS, "6");
    let start = Instant::now();
    fleet.redis.publish(REALMS_NOTIFY, "reload");
    until_lands(edge, game(6, 1), Some("game-1"), start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_or_a_lost_redis_takes_no_route_away() {
    let mut fleet = Fleet::start(TestNet::new()).await;
    let edge = fleet.stage.game_gateway();
    let rule = fleet.rule(200, Some(7), "round_robin", &[0]);
    let start = fleet.publish(std::slice::from_ref(&rule));
    until_lands(edge, game(7, 1), Some("game-1"), start).await;

    fleet.redis.del(RULES);
    fleet.redis.publish(RULES_NOTIFY, "reload");
    let degraded = |fleet: &Fleet| fleet.stage.control_plane.readyz().1.contains("degraded");
    wait_until("the missing key is reported", LIMIT, || degraded(&fleet));
    assert_eq!(lands(edge, game(7, 1)).await.unwrap(), "game-1");

    fleet.publish(&[rule]);
    wait_until("all is well again", LIMIT, || !degraded(&fleet));
    fleet.redis.kill9();
    wait_until("the lost Redis is reported", LIMIT, || degraded(&fleet));
    assert_eq!(lands(edge, game(7, 1)).await.unwrap(), "game-1");

    // Rules that changed meanwhile act without a notification, since none was heard.
    fleet.redis.restart().unwrap();
    let moved = json!({"1": fleet.rule(200, Some(7), "round_robin", &[1])});
    let start = Instant::now();
    fleet.redis.set(RULES, &moved.to_string());
    until_lands(edge, game(7, 1), Some("game-2"), start).await;
    let mut client = GameClient::connect(edge).await.unwrap();
    let frame = Frame::to_world(7, 3, "still unchanged");
    let answer = Frame { server_id: ServerId(0), ..frame.clone() };
    assert_eq!(client.exchange(&frame).await.unwrap(), answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_rule_is_named_and_spoils_no_other() {
    let fleet = Fleet::start(TestNet::new()).await;
    let edge = fleet.stage.game_gateway();
    let good = [1, 2].map(|world| fleet.rule(200, Some(world), "round_robin", &[0]));
    let start = fleet.publish(&good);
    until_lands(edge, game(1, 1), Some("game-1"), start).await;

    let mixed = [fleet.rule(200, Some(1), "fastest", &[1]), fleet.rule(200, Some(2), "round_robin", &[1])];
    let start = fleet.publish(&mixed);
    until_lands(edge, game(2, 1), Some("game-2"), start).await;
    assert_eq!(lands(edge, game(1, 1)).await.unwrap(), "game-1", "the last good version of the bad rule");
    let (status, ready) = fleet.stage.control_plane.readyz();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let refused = &ready["game_gateway"]["refused"][0];
    assert_eq!((status, &refused["reason"]), (200, &json!("unknown_strategy")));
    assert!(!refused["key"].as_str().unwrap().is_empty(), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("fastest"), "{refused}");
    let (_, metrics) = fleet.stage.control_plane.get("/metrics");
    let count = "realmgate_gateway_rule_refusals_total{reason=\"unknown_strategy\"} 1";
    assert!(metrics.contains(count), "{metrics}");
}
