//! The old gateway's rules, followed on a real Redis that changes, fails and comes back.

// Clippy's own exception for tests does not reach the functions that tests share.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod bounds;
mod fake;
mod rights;
mod server;
mod tls;

use std::fs;
use std::path::Path;
use std::time::Duration;

use prometheus::{Registry, TextEncoder};
use realmgate_control_plane::source::Health;
use realmgate_control_plane::source::gateway_rules::{
    GatewayRules, GatewayRulesConfig, GatewayRulesSource, RedisTlsFiles, StartError,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

use server::{PASSWORD, RedisServer};

const RULES: &str = "game-gateway:routing:rules";
const RULES_NOTIFY: &str = "game-gateway:routing:rules:notify";
const MAPPING: &str = "game-gateway:realm:mapping";
const MAPPING_NOTIFY: &str = "game-gateway:realm:mapping:notify";

/// Longer than any test: whatever happens comes by notification.
const NEVER: Duration = Duration::from_hours(1);
const OFTEN: Duration = Duration::from_millis(100);

struct Scene {
    redis: RedisServer,
    directory: TempDir,
    registry: Registry,
}

impl Scene {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With a Redis that is started with these arguments.
    fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let redis = RedisServer::start(directory.path(), arguments);
        Self { redis, directory, registry: Registry::new() }
    }

    fn data_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// Starts a source with metrics of its own, as a restarted process has.
    fn start(&mut self, refresh_interval: Duration) -> GatewayRulesSource {
        let url = self.redis.url();
        self.start_at(&url, RedisTlsFiles::default(), refresh_interval)
    }

    /// The same at a URL of the test's own.
    fn start_at(&mut self, url: &str, tls: RedisTlsFiles, refresh_interval: Duration) -> GatewayRulesSource {
        self.registry = Registry::new();
        let config = GatewayRulesConfig {
            url: url.to_owned().into(),
            tls,
            key_prefix: "game-gateway:".to_owned(),
            refresh_interval,
            data_dir: self.data_dir(),
        };
        assert!(!format!("{config:?}").contains(PASSWORD));
        GatewayRulesSource::start(&config, &self.registry).unwrap()
    }

    async fn write(&self, document: &str) {
        let () = self.redis.command(&["SET", RULES, document]).await;
    }

    async fn notify(&self, channel: &str) {
        let subscribers: i64 = self.redis.command(&["PUBLISH", channel, "any payload"]).await;
        assert_eq!(subscribers, 1);
    }

    fn metric(&self, line: &str) -> f64 {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }
}

/// A document of good rules: key and host, of server type `key`.
fn rules(entries: &[(u8, &str)]) -> String {
    let rule = |(key, host): &(u8, &str)| {
        format!(
            r#""{key}":{{"server_type":{key},"service_name":"s","strategy":"round_robin","endpoints":["{host}:1"]}}"#
        )
    };
    format!("{{{}}}", entries.iter().map(rule).collect::<Vec<_>>().join(","))
}

fn served(rules: &GatewayRules) -> Vec<(String, String)> {
    rules.rules.iter().map(|rule| (rule.key.clone(), rule.endpoints[0].host().to_owned())).collect()
}

fn pairs(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    entries.iter().map(|(key, host)| ((*key).to_owned(), (*host).to_owned())).collect()
}

/// Waits until the value is as wanted and gives it.
async fn until<T: Clone + std::fmt::Debug>(
    receiver: &mut watch::Receiver<T>,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    match timeout(Duration::from_secs(20), receiver.wait_for(wanted)).await {
        Ok(value) => return value.unwrap().clone(),
        Err(_elapsed) => {}
    }
    panic!("still {:?}", receiver.borrow())
}

async fn until_served(source: &GatewayRulesSource, entries: &[(&str, &str)]) {
    until(&mut source.rules(), |rules| served(rules) == pairs(entries)).await;
}

async fn until_ok(source: &GatewayRulesSource) {
    until(&mut source.health(), |health| *health == Health::Ok).await;
}

/// Waits until the source says why it cannot start.
async fn until_trouble(source: &GatewayRulesSource, words: &str) {
    let trouble = until(&mut source.trouble(), |trouble| trouble.contains(words)).await;
    assert!(!trouble.contains(PASSWORD), "{trouble}");
    assert_eq!(*source.health().borrow(), Health::Starting);
}

async fn until_degraded(source: &GatewayRulesSource, words: &str) {
    let mut health = source.health();
    let degraded = |health: &Health| matches!(health, Health::Degraded { reason } if reason.contains(words));
    let health = until(&mut health, degraded).await;
    let Health::Degraded { reason } = health else { unreachable!() };
    assert!(!reason.contains(PASSWORD), "{reason}");
}

#[tokio::test]
async fn a_notification_reloads() {
    let mut scene = Scene::new();
    scene.write(&rules(&[(10, "a")])).await;
    let source = scene.start(NEVER);
    assert_eq!(*source.health().borrow(), Health::Starting);
    until_served(&source, &[("10", "a")]).await;
    until_ok(&source).await;

    scene.write(&rules(&[(10, "b"), (15, "c")])).await;
    scene.notify(RULES_NOTIFY).await;
    until_served(&source, &[("10", "b"), ("15", "c")]).await;

    let _: i64 = scene.redis.command(&["HSET", MAPPING, "7", "d:1"]).await;
    scene.notify(MAPPING_NOTIFY).await;
    until_served(&source, &[("10", "b"), ("15", "c"), ("7", "d")]).await;

    // Its last field takes the hash with it, and its rules.
    let _: i64 = scene.redis.command(&["HDEL", MAPPING, "7"]).await;
    scene.notify(MAPPING_NOTIFY).await;
    until_served(&source, &[("10", "b"), ("15", "c")]).await;
    assert_eq!(*source.health().borrow(), Health::Ok);
    assert!((scene.metric("realmgate_gateway_rules ") - 2.0).abs() < f64::EPSILON);
    assert!((scene.metric("realmgate_redis_connected ") - 1.0).abs() < f64::EPSILON);
    source.stop().await;
}

#[tokio::test]
async fn many_notifications_are_one_reading() {
    let mut scene = Scene::new();
    let source = scene.start(NEVER);
    until_ok(&source).await;
    let document = rules(&[(10, "a")]);
    let client = redis::Client::open(scene.redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut burst = redis::pipe();
    for _ in 0..1000 {
        burst.cmd("PUBLISH").arg(RULES_NOTIFY).arg("x").ignore();
    }
    burst.cmd("SET").arg(RULES).arg(&document).ignore().cmd("PUBLISH").arg(RULES_NOTIFY).arg("x").ignore();
    let () = burst.query_async(&mut connection).await.unwrap();
    until_served(&source, &[("10", "a")]).await;
    let readings = scene.metric("realmgate_config_refresh_success_total{config_type=\"routing_rules\"}");
    assert!(readings < 10.0, "{readings} readings");
}

#[tokio::test]
async fn a_change_without_notification_is_seen_at_the_next_refresh() {
    let mut scene = Scene::new();
    scene.write(&rules(&[(10, "a"), (15, "b")])).await;
    let source = scene.start(OFTEN);
    until_served(&source, &[("10", "a"), ("15", "b")]).await;
    scene.write(&rules(&[(15, "b")])).await;
    until_served(&source, &[("15", "b")]).await;
}

#[tokio::test]
async fn a_missing_key_keeps_and_an_empty_object_removes() {
    let mut scene = Scene::new();
    let source = scene.start(OFTEN);
    until_ok(&source).await;
    scene.write(&rules(&[(10, "a")])).await;
    until_served(&source, &[("10", "a")]).await;

    let () = scene.redis.command(&["FLUSHALL"]).await;
    until_degraded(&source, "`routing:rules` is missing").await;
    until_served(&source, &[("10", "a")]).await;

    scene.write("{}").await;
    until_served(&source, &[]).await;
    until_ok(&source).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_counted_once() {
    let mut scene = Scene::new();
    scene.write(&rules(&[(10, "a"), (15, "b")])).await;
    let source = scene.start(OFTEN);
    until_served(&source, &[("10", "a"), ("15", "b")]).await;

    scene.write(&rules(&[(10, "not an address"), (15, "c")])).await;
    until_served(&source, &[("10", "a"), ("15", "c")]).await;
    let refused = source.rules().borrow().refused.clone();
    assert_eq!((refused[0].key.as_str(), refused[0].reason.as_str()), ("10", "bad_endpoint"));
    assert!(refused[0].last_good_served);
    until_ok(&source).await;
    let readings = "realmgate_config_refresh_success_total{config_type=\"routing_rules\"}";
    let before = scene.metric(readings);
    while scene.metric(readings) < before + 3.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((scene.metric("realmgate_gateway_rules_refused{origin=\"routing_rules\"}") - 1.0).abs() < 0.1);
    assert!(
        (scene.metric("realmgate_gateway_rule_refusals_total{reason=\"bad_endpoint\"}") - 1.0).abs() < 0.1
    );

    scene.write("{garbage").await;
    until_degraded(&source, "`routing:rules` cannot be used").await;
    until_served(&source, &[("10", "a"), ("15", "c")]).await;

    let _: i64 = scene.redis.command(&["DEL", RULES]).await;
    let _: i64 = scene.redis.command(&["RPUSH", RULES, "x"]).await;
    until_degraded(&source, "a Redis list, not a string").await;
    until_served(&source, &[("10", "a"), ("15", "c")]).await;
    assert!(scene.metric("realmgate_config_refresh_errors_total{config_type=\"routing_rules\"}") >= 1.0);
}

#[tokio::test]
async fn the_documented_rules_are_served() {
    let document = include_str!("../../../docs/game-gateway.md");
    let (_, example) = document.split_once("```json\n").unwrap();
    let mut scene = Scene::new();
    scene.write(example.split_once("```").unwrap().0).await;
    let source = scene.start(OFTEN);
    until_ok(&source).await;
    let rules = source.rules().borrow().clone();
    assert_eq!(rules.refused, []);
    let read: Vec<_> =
        rules.rules.iter().map(|rule| (rule.server_type, rule.world, &*rule.service)).collect();
    assert_eq!(read, [(10, None, "account"), (200, Some(7), "game")]);
}

#[tokio::test]
async fn a_killed_redis_is_outlived() {
    let mut scene = Scene::new();
    scene.write(&rules(&[(10, "a")])).await;
    let source = scene.start(NEVER);
    until_served(&source, &[("10", "a")]).await;
    until_ok(&source).await;

    scene.redis.kill();
    until_degraded(&source, "the last 1 good rules are served").await;
    until_served(&source, &[("10", "a")]).await;
    assert!(scene.metric("realmgate_redis_connected ").abs() < f64::EPSILON);

    // It comes back empty, as a replacement does, and nothing is wiped.
    scene.redis.restart();
    until_degraded(&source, "`routing:rules` is missing").await;
    until_served(&source, &[("10", "a")]).await;
    scene.write(&rules(&[(10, "b")])).await;
    scene.notify(RULES_NOTIFY).await;
    until_served(&source, &[("10", "b")]).await;
    until_ok(&source).await;
}

#[tokio::test]
async fn a_hung_redis_hangs_nothing() {
    let mut scene = Scene::new();
    scene.write(&rules(&[(10, "a")])).await;
    let source = scene.start(OFTEN);
    until_served(&source, &[("10", "a")]).await;
    until_ok(&source).await;

    scene.redis.hang();
    until_degraded(&source, "no answer to").await;
    scene.redis.go_on();
    until_ok(&source).await;

    scene.redis.hang();
    until_degraded(&source, "no answer to").await;
    timeout(Duration::from_secs(1), source.stop()).await.expect("stops while it waits");
    scene.redis.go_on();
}

#[tokio::test]
async fn a_restart_without_redis_serves_the_snapshot() {
    let mut scene = Scene::new();
    scene.write(&rules(&[(10, "a")])).await;
    let source = scene.start(OFTEN);
    until_served(&source, &[("10", "a")]).await;
    until_file(&scene.data_dir(), "\"a:1\"").await;
    source.stop().await;

    scene.redis.kill();
    let source = scene.start(OFTEN);
    assert_eq!(served(&source.rules().borrow()), pairs(&[("10", "a")]), "served at once");
    until_degraded(&source, "the last 1 good rules are served").await;

    // A bad rule keeps the good version of the last run.
    scene.redis.restart();
    scene.write(&rules(&[(10, "bad host"), (15, "b")])).await;
    until_served(&source, &[("10", "a"), ("15", "b")]).await;
    until_file(&scene.data_dir(), "\"b:1\"").await;
    source.stop().await;

    scene.redis.kill();
    fs::write(scene.data_dir().join("gateway-rules.json"), "{").unwrap();
    let source = scene.start(OFTEN);
    assert_eq!(served(&source.rules().borrow()), []);
    assert!(scene.data_dir().join("gateway-rules.json.corrupt").exists());
    assert_eq!(*source.health().borrow(), Health::Starting, "nothing is known");
}

async fn until_file(data_dir: &Path, words: &str) {
    let found = async {
        while !fs::read_to_string(data_dir.join("gateway-rules.json")).is_ok_and(|text| text.contains(words))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), found).await.expect("the snapshot is written");
}

#[tokio::test]
async fn dropping_the_source_ends_its_connections() {
    let mut scene = Scene::new();
    let source = scene.start(NEVER);
    until_ok(&source).await;
    let mut rules = source.rules();
    drop(source);
    let closed = async { while rules.changed().await.is_ok() {} };
    timeout(Duration::from_secs(5), closed).await.expect("the task has ended");
    let subscribers = async {
        loop {
            let (_, count): (String, i64) = scene.redis.command(&["PUBSUB", "NUMSUB", RULES_NOTIFY]).await;
            if count == 0 {
                break;
            }
        }
    };
    timeout(Duration::from_secs(5), subscribers).await.expect("unsubscribed");
}

#[tokio::test]
async fn a_bad_url_is_refused_without_repeating_it() {
    let directory = tempfile::tempdir().unwrap();
    for url in ["nonsense", "http://:s3cret@host", "redis://:s3cret@host:99999999"] {
        let config = GatewayRulesConfig {
            url: url.to_owned().into(),
            tls: RedisTlsFiles::default(),
            key_prefix: String::new(),
            refresh_interval: OFTEN,
            data_dir: directory.path().to_owned(),
        };
        let error = GatewayRulesSource::start(&config, &Registry::new()).unwrap_err();
        assert!(matches!(error, StartError::Url(_)));
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
