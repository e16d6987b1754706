//! Runtime layers: by name alone, waiting for nothing and holding nothing up.

use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::runtime::v3::runtime_discovery_service_client::RuntimeDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::loopback::{Fixture, next, node};
use super::*;
use crate::xds::SyncState;

fn with(wanted: &Arc<Snapshot>, layer: &str) -> Arc<Snapshot> {
    let layers = set(&[layer]).iter().map(|layer| Resource::clone(layer)).collect::<Vec<_>>();
    Arc::new(Snapshot::clone(wanted).with_runtime(ResourceSet::on_demand(layers)))
}

#[test]
fn a_layer_comes_first_and_a_refused_one_holds_nothing_up() {
    for variant in BOTH {
        let wanted = |version: u8| {
            let [a, x] = ["a", "x"].map(|name| format!("{name}@{version}"));
            with(&snapshot(&[&a], &[&a], &["l@1"], &[&x]), &format!("layer@{version}"))
        };
        let mut proxy = Proxy::new(variant, &wanted(1));
        // Envoy asks for its runtime before anything else.
        let came = proxy.ask(Runtime, &["layer"]);
        assert_eq!(trace(&came), ["rtds: layer@1"]);
        proxy.settle(came);
        assert_eq!(proxy.stream.sync(), SyncState::Pending, "it has asked for no cluster yet");
        let came = [proxy.ask(Cluster, &[]), proxy.ask(Endpoints, &["a"])].concat();
        proxy.settle(came);
        for (kind, names) in [(Listener, &[][..]), (Extension, &["x"])] {
            let came = proxy.ask(kind, names);
            proxy.settle(came);
        }
        assert_eq!(proxy.stream.sync(), SyncState::Synced);

        let came = proxy.want(&wanted(2));
        assert_eq!(trace(&came)[0], "rtds: layer@2");
        assert!(proxy.answer(&came[0], Some("layer: bad")).is_empty());
        let came = proxy.settle(came[1..].to_vec());
        assert_eq!(trace(&came), ["cds: a@2", "eds: a@2", "ecds: x@2"]);
        assert_eq!(proxy.stream.sync(), SyncState::Rejecting);
    }
}

#[test]
fn nobody_gets_a_layer_that_it_does_not_name() {
    for variant in BOTH {
        let mut proxy = Proxy::new(variant, &with(&snapshot(&[], &[], &[], &[]), "layer@1"));
        let came = trace(&proxy.ask(Runtime, &["*"]));
        assert!(came.iter().all(|response| !response.contains("layer")), "{came:?}");
    }
    // An older bootstrap names none: nothing is pending because of that.
    let mut proxy = Proxy::new(Variant::Delta, &with(&snapshot(&[], &[], &[], &[]), "layer@1"));
    let came = proxy.ask(Cluster, &[]);
    proxy.settle(came);
    assert_eq!(proxy.stream.sync(), SyncState::Synced);
}

#[tokio::test]
async fn s26_the_service_of_layers_alone_serves_both_variants() {
    let fixture = Fixture::new(with(&snapshot(&[], &[], &[], &[]), "layer@1")).await;
    let mut client = RuntimeDiscoveryServiceClient::connect(fixture.url.clone()).await.unwrap();
    let names = vec!["layer".to_owned()];

    let (requests, outgoing) = mpsc::channel(1);
    let delta = client.delta_runtime(ReceiverStream::new(outgoing)).await;
    let (node, resource_names_subscribe) = (Some(node(&[])), names.clone());
    let request =
        pb::DeltaDiscoveryRequest { node: node.clone(), resource_names_subscribe, ..Default::default() };
    requests.send(request).await.unwrap();
    let response = next(&mut delta.unwrap().into_inner()).await;
    assert_eq!((response.type_url.as_str(), response.resources.len()), (Runtime.url(), 1));

    let (requests, outgoing) = mpsc::channel(1);
    let sotw = client.stream_runtime(ReceiverStream::new(outgoing)).await;
    let request = pb::DiscoveryRequest { node, resource_names: names, ..Default::default() };
    requests.send(request).await.unwrap();
    let response = next(&mut sotw.unwrap().into_inner()).await;
    assert_eq!((response.type_url.as_str(), response.resources.len()), (Runtime.url(), 1));
}
