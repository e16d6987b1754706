//! The wire scenarios through a real Envoy, with the filter in a static bootstrap.
//!
//! The hash key is not seen here (`edges` shows what load balancers make of it), nor is a change of the
//! configuration, which a static bootstrap does not have (`live_sessions` and `edges` change it).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use realmgate_tests::scenario::{Before, Expect, Scenario, Step, corpus, session};
use realmgate_tests::stage::port;
use realmgate_tests::{Envoy, TestNet, load_scenarios, parts, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::cast::LIMIT;

/// Scenarios tell seconds; a fifth of them shows the same, timeouts included.
const FASTER: u64 = 5;

/// What has reached the backends, by connection.
type Received = Arc<Mutex<Vec<Backend>>>;

/// One connection to a backend.
struct Backend {
    cluster: String,
    /// The bytes so far.
    bytes: Vec<u8>,
    /// What it is to say.
    reply: mpsc::UnboundedSender<Vec<u8>>,
}

/// A backend that keeps what it gets and says what it is told.
async fn backend(cluster: String, address: SocketAddr, received: Received) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (received, cluster) = (Arc::clone(&received), cluster.clone());
            stream.set_nodelay(true).unwrap();
            let (mut stream, writer) = stream.into_split();
            let (reply, replies) = mpsc::unbounded_channel();
            let talking = tokio::spawn(talk(writer, replies));
            tokio::spawn(async move {
                let index = {
                    let mut received = received.lock().unwrap();
                    received.push(Backend { cluster, bytes: Vec::new(), reply });
                    received.len() - 1
                };
                let mut buffer = vec![0; 65_536];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received.lock().unwrap()[index].bytes.extend_from_slice(&buffer[..count]);
                }
                // Its client has left, so it does, too.
                talking.abort();
            });
        }
    });
}

async fn talk(mut writer: OwnedWriteHalf, mut replies: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(reply) = replies.recv().await {
        let _ = writer.write_all(&reply).await;
        // Long enough for Envoy to take it before the next piece.
        sleep(Duration::from_millis(2)).await;
    }
}

fn bootstrap(net: &TestNet, config: &Value, clusters: &BTreeMap<String, SocketAddr>) -> String {
    let mut config = config.clone();
    let timeout = config.get("header_timeout_ms").and_then(Value::as_u64).unwrap_or(5000);
    if let Some(fields) = config.as_object_mut().filter(|fields| !fields.contains_key("rotues")) {
        fields.insert("header_timeout_ms".to_owned(), (timeout / FASTER).into());
    }
    let address =
        |a: &SocketAddr| json!({"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}});
    let cluster = |(name, at): (&String, &SocketAddr)| {
        let endpoint = json!({"endpoint": {"address": address(at)}});
        json!({"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}})
    };
    let wasm = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
        "config": {
            "name": "scenario",
            "vm_config": {"runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": parts::FILTER.find().unwrap()}}},
            "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config.to_string()},
        },
    });
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "scenario",
        "cluster": "none",
        "max_early_data_bytes": 65_543,
        "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
    });
    let filters =
        json!([{"name": "realmgate", "typed_config": wasm}, {"name": "tcp", "typed_config": proxy}]);
    json!({
        "static_resources": {
            "listeners": [{"name": "scenario", "address": address(&net.at(port::PLAYERS)),
                "filter_chains": [{"filters": filters}]}],
            "clusters": clusters.iter().map(cluster).collect::<Vec<_>>(),
        },
    })
    .to_string()
}

/// The bytes as told, each piece by itself; a connection that the filter has closed takes no more.
async fn act(client: &mut TcpStream, steps: &[Step], backend: usize, received: &Received) {
    for step in steps {
        match step {
            Step::Send(bytes) => {
                let _ = client.write_all(bytes).await;
                // Long enough for Envoy to take it before the next piece.
                sleep(Duration::from_millis(2)).await;
            }
            Step::Reply(bytes) => {
                wait_until("there is a backend to reply", LIMIT, || received.lock().unwrap().len() > backend);
                // A backend that the filter has cut off has nobody to talk to.
                let _ = received.lock().unwrap()[backend].reply.send(bytes.clone());
                sleep(Duration::from_millis(2)).await;
            }
            Step::EndStream => client.shutdown().await.unwrap_or_default(),
            Step::WaitMs(ms) => sleep(Duration::from_millis(u64::from(*ms) / FASTER)).await,
            Step::Configure(_) | Step::ConfigureBad(_) => panic!("left out"),
        }
    }
}

/// The connections that came before and are still there.
async fn play_before(scenario: &Scenario, edge: SocketAddr, envoy: &Envoy) -> Vec<TcpStream> {
    let mut others = Vec::new();
    for before in &scenario.before {
        match *before {
            Before::Open(count) => {
                for _ in 0..count {
                    others.push(TcpStream::connect(edge).await.unwrap());
                }
            }
            Before::Close(count) => drop(others.drain(..count as usize)),
            Before::WaitMs(ms) => {
                sleep(Duration::from_millis(u64::from(ms) / FASTER)).await;
                continue;
            }
        }
        let count = others.len() as u64;
        wait_until(&format!("{}: {count} others", scenario.name), LIMIT, || {
            stat(envoy, "connections_awaiting_header") == count
        });
    }
    others
}

/// The filter's counters and gauges, by the part of the name behind `realmgate_`.
fn stat(envoy: &Envoy, name: &str) -> u64 {
    envoy.stat(&format!("wasmcustom.realmgate_{name}"))
}

/// What counts the scenario's end.
fn counter(expect: &Expect) -> String {
    match expect {
        Expect::Routed { closed: None, .. } => "connections_routed_total".to_owned(),
        Expect::Routed { closed: Some(reason), .. } => format!("sessions_closed_{reason}_total"),
        Expect::Closed(reason) if reason == "client_gone" => "connections_client_gone_total".to_owned(),
        Expect::Closed(reason) => format!("connections_refused_{reason}_total"),
        Expect::Waiting => "connections_awaiting_header".to_owned(),
        Expect::ConfigRefused(_) => panic!("left out"),
    }
}

/// Plays one scenario and checks what came of it.
async fn play(scenario: &Scenario, edge: SocketAddr, envoy: &Envoy, received: &Received) {
    let name = &scenario.name;
    let counter = counter(&scenario.expect);
    let others = play_before(scenario, edge, envoy).await;
    let before = stat(envoy, &counter);
    let connections = received.lock().unwrap().len();
    let mut client = TcpStream::connect(edge).await.unwrap();
    client.set_nodelay(true).unwrap();
    act(&mut client, &scenario.steps, connections, received).await;
    wait_until(&format!("{name}: {counter} counts it"), LIMIT, || stat(envoy, &counter) == before + 1);
    match &scenario.expect {
        Expect::Routed { clusters, closed, .. } => {
            let expected = scenario.expected_at_backend();
            wait_until(&format!("{name}: all bytes reach their backend"), LIMIT, || {
                let received = received.lock().unwrap();
                received.get(connections).is_some_and(|backend| backend.bytes.len() >= expected.len())
            });
            let mut came = vec![0; scenario.expected_at_client().len()];
            timeout(LIMIT, client.read_exact(&mut came)).await.expect("all bytes reach the client").unwrap();
            if closed.is_none() {
                // Its backend closes when it does, so what comes until then is all.
                client.shutdown().await.unwrap();
            }
            timeout(LIMIT, client.read_to_end(&mut came))
                .await
                .expect("the session ends")
                .unwrap_or_default();
            let received = received.lock().unwrap();
            let backend = &received[connections];
            assert!(clusters.contains(&backend.cluster), "{name}: went to {}", backend.cluster);
            let same = session::compare(&expected, &backend.bytes)
                .and_then(|()| session::compare(&scenario.expected_at_client(), &came));
            assert!(same.is_ok(), "{name}: {same:?}");
        }
        Expect::Closed(_) => {
            let end = timeout(LIMIT, client.read(&mut [0])).await.expect("the connection is closed");
            assert!(matches!(end, Ok(0) | Err(_)), "{name}: {end:?}");
        }
        Expect::Waiting | Expect::ConfigRefused(_) => {}
    }
    let more = usize::from(matches!(scenario.expect, Expect::Routed { .. }));
    assert_eq!(received.lock().unwrap().len(), connections + more, "{name}: connections to backends");
    drop((client, others));
    wait_until(&format!("{name}: nothing is left behind"), LIMIT, || {
        stat(envoy, "connections_awaiting_header") == 0 && stat(envoy, "sessions_active") == 0
    });
}

/// Why a scenario cannot be played here, if so.
fn left_out(scenario: &Scenario) -> Option<&'static str> {
    let changes = |step: &Step| matches!(step, Step::Configure(_) | Step::ConfigureBad(_));
    if scenario.needs_source() {
        Some("its client address cannot be chosen here")
    } else if scenario.steps.iter().any(changes) {
        Some("a static bootstrap does not change")
    } else {
        None
    }
}

/// Plays all of one configuration after another, each configuration in an Envoy of its own.
async fn play_all(scenarios: impl IntoIterator<Item = Scenario>) -> usize {
    let net = TestNet::alone();
    let mut by_config: BTreeMap<String, Vec<Scenario>> = BTreeMap::new();
    for scenario in scenarios {
        match left_out(&scenario) {
            Some(reason) => println!("left out: {}: {reason}", scenario.name),
            None => by_config.entry(scenario.config.to_string()).or_default().push(scenario),
        }
    }
    let mut free_port = port::GAME;
    let mut played = 0;
    for (number, scenarios) in by_config.values().enumerate() {
        let names: BTreeSet<_> = scenarios
            .iter()
            .filter_map(|scenario| match &scenario.expect {
                Expect::Routed { clusters, .. } => Some(clusters.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        let received = Received::default();
        let mut clusters = BTreeMap::new();
        for name in names {
            let address = net.at(free_port);
            free_port += 1;
            backend(name.clone(), address, Arc::clone(&received)).await;
            clusters.insert(name, address);
        }
        let text = bootstrap(&net, &scenarios[0].config, &clusters);
        let envoy = Envoy::with(net.dir(), text, net.at(port::ADMIN)).name(&format!("scenario-{number}"));
        if let Expect::ConfigRefused(why) = &scenarios[0].expect {
            let refusal = envoy.start().expect_err("a bad configuration is refused").to_string();
            assert!(refusal.contains(&format!("configuration refused: {why}")), "{why}: {refusal}");
            played += 1;
            continue;
        }
        let envoy = envoy.start().unwrap();
        for scenario in scenarios {
            play(scenario, net.at(port::PLAYERS), &envoy, &received).await;
            played += 1;
        }
    }
    println!("{played} scenarios in Envoy");
    played
}

#[tokio::test(flavor = "multi_thread")]
async fn scenarios_hold_in_envoy() {
    let played = play_all(load_scenarios().unwrap()).await;
    assert!(played > 50, "only {played} scenarios");
}

/// A sample of what the built module is held against natively.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_comes_envoy_does_what_the_core_does() {
    // Of a session that is cut off, Envoy drops what is on its way: how much, only chance knows.
    let has_one_end = |scenario: &Scenario| {
        let cut_off = matches!(scenario.expect, Expect::Routed { closed: Some(_), .. });
        !cut_off || scenario.steps.len() == 1
    };
    let corpus = (0..2).flat_map(|seed| corpus(seed, 30).unwrap());
    let played = play_all(corpus.filter(has_one_end)).await;
    assert!(played > 40, "only {played} scenarios");
}
