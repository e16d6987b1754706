//! However much Redis holds or sends, no more of it is read than can be served.

use std::time::{Duration, Instant};

use realmgate_control_plane::source::gateway_rules::RedisTlsFiles;

use super::fake::{FakeRedis, Then};
use super::rights::{least_rights, user};
use super::{MAPPING, NEVER, OFTEN, RULES, Scene, rules, until_degraded, until_served, until_trouble};

const LARGE: usize = 64 << 20;

#[tokio::test]
async fn what_is_too_large_is_named_and_never_fetched() {
    let mut scene = Scene::new();
    let without_memory: Vec<_> =
        least_rights().into_iter().filter(|right| !right.starts_with("+memory")).collect();
    user(&scene, "least", &least_rights()).await;
    user(&scene, "blind", &without_memory).await;
    let fill = format!("return redis.call('HSET', KEYS[1], '8', string.rep('x', {LARGE}))");
    for name in ["least", "blind"] {
        scene.write(&rules(&[(10, "a")])).await;
        let _: i64 = scene.redis.command(&["DEL", MAPPING]).await;
        let _: i64 = scene.redis.command(&["HSET", MAPPING, "7", "d:1", "8", "e:1"]).await;
        let source = scene.start_at(&scene.redis.url_of(name), RedisTlsFiles::default(), OFTEN);
        until_served(&source, &[("10", "a"), ("7", "d"), ("8", "e")]).await;
        let before = scene.redis.sent().await;

        // A value of the mapping costs its own entry alone, whose last good version stays.
        let _: i64 = scene.redis.command(&["EVAL", &fill, "1", MAPPING]).await;
        let _: i64 = scene.redis.command(&["HSET", MAPPING, "9", "f:1"]).await;
        until_served(&source, &[("10", "a"), ("7", "d"), ("8", "e"), ("9", "f")]).await;
        let refused = source.rules().borrow().refused.clone();
        assert_eq!((refused.len(), refused[0].key.as_str()), (1, "8"), "{refused:?}");
        assert_eq!(refused[0].detail, format!("address: {LARGE} bytes, more than 300"));

        // A document counts as a whole.
        let _: i64 = scene.redis.command(&["SETRANGE", RULES, &(LARGE - 1).to_string(), "x"]).await;
        until_degraded(&source, &format!("`routing:rules` cannot be used (the document: {LARGE} bytes"))
            .await;
        until_served(&source, &[("10", "a"), ("7", "d"), ("8", "e"), ("9", "f")]).await;
        let sent = scene.redis.sent().await - before;
        assert!(sent < 1 << 20, "Redis sent {sent} bytes");
        source.stop().await;
    }
}

#[tokio::test]
async fn a_flood_of_notifications_is_drained_and_is_one() {
    // Each of these comes while the first reading waits for an answer, or after it; none is kept.
    let redis = FakeRedis::start(Then::Flood(LARGE)).await;
    let start = Instant::now();
    let mut scene = Scene::new();
    let source = scene.start_at(&redis.url(), RedisTlsFiles::default(), NEVER);
    super::until(&mut redis.flooded(), |sent| *sent >= LARGE).await;
    // Two readings are 20 ms apart at least.
    let most = start.elapsed().as_millis() / 20 + 2;
    assert!(redis.asked() as u128 <= most, "{} readings, not {most}", redis.asked());
    source.stop().await;
}

#[tokio::test]
async fn an_answer_without_an_end_ends_the_connection() {
    let redis = FakeRedis::start(Then::EndlessLine).await;
    let mut scene = Scene::new();
    let source = scene.start_at(&redis.url(), RedisTlsFiles::default(), OFTEN);
    until_trouble(&source, "it sent more than 65536 bytes in answer to TYPE").await;
    super::until(&mut redis.cut(), |cut| *cut > 1).await;
    tokio::time::timeout(Duration::from_secs(5), source.stop()).await.expect("it stops");
}
