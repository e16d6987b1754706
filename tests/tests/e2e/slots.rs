//! A listener whose filters are missing or refused: Envoy cuts such a chain off, and must find something that closes there.
//! Whatever slot it is, connections are closed at once and counted, nothing counts below zero, and the filter heals it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::google::protobuf::Any;
use realmgate_control_plane::compile::compile;
use realmgate_control_plane::mesh::identity::Leaf;
use realmgate_control_plane::mesh::{FilterModule, Identities, Intentions, Mesh, ModuleLocation, Unheard};
use realmgate_control_plane::model::parse;
use realmgate_control_plane::xds::{
    AdsServer, Listener, ListenerConfig, Ports, Registry, Resource, ResourceSet, ResourceType, Role, Scope,
    Snapshot, SnapshotSource, TooManyScopes,
};
use realmgate_tests::stage::port;
use realmgate_tests::{Envoy, GameClient, GameServer, Stopwatch, TestNet, parts, wait_until};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cast::{LIMIT, game, route, servers, services, until_lands};

/// Connections of [`edge`]'s listener.
const MOST: u64 = 3;
const INBOUND: u16 = 7_500;
const CLOSED: &str = "ratelimit.realmgate_unconfigured.cx_closed";

/// What every proxy gets, whatever it says that it is.
struct Same(watch::Sender<Arc<Snapshot>>);

impl SnapshotSource for Same {
    fn subscribe(&self, _: &Scope) -> Result<watch::Receiver<Arc<Snapshot>>, TooManyScopes> {
        Ok(self.0.subscribe())
    }
}

/// What is wrong with a filter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It never comes. Envoy waits for it for 15 s, and opens its listener then.
    Missing,
    /// Envoy refuses it.
    Refused,
}

pub(crate) fn mesh(policy: &str) -> Mesh {
    Mesh {
        policy: Arc::new(parse(policy).unwrap()),
        rules: Arc::default(),
        identities: Arc::default(),
        intentions: Arc::default(),
        module: FilterModule {
            sha256: "1".to_owned(),
            location: ModuleLocation::Path(parts::FILTER.find().unwrap().display().to_string()),
        },
        edge: Arc::default(),
        catalog: Arc::default(),
        placement: Arc::default(),
        unheard: Unheard::default(),
    }
}

/// An edge of this version whose players go to one server, `most` of them.
pub(crate) fn edge(net: &TestNet, version: Option<&str>, server: &GameServer, most: u64) -> Snapshot {
    let at = net.at(port::PLAYERS).to_string();
    let policy = json!({"listeners": [{"name": "edge", "bind": at, "limits": {"connections": most}}],
        "services": services(std::slice::from_ref(server)), "routes": [route("all", &json!("any"), server.name())]});
    let hashes_addresses = version == Some("1.37");
    compile(&mesh(&policy.to_string()), &Scope { hashes_addresses, ..Scope::default() })
}

fn sidecar(net: &TestNet) -> Snapshot {
    let mut mesh = mesh("{intentions_close: true}");
    let certificate = rcgen::generate_simple_self_signed(["game".to_owned()]).unwrap();
    let leaf = Leaf {
        uri: "spiffe://test/ns/default/dc/dc1/svc/game".to_owned(),
        chain: certificate.cert.pem(),
        key: certificate.signing_key.serialize_pem(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    };
    mesh.identities = Arc::new(Identities {
        trust_domain: "test".to_owned(),
        datacenter: "dc1".to_owned(),
        roots: [leaf.chain.clone()].into(),
        leaves: BTreeMap::from([("game".to_owned(), Arc::new(leaf))]),
        unproven: false,
    });
    mesh.intentions = Arc::new(Intentions::joined(&mesh.policy, None));
    let ports = Ports { inbound: net.at(INBOUND), app: net.at(port::GAME) };
    let (role, service, sidecar) = (Role::Sidecar, "game".to_owned(), Some(ports));
    compile(&mesh, &Scope { role, service, sidecar, ..Scope::default() })
}

/// The snapshot with this fault in the filter of this name.
fn with_fault(good: &Snapshot, slot: &str, fault: Fault) -> Snapshot {
    let broken = |filter: &Arc<Resource>| {
        // Not what its type says.
        let body = TypedExtensionConfig {
            name: slot.to_owned(),
            typed_config: Some(Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC".to_owned(),
                value: Vec::new(),
            }),
        };
        (fault == Fault::Refused).then(|| Arc::new(Resource::new(Arc::clone(filter.name()), &body)))
    };
    let filters = good.of(ResourceType::Extension).iter();
    let filters =
        filters.filter_map(
            |filter| if &**filter.name() == slot { broken(filter) } else { Some(Arc::clone(filter)) },
        );
    let of = |kind| Arc::clone(good.of(kind));
    let filters = ResourceSet::new(filters.collect::<Vec<_>>());
    assert_ne!(filters.version(), good.of(ResourceType::Extension).version(), "{slot} is no slot");
    Snapshot::new(of(ResourceType::Cluster), of(ResourceType::Endpoints), of(ResourceType::Listener), filters)
        .with_secrets(of(ResourceType::Secret))
        .with_runtime(of(ResourceType::Runtime))
}

/// A proxy of this bootstrap and version that is served what the sender holds.
pub(crate) struct Served {
    snapshots: Arc<Same>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) proxy: Envoy,
    serving: tokio::task::JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start(net: &TestNet, version: Option<&str>, role: &str, first: Snapshot) -> Self {
        let snapshots = Arc::new(Same(watch::Sender::new(Arc::new(first))));
        let metrics = prometheus::Registry::new();
        let registry = Arc::new(Registry::new(&metrics).unwrap());
        let server = AdsServer::new(Arc::clone(&snapshots) as Arc<dyn SnapshotSource>, Arc::clone(&registry));
        let listener = Listener::open(ListenerConfig::default(), &metrics).unwrap();
        let socket = TcpListener::bind(net.at(port::XDS)).await.unwrap();
        let serving = tokio::spawn(listener.serve(socket, server, std::future::pending::<()>()));
        let bootstrap = fs::read_to_string(parts::workspace().join(format!("envoy/{role}.yaml"))).unwrap();
        let bootstrap = bootstrap.replace("127.0.0.1", &net.ip().to_string());
        let proxy = Envoy::with(net.dir(), bootstrap, net.at(port::ADMIN)).name(role).concurrency(2);
        let proxy = version.iter().fold(proxy, |proxy, version| proxy.version(version)).start().unwrap();
        Self { snapshots, registry, proxy, serving }
    }

    /// Has the proxy follow this one from now on.
    pub(crate) fn serve(&self, snapshot: Snapshot) {
        self.snapshots.0.send_replace(Arc::new(snapshot));
    }

    /// Every connection is closed soon, is counted, and takes no place, whether it says something or not.
    async fn closes(&self, at: SocketAddr, listener: &str) {
        // The first may have to wait until Envoy gives the filter up.
        wait_until("it listens", LIMIT, || std::net::TcpStream::connect(at).is_ok());
        GameClient::connect(at).await.unwrap().read_until_closed().await.unwrap();
        let coming: JoinSet<_> = (0..20)
            .map(|number| async move {
                let mut client = GameClient::connect(at).await.unwrap();
                if number % 2 == 0 {
                    let _ = client.send_bytes(b"some bytes").await;
                }
                assert_eq!(client.read_until_closed().await.unwrap().bytes, 0);
            })
            .collect();
        let watch = Stopwatch::start();
        coming.join_all().await;
        assert!(watch.undisturbed() < Duration::from_secs(2), "closed after {:?}", watch.elapsed());
        wait_until("the closed are counted", LIMIT, || self.proxy.stat(CLOSED) >= 20);
        self.holds(listener, 0);
    }

    pub(crate) fn holds(&self, listener: &str, count: u64) {
        let active = format!("connection_limit.{listener}.active_connections");
        wait_until("the places that are taken", LIMIT, || self.proxy.stat(&active) == count);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Those of `count` players, all at once, who get through.
pub(crate) async fn players(at: SocketAddr, count: usize) -> Vec<GameClient> {
    let coming: JoinSet<_> = (0..count)
        .map(|_| async move {
            let mut client = GameClient::connect(at).await.ok()?;
            client.who_are_you(game(1, 1)).await.ok().map(|_| client)
        })
        .collect();
    coming.join_all().await.into_iter().flatten().collect()
}

async fn an_edge(version: Option<&str>, slot: &str, fault: Fault) {
    let net = TestNet::new();
    let backend = servers(&net, 1, 0).await.remove(0);
    let at = net.at(port::PLAYERS);
    let good = edge(&net, version, &backend, MOST);
    let served = Served::start(&net, version, "edge", with_fault(&good, slot, fault)).await;
    served.closes(at, "edge").await;
    let listeners = served.proxy.stat("listener_manager.lds.update_success");

    served.serve(good);
    until_lands(at, game(1, 1), Some(backend.name()), Instant::now()).await;
    served.holds("edge", 0);
    let closed = served.proxy.stat(CLOSED);
    let playing = players(at, 20).await;
    assert_eq!(playing.len() as u64, MOST, "the bound is exact");
    served.holds("edge", MOST);
    drop(playing);
    served.holds("edge", 0);
    assert_eq!(served.proxy.stat(CLOSED), closed);
    assert_eq!(served.proxy.stat("listener_manager.lds.update_success"), listeners);
}

async fn a_sidecar(version: Option<&str>, slot: &str) {
    let net = TestNet::new();
    let good = sidecar(&net);
    let served = Served::start(&net, version, "sidecar", with_fault(&good, slot, Fault::Refused)).await;
    served.closes(net.at(INBOUND), "inbound").await;
    served.serve(good);
    let mut kept = None;
    wait_until("a connection is kept", LIMIT, || {
        kept = std::net::TcpStream::connect(net.at(INBOUND)).ok();
        let active = || served.proxy.stat("connection_limit.inbound.active_connections");
        (0..5).all(|_| {
            std::thread::sleep(Duration::from_millis(20));
            active() == 1
        })
    });
    drop(kept);
    served.holds("inbound", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_filter_of_an_edge_closes_and_counts_until_it_is_mended() {
    for version in [None, Some("1.37"), Some("1.38"), Some("1.39")] {
        for slot in ["realmgate/edge", "realmgate/edge/connections"] {
            println!("{version:?} {slot}");
            an_edge(version, slot, Fault::Refused).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_filter_of_a_sidecar_closes_and_counts_until_it_is_mended() {
    for version in [None, Some("1.37"), Some("1.38"), Some("1.39")] {
        for slot in ["realmgate/inbound/connections", "realmgate/inbound", "realmgate/inbound-guard"] {
            println!("{version:?} {slot}");
            a_sidecar(version, slot).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_never_comes_closes_and_counts_until_it_does() {
    an_edge(None, "realmgate/edge", Fault::Missing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_that_never_comes_closes_and_counts_until_it_does() {
    an_edge(None, "realmgate/edge/connections", Fault::Missing).await;
}
