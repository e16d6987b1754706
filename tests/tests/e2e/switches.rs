//! What changes under live players without a listener: the bound of connections by ECDS, switches by RTDS.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::runtime::v3::Runtime;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use realmgate_control_plane::compile::RUNTIME_LAYER;
use realmgate_control_plane::xds::{Resource, ResourceSet};
use realmgate_tests::stage::port;
use realmgate_tests::{TestNet, wait_until};
use tokio::time::sleep;

use crate::cast::{LIMIT, game, servers, until_lands};
use crate::slots::{Served, edge, players};

const VERSIONS: [Option<&str>; 4] = [None, Some("1.37"), Some("1.38"), Some("1.39")];
const LISTENERS: &str = "listener_manager.lds.update_success";

/// The layer with this switch at this percentage.
fn layer(switch: &str, percent: f64) -> ResourceSet {
    let value = Value { kind: Some(Kind::NumberValue(percent)) };
    let layer = Some(Struct { fields: HashMap::from([(switch.to_owned(), value)]) });
    ResourceSet::on_demand([Resource::new(RUNTIME_LAYER, &Runtime { name: RUNTIME_LAYER.to_owned(), layer })])
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_told_while_rtds_says_so() {
    for version in VERSIONS {
        let net = TestNet::new();
        let backend = servers(&net, 1, 0).await.remove(0);
        let (at, snapshot) = (net.at(port::PLAYERS), edge(&net, version, &backend, 0));
        let served = Served::start(&net, version, "edge", snapshot.clone()).await;
        until_lands(at, game(1, 1), Some(backend.name()), Instant::now()).await;
        let lives = players(at, 1).await;
        let listeners = served.proxy.stat(LISTENERS);
        // Of which one is that of xDS. Each worker has one for what it tells, and opens it anew while nobody takes that.
        let streams = || served.proxy.stat("cluster.realmgate-control-plane.upstream_rq_total");
        assert_eq!(streams(), 1, "{version:?}");

        served.serve(snapshot.clone().with_runtime(layer("realmgate.connection_log", 100.0)));
        wait_until("the switch is on", LIMIT, || served.proxy.stat("runtime.num_keys") == 1);
        drop(players(at, 1).await);
        wait_until("the connection is told", LIMIT, || streams() > 1);
        served.serve(snapshot);
        wait_until("the switch is off", LIMIT, || served.proxy.stat("runtime.num_keys") == 0);
        // What was collected before, which Envoy does each second.
        let mut before = u64::MAX;
        while streams() != before {
            before = streams();
            sleep(Duration::from_millis(1_200)).await;
        }
        drop(players(at, 5).await);
        sleep(Duration::from_millis(1_200)).await;
        assert_eq!(streams(), before, "{version:?}");
        assert_eq!(served.proxy.stat(LISTENERS), listeners, "{version:?}: a listener was touched");
        assert_eq!(backend.live(), lives.len(), "{version:?}: a session ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_connections_under_an_old_bound_are_not_those_of_the_new_one() {
    for version in VERSIONS {
        let net = TestNet::new();
        let backend = servers(&net, 1, 0).await.remove(0);
        let at = net.at(port::PLAYERS);
        let served = Served::start(&net, version, "edge", edge(&net, version, &backend, 5)).await;
        until_lands(at, game(1, 1), Some(backend.name()), Instant::now()).await;
        served.holds("edge", 0);
        let old = players(at, 20).await;
        assert_eq!(old.len(), 5);

        served.serve(edge(&net, version, &backend, 2));
        // The new bound counts from 0, and refuses nobody until its own are too many.
        let mut new = Vec::new();
        wait_until("the new bound is in force", LIMIT, || {
            let came =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(players(at, 1)));
            new.extend(came);
            !new.is_empty()
        });
        new.extend(players(at, 20).await);
        assert_eq!(new.len(), 2, "{version:?}");
        drop(old);
        served.holds("edge", 2);
        assert!(players(at, 20).await.is_empty(), "{version:?}: the old ones' ends made room for more");
        drop(new);
        served.holds("edge", 0);
        assert_eq!(players(at, 20).await.len(), 2, "{version:?}");
    }
}
