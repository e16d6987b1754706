//! What a Redis holds and sends takes no memory of the control plane.

use std::fs;
use std::time::{Duration, Instant};

use realmgate_tests::stage::port;
use realmgate_tests::{Redis, Stage, TestNet, wait_until};
use serde_json::json;

const LIMIT: Duration = Duration::from_mins(1);
const LARGE: usize = 200 << 20;
const FLOOD: Duration = Duration::from_secs(20);

/// The most that it may need for refusing one and draining the other.
const MOST_MIB: u64 = 32;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn a_value_of_200_mb_and_a_flood_of_notifications_take_no_memory() {
    let net = TestNet::new();
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    let (rules, mapping) = ("game-gateway:routing:rules", "game-gateway:realm:mapping");
    redis.set(rules, "{}");
    redis.hset(mapping, "7", "10.0.0.7:1");
    let gateway = json!({"enabled": true, "refresh_interval": "1s"});
    let settings = json!({"redis": {"url": redis.url()}, "game_gateway": gateway});
    let control_plane = Stage::control_plane(&net, &settings).unwrap();
    wait_until("it is ready", LIMIT, || control_plane.readyz().0 == 200);
    let before = peak_mib(control_plane.pid());

    let fill = format!("return redis.call('HSET', KEYS[1], '8', string.rep('x', {LARGE}))");
    redis.command::<i64>(&["EVAL", &fill, "1", mapping]);
    let refused = format!("address: {LARGE} bytes");
    wait_until("it is refused", LIMIT, || control_plane.readyz().1.contains(&refused));

    let payload = "x".repeat(10_000);
    let channel = format!("{rules}:notify");
    let end = Instant::now() + FLOOD;
    let publish = format!("for _ = 1, 1000 do redis.call('PUBLISH', '{channel}', ARGV[1]) end return 1");
    while Instant::now() < end {
        redis.command::<i64>(&["EVAL", &publish, "0", &payload]);
    }
    redis.hset(mapping, "9", "10.0.0.9:1");
    wait_until("it follows", LIMIT, || control_plane.readyz().1.contains("\"rules\":2"));
    let grown = peak_mib(control_plane.pid()) - before;
    println!("peak memory grew from {before} by {grown} MiB");
    assert!(grown < MOST_MIB, "by {grown} MiB");
}

/// The most memory that a process has had so far, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}
