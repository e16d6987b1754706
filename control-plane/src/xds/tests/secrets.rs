//! Secrets: by name alone, before what names them, and never to be seen.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::loopback::{Fixture, SOON};
use super::*;
use crate::xds::{ListenerConfig, SyncState};

pub(super) fn with(wanted: &Arc<Snapshot>, secrets: &[&str]) -> Arc<Snapshot> {
    let secrets = set(secrets).iter().map(|secret| Resource::clone(secret)).collect::<Vec<_>>();
    Arc::new(Snapshot::clone(wanted).with_secrets(ResourceSet::on_demand(secrets)))
}

fn one_of_each(version: u8) -> Arc<Snapshot> {
    let [cluster, endpoints, listener, extension] =
        ["a", "a", "l", "x"].map(|name| format!("{name}@{version}"));
    snapshot(&[&cluster], &[&endpoints], &[&listener], &[&extension])
}

/// A proxy whose cluster and listener name the secrets `leaf` and `roots`.
fn started(variant: Variant) -> Proxy {
    let wanted = with(&one_of_each(1), &["leaf@1", "roots@1"]);
    let mut proxy = Proxy::new(variant, &wanted);
    let clusters = proxy.ask(Cluster, &[]);
    let endpoints = proxy.ask(Endpoints, &["a"]);
    assert!(proxy.ask(Listener, &[]).is_empty(), "the cluster is not there yet");
    let secrets = proxy.ask(Secret, &["leaf", "roots"]);
    assert_eq!(trace(&secrets), ["sds: leaf@1 roots@1"]);
    let came = proxy.settle([clusters, endpoints, secrets].concat());
    assert_eq!(trace(&came[3..]), ["lds: l@1"]);
    let filter = proxy.ask(Extension, &["x"]);
    proxy.settle(filter);
    assert_eq!(proxy.stream.sync(), SyncState::Synced);
    proxy
}

#[test]
fn a_secret_comes_before_what_names_it() {
    for variant in BOTH {
        let mut proxy = started(variant);
        let came = proxy.want(&with(&one_of_each(2), &["leaf@2", "roots@1"]));
        let trace = trace(&proxy.settle(came));
        assert_eq!(trace, ["sds: leaf@2", "cds: a@2", "eds: a@2", "lds: l@2", "ecds: x@2"]);
    }
}

#[test]
fn a_secret_that_is_renewed_disturbs_nothing_else() {
    for variant in BOTH {
        let mut proxy = started(variant);
        let came = proxy.want(&with(&one_of_each(1), &["leaf@2", "roots@2"]));
        assert_eq!(trace(&proxy.settle(came)), ["sds: leaf@2 roots@2"]);
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}

#[test]
fn a_refused_secret_is_not_sent_again_and_holds_listeners_at_their_last_good_version() {
    for variant in BOTH {
        let mut proxy = started(variant);
        let came = proxy.want(&with(&one_of_each(1), &["leaf@2", "roots@1"]));
        assert!(proxy.answer(&came[0], Some("leaf: bad")).is_empty());
        assert_eq!(proxy.stream.sync(), SyncState::Rejecting);
        let came = proxy.want(&with(&one_of_each(2), &["leaf@2", "roots@1"]));
        assert_eq!(trace(&proxy.settle(came)), ["cds: a@2", "eds: a@2"]);
        let came = proxy.want(&with(&one_of_each(2), &["leaf@3", "roots@1"]));
        assert_eq!(trace(&proxy.settle(came)), ["sds: leaf@3", "lds: l@2", "ecds: x@2"]);
    }
}

#[test]
fn nobody_gets_secrets_that_it_does_not_name() {
    for variant in BOTH {
        let mut proxy = Proxy::new(variant, &with(&one_of_each(1), &["leaf@1", "roots@1"]));
        assert_eq!(trace(&proxy.ask(Secret, &["roots"])), ["sds: roots@1"]);
        let everything = trace(&proxy.ask(Secret, &["*"]));
        assert!(everything.iter().all(|response| !response.contains("leaf")), "{everything:?}");
        let named = trace(&proxy.ask(Secret, &["leaf"]));
        assert!(named.concat().contains("leaf@1"), "{named:?}");
    }
}

#[test]
fn a_secret_that_is_gone_is_not_taken_away_and_comes_back() {
    for variant in BOTH {
        let mut proxy = started(variant);
        assert!(proxy.want(&with(&one_of_each(1), &["roots@1"])).is_empty());
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        let came = proxy.want(&with(&one_of_each(1), &["leaf@2", "roots@1"]));
        assert_eq!(trace(&proxy.settle(came)), ["sds: leaf@2"]);
    }
}

#[test]
fn s11_a_secret_that_is_not_there_yet_is_answered_and_comes_later() {
    let mut proxy = Proxy::new(Variant::Delta, &one_of_each(1));
    let came = proxy.ask(Secret, &["leaf"]);
    assert_eq!(trace(&came), ["sds: -leaf"]);
    proxy.settle(came);
    assert_eq!(trace(&proxy.want(&with(&one_of_each(1), &["leaf@1"]))), ["sds: leaf@1"]);
}

#[test]
fn the_debug_form_of_a_resource_shows_no_content() {
    let secret = Resource::encoded(Secret.url(), "leaf".into(), "1".into(), b"PRIVATE");
    let shown = format!("{secret:?}");
    assert!(shown.contains("leaf") && !shown.contains(&format!("{:?}", b"PRIVATE".as_slice())), "{shown}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn s26_the_service_of_secrets_alone_serves_both_variants() {
    let wanted = with(&one_of_each(1), &["leaf@1", "roots@1"]);
    let fixture = Fixture::with(ListenerConfig::default(), wanted).await;
    let mut client = SecretDiscoveryServiceClient::connect(fixture.url.clone()).await.unwrap();
    let node = Some(Node { id: "edge-1".to_owned(), ..Node::default() });
    let leaf = vec!["leaf".to_owned()];

    let (requests, outgoing) = mpsc::channel(1);
    let delta = client.delta_secrets(ReceiverStream::new(outgoing)).await;
    let request = pb::DeltaDiscoveryRequest {
        node: node.clone(),
        resource_names_subscribe: leaf.clone(),
        ..pb::DeltaDiscoveryRequest::default()
    };
    requests.send(request).await.unwrap();
    let mut responses = delta.unwrap().into_inner();
    let response = timeout(SOON, responses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(response.type_url, Secret.url());
    assert_eq!(response.resources.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["leaf"]);

    let (requests, outgoing) = mpsc::channel(1);
    let sotw = client.stream_secrets(ReceiverStream::new(outgoing)).await;
    let request = pb::DiscoveryRequest { node, resource_names: leaf, ..pb::DiscoveryRequest::default() };
    requests.send(request).await.unwrap();
    let mut responses = sotw.unwrap().into_inner();
    let response = timeout(SOON, responses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(response.type_url, Secret.url());
    assert_eq!(
        response.resources.iter().map(|secret| secret.value.as_slice()).collect::<Vec<_>>(),
        [b"leaf@1"]
    );
}
