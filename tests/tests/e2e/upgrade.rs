//! Proxies move between replicas of this build, which touches no listener. Between two builds: `make prove`.

use realmgate_tests::parts;
use realmgate_tests::upgrade::{Replica, moves_no_listener};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_move_between_replicas_keep_their_listeners() {
    let build = parts::REALMGATE.find().unwrap();
    let replica = |settings| Replica { build: &build, settings };
    for (version, variant) in [(None, "delta"), (Some("1.37"), "sotw")] {
        // What is none of a listener's business may differ while a fleet's settings are changed one by one.
        let other = json!({"xds": {"max_connections": 500}, "log": {"format": "json"}});
        moves_no_listener(version, variant, [replica(json!({})), replica(other)]).await;
    }
}
