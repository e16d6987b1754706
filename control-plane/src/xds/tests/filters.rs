//! Filters that need code: tried again as another payload, and the word that all of them are in force.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::network::wasm::v3::Wasm;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use super::*;
use crate::xds::SyncState;

const REFUSAL: &str = "Unable to create Wasm plugin x";

/// A filter of the listener `plugin` that needs code.
fn filter(plugin: &str, version: &str) -> Arc<Resource> {
    let value = version.as_bytes().to_vec();
    let value = Message::encode_to_vec(&Part { value });
    let config = Any { type_url: Wasm::type_url(), value };
    let name = format!("realmgate/{plugin}");
    let extension = TypedExtensionConfig { name: name.clone(), typed_config: Some(config) };
    let body = extension.encode_to_vec();
    Arc::new(Resource::encoded(Extension.url(), name.into(), version.into(), &body).with_code(version))
}

/// A field that no plugin has, so that versions differ.
#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(bytes = "vec", tag = "99")]
    value: Vec<u8>,
}

/// A snapshot with these filters, one that needs no code, and the word that waits for all of them.
fn wanted(filters: &[(&str, &str)], ready: &str) -> Arc<Snapshot> {
    let others = set(&["realmgate/x/connections@1"]);
    let word = Resource::encoded(Extension.url(), "ready".into(), ready.into(), ready.as_bytes()).last();
    let filters = filters.iter().map(|(plugin, version)| filter(plugin, version));
    let extensions = filters.chain(others.iter().cloned()).chain([Arc::new(word)]);
    Arc::new(Snapshot::new(set(&["a@1"]), set(&["a@1"]), set(&["l@1"]), ResourceSet::new(extensions)))
}

const NAMES: [&str; 3] = ["ready", "realmgate/x", "realmgate/x/connections"];

/// A proxy that has asked for everything, and what of its filters it was sent.
fn started(variant: Variant, wanted: &Arc<Snapshot>, names: &[&str]) -> (Proxy, Vec<Response>) {
    let mut proxy = Proxy::new(variant, wanted);
    let clusters = proxy.ask(Cluster, &[]);
    let mut came = proxy.ask(Endpoints, &["a"]);
    came.extend(clusters);
    proxy.settle(came);
    let came = proxy.ask(Listener, &[]);
    proxy.settle(came);
    let came = proxy.ask(Extension, names);
    (proxy, came)
}

fn payload(responses: &[Response], name: &str) -> Option<Vec<u8>> {
    let resources = responses.iter().flat_map(|response| &response.resources);
    resources.into_iter().find(|resource| &**resource.name() == name).map(|resource| resource.body().to_vec())
}

#[test]
fn s19_code_that_could_not_be_loaded_is_tried_again_each_time_as_another_payload() {
    for variant in BOTH {
        let snapshot = wanted(&[("x", "1")], "yes");
        let (mut proxy, mut came) = started(variant, &snapshot, &NAMES);
        let mut payloads = std::collections::BTreeSet::new();
        let mut waited = Duration::ZERO;
        for attempt in 0..12 {
            let response =
                came.iter().find(|r| r.resources.iter().any(|r| &**r.name() == NAMES[1])).unwrap().clone();
            assert!(payloads.insert(payload(&came, NAMES[1]).unwrap()), "attempt {attempt} is one of before");
            let others = proxy.answer(&response, Some(REFUSAL));
            assert_eq!(payload(&others, NAMES[1]), None, "at once");
            assert_eq!(payload(&others, "ready"), None);
            proxy.settle(others);
            let early = proxy.stream.sync() == SyncState::Pending;
            assert_eq!(early, attempt < 6, "attempt {attempt}: {:?}", proxy.stream.sync());
            let next = proxy.stream.deadline(proxy.now).expect("there is another attempt") - proxy.now;
            assert!(next <= Duration::from_secs(5), "{next:?}");
            waited += next;
            came = proxy.wait(next);
            assert!(proxy.stream.of(Extension).refusal(NAMES[1]).is_some(), "on its way, and not in force");
        }
        assert!(waited > Duration::from_secs(20), "{waited:?}");
        let came = proxy.settle(came);
        assert!(came.iter().all(|response| *response.version == **snapshot.of(Extension).version()));
        assert!(payload(&came, "ready").is_some(), "{:?}", trace(&came));
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
        assert_eq!(proxy.stream.deadline(proxy.now), None);
    }
}

#[test]
fn one_that_is_refused_for_good_is_no_reason_to_suspect_its_neighbours() {
    for (variant, words) in BOTH.into_iter().flat_map(|v| [(v, REFUSAL), (v, "Invalid path: /f")]) {
        let (mut proxy, came) = started(variant, &wanted(&[("x", "1")], "yes"), &NAMES);
        let mut queue = came;
        // The proxy refuses every response that has the filter in it, until the third attempt.
        let mut refusals = 0;
        for _ in 0..20 {
            let Some(response) = queue.pop() else {
                let next = proxy.stream.deadline(proxy.now).map(|at| at - proxy.now);
                let Some(next) = next else { break };
                queue = proxy.wait(next);
                continue;
            };
            let bad = refusals < 3 && response.resources.iter().any(|r| &**r.name() == NAMES[1]);
            refusals += u32::from(bad);
            queue.extend(proxy.answer(&response, bad.then_some(words)));
        }
        assert!(proxy.stream.of(Extension).rejected.is_empty(), "{words}");
        assert_eq!(proxy.stream.sync(), SyncState::Synced, "{words}");
    }
}

#[test]
fn that_all_is_in_force_is_said_last_and_not_taken_back() {
    for variant in BOTH {
        let names = [&NAMES[..], &["realmgate/y"]].concat();
        let (mut proxy, came) = started(variant, &wanted(&[("x", "1"), ("y", "1")], "yes"), &names);
        assert_eq!(payload(&came, "ready"), None);
        let after = proxy.settle(came);
        let last = after.last().unwrap();
        assert!(payload(std::slice::from_ref(last), "ready").is_some(), "{:?}", trace(&after));

        // A new version is refused: what is said stays said, and is renewed.
        let came = proxy.want(&wanted(&[("x", "2"), ("y", "1")], "still"));
        let words = came.iter().find(|response| payload(std::slice::from_ref(response), "ready").is_some());
        assert!(words.is_some(), "who has a last good filter is told at once");
        for response in &came {
            let bad = response.resources.iter().any(|r| &**r.name() == NAMES[1]);
            let came = proxy.answer(response, bad.then_some(REFUSAL));
            proxy.settle(came);
        }
        assert!(proxy.stream.of(Extension).rejected.contains_key(NAMES[1]));

        // A filter that it never had holds back what is new.
        let came = proxy.want(&wanted(&[("x", "1"), ("y", "1"), ("z", "1")], "all three"));
        assert_eq!(payload(&came, "ready"), None, "z was not even asked for");
        proxy.settle(came);
        let came = proxy.ask(Extension, &["realmgate/z"]);
        assert_eq!(payload(&came, "ready"), None);
        assert!(payload(&proxy.settle(came), "ready").is_some());
    }
}

#[test]
fn a_listener_that_was_never_taken_is_not_in_force() {
    let (mut proxy, came) = started(Variant::Delta, &wanted(&[("x", "1")], "yes"), &NAMES);
    proxy.settle(came);
    let with = |listeners: &[&str], ready: &str| {
        let now = wanted(&[("x", "1")], ready);
        let listeners = Arc::new(set(listeners));
        Arc::new(Snapshot::new(
            set(&["a@1"]),
            set(&["a@1"]),
            listeners,
            ResourceSet::new(now.of(Extension).iter().cloned()),
        ))
    };
    let came = proxy.want(&with(&["l@1", "m@1"], "yes"));
    for response in came {
        proxy.answer(&response, Some("m: address in use"));
    }
    assert!(proxy.want(&with(&["l@1", "m@1"], "other")).is_empty());
    let came = proxy.want(&with(&["l@1"], "other"));
    assert!(payload(&came, "ready").is_some());
}

#[test]
fn who_comes_back_may_have_refused_the_same_before() {
    let snapshot = wanted(&[("x", "2")], "yes");
    let plain = filter("x", "2").body().to_vec();
    for (claims, is_plain) in [(&[][..], true), (&[("a", "1")], false)] {
        let mut proxy = Proxy::new(Variant::Delta, &snapshot);
        let came = proxy.send(Cluster, "", None, again(&[], claims));
        proxy.settle(came);
        let came = proxy.send(Extension, "", None, again(&NAMES, &[]));
        let came = [came, proxy.wait(Duration::from_secs(3))].concat();
        assert_eq!(payload(&came, NAMES[1]).unwrap() == plain, is_plain, "{claims:?}");
        proxy.settle(came);
        // From here on we know what it has.
        let came = proxy.want(&wanted(&[("x", "3")], "yes"));
        assert_eq!(payload(&came, NAMES[1]).unwrap(), filter("x", "3").body());
    }
    // What it claims to have is what it has.
    let mut proxy = Proxy::new(Variant::Delta, &snapshot);
    let came = proxy.send(Cluster, "", None, again(&[], &[("a", "1")]));
    proxy.settle(came);
    let came = proxy.send(Extension, "", None, again(&NAMES, &[(NAMES[1], "2")]));
    let came = [came, proxy.wait(Duration::from_secs(3))].concat();
    assert_eq!(payload(&came, NAMES[1]), None);
    assert!(payload(&came, "ready").is_some());
}

#[test]
fn while_there_are_no_filters_those_in_force_keep_their_clusters_and_nobody_is_in_sync() {
    for variant in BOTH {
        let mut proxy = Proxy::started(variant, &snapshot(&["a@1"], &["a@1"], &["l@1"], &["x@1-a"]));
        let lacking = snapshot(&["b@1"], &["b@1"], &["l@1"], &[]);
        let lacking = Arc::new(Snapshot::clone(&lacking).lacking_filters(true));
        let came = proxy.want(&lacking);
        let mut all = proxy.settle(came);
        let came = proxy.ask(Endpoints, &["b"]);
        all.extend(proxy.settle(came));
        all.extend(proxy.wait(Duration::from_secs(3)));
        let has_a = |response: &Response| {
            response.kind != Cluster
                || !response.removed.iter().any(|name| &**name == "a")
                    && (variant == Variant::Delta || response.resources.iter().any(|r| &**r.name() == "a"))
        };
        assert!(all.iter().all(has_a), "{:?}", trace(&all));
        assert_eq!(proxy.stream.sync(), SyncState::Pending);
        assert!(proxy.stream.reached().is_none());

        let came = proxy.want(&snapshot(&["b@1"], &["b@1"], &["l@1"], &["x@2-b"]));
        let mut came = proxy.settle(came);
        let wait = proxy.wait(Duration::from_secs(3));
        came.extend(proxy.settle(wait));
        assert_eq!(came.first().map(|response| response.kind), Some(Extension), "{:?}", trace(&came));
        assert!(came.iter().skip(1).any(|response| response.kind == Cluster), "{:?}", trace(&came));
        assert_eq!(proxy.stream.sync(), SyncState::Synced);
    }
}
