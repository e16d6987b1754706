//! What Consul has to say of where players go, and what its own troubles must not say.

use std::time::Duration;

use realmgate_tests::consul::TwoDatacenters;
use realmgate_tests::stage::port;
use realmgate_tests::{ControlPlane, Stage, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{come, until_all_land};
use crate::cast::{LIMIT, servers};
use crate::consul::{control_plane, policy};

/// Whether Consul tells all, and these are all datacenters and whether each is heard.
fn is_heard(control_plane: &ControlPlane, state: &str, datacenters: &Value) -> bool {
    let ready: Value = serde_json::from_str(&control_plane.readyz().1).unwrap();
    ready["consul"]["state"] == state && ready["consul"]["datacenters"] == *datacenters
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_moves_when_consul_starts_again() {
    const AFTER: Duration = Duration::from_millis(1500);
    let net = TestNet::new();
    let mut both = TwoDatacenters::start(net.dir(), None).unwrap();
    let servers = servers(&net, 2, 0).await;
    for (consul, server) in [&both.aws, &both.azure].into_iter().zip(&servers) {
        consul.register_afar("battle", server.name(), server.address());
    }
    let control_plane = control_plane(&net, &both.aws);
    let fail_back = json!({"after": format!("{}ms", AFTER.as_millis()), "over": 0});
    let failover = json!({"targets": [{"datacenter": "azure"}], "fail_back": fail_back});
    control_plane.put_policy(&policy(&net, &json!({"consul": {"service": "battle"}, "failover": failover})));
    let edge = Stage::edge(&net, &control_plane).unwrap();
    let players = net.at(port::PLAYERS);
    wait_until("both are well", LIMIT, || edge.stat("cluster.game.membership_healthy") == 2);
    until_all_land(players, "game-1").await;

    // All the time players come, and none may be sent to azure.
    let (stop, stopped) = watch::channel(false);
    let coming = tokio::spawn(come(players, stopped));
    both.aws.kill9();
    let lost = json!({"aws": false, "azure": false});
    wait_until("that Consul is lost is told", LIMIT, || is_heard(&control_plane, "degraded", &lost));
    both.aws.restart().unwrap();
    // It would find azure by itself, after half a minute.
    let azure = both.azure.http_address().ip();
    both.aws.put(&format!("/v1/agent/join/{azure}?wan=1"), &Value::Null);
    let heard = json!({"aws": true, "azure": true});
    wait_until("all is heard again", 2 * LIMIT, || is_heard(&control_plane, "ok", &heard));
    // For as long as players of a target that comes back would have to wait.
    sleep(AFTER).await;
    stop.send_replace(true);
    assert_eq!(coming.await.unwrap(), ["game-1".to_owned()].into());
}
