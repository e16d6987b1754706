//! Who may do less than all: what is served then, and what is said.

use realmgate_control_plane::source::Health;
use realmgate_control_plane::source::gateway_rules::RedisTlsFiles;

use super::server::PASSWORD;
use super::{OFTEN, RULES, Scene, rules, until_degraded, until_ok, until_served, until_trouble};

/// The least rights, as docs/game-gateway.md has them.
pub(crate) fn least_rights() -> Vec<String> {
    let docs = include_str!("../../../docs/game-gateway.md");
    let line = docs.lines().find_map(|line| line.trim().strip_prefix("ACL SETUSER realmgate on >PASSWORD "));
    line.expect("docs/game-gateway.md has the least rights").split(' ').map(str::to_owned).collect()
}

/// Makes a user with these rights.
pub(crate) async fn user(scene: &Scene, name: &str, rights: &[String]) {
    let password = format!(">{PASSWORD}");
    let mut words = vec!["ACL", "SETUSER", name, "reset", "on", &password];
    words.extend(rights.iter().map(String::as_str));
    let () = scene.redis.command(&words).await;
}

#[tokio::test]
async fn the_least_rights_are_enough() {
    let mut scene = Scene::new();
    user(&scene, "least", &least_rights()).await;
    scene.write(&rules(&[(10, "a")])).await;
    let _: i64 = scene.redis.command(&["HSET", super::MAPPING, "7", "d:1"]).await;
    let source = scene.start_at(&scene.redis.url_of("least"), RedisTlsFiles::default(), super::NEVER);
    until_served(&source, &[("10", "a"), ("7", "d")]).await;
    until_ok(&source).await;
    scene.write(&rules(&[(10, "b")])).await;
    scene.notify(super::RULES_NOTIFY).await;
    until_served(&source, &[("10", "b"), ("7", "d")]).await;
}

#[tokio::test]
async fn without_the_right_to_subscribe_rules_are_polled() {
    let mut scene = Scene::new();
    let rights: Vec<_> = least_rights().into_iter().filter(|right| !right.starts_with('&')).collect();
    user(&scene, "quiet", &rights).await;
    scene.write(&rules(&[(10, "a")])).await;
    let source = scene.start_at(&scene.redis.url_of("quiet"), RedisTlsFiles::default(), OFTEN);
    until_served(&source, &[("10", "a")]).await;
    until_degraded(&source, "Redis refuses the subscription: ").await;
    let Health::Degraded { reason } = source.health().borrow().clone() else { panic!() };
    assert!(reason.contains("no permissions") && reason.contains("every 0.1 s"), "{reason}");
    assert!(scene.metric("realmgate_redis_subscribed ").abs() < f64::EPSILON);
    assert!((scene.metric("realmgate_redis_connected ") - 1.0).abs() < f64::EPSILON);
    scene.write(&rules(&[(10, "b")])).await;
    until_served(&source, &[("10", "b")]).await;
}

#[tokio::test]
async fn every_start_says_why_it_waits() {
    let mut scene = Scene::new();
    let right = scene.redis.url();
    let source = scene.start_at(&right.replace(PASSWORD, "wrong"), RedisTlsFiles::default(), OFTEN);
    until_trouble(&source, "check user and password in redis.url").await;
    source.stop().await;

    let none = ["~*".to_owned(), "&*".to_owned(), "+subscribe".to_owned(), "+ping".to_owned()];
    user(&scene, "nobody", &none).await;
    let source = scene.start_at(&scene.redis.url_of("nobody"), RedisTlsFiles::default(), OFTEN);
    until_trouble(&source, "docs/game-gateway.md has the least that are needed").await;
    source.stop().await;

    // Nothing is known of any rule, so nothing is said to be served.
    let _: i64 = scene.redis.command(&["RPUSH", RULES, "x"]).await;
    let source = scene.start(OFTEN);
    until_degraded(&source, "no good rules of it are known").await;
    source.stop().await;

    let mut cluster = Scene::with(&["--cluster-enabled", "yes"]);
    let source = cluster.start(OFTEN);
    until_trouble(&source, "this is a Redis Cluster").await;
}
