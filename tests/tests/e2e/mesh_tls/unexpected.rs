//! Endpoints that come before their cluster: the cluster that an edge still has does not know whom to expect there.

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use realmgate_control_plane::compile::compile;
use realmgate_control_plane::mesh::catalog::Catalog;
use realmgate_control_plane::mesh::identity::Leaf;
use realmgate_control_plane::mesh::{FilterModule, Identities, Mesh, ModuleLocation, Unheard};
use realmgate_control_plane::model::parse;
use realmgate_control_plane::xds::{
    AdsServer, Listener, ListenerConfig, Registry, Resource, ResourceSet, ResourceType, Scope, Snapshot,
    SnapshotSource, TooManyScopes,
};
use realmgate_tests::stage::port;
use realmgate_tests::{Envoy, TestNet, parts};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::id;
use crate::cast::LIMIT;

const EDGE: &str = "realmgate-edge";

/// The same for every proxy, for ever.
struct Fixed(watch::Sender<Arc<Snapshot>>);

impl SnapshotSource for Fixed {
    fn subscribe(&self, _: &Scope) -> Result<watch::Receiver<Arc<Snapshot>>, TooManyScopes> {
        Ok(self.0.subscribe())
    }
}

/// A meshed service of Consul that has nobody, at an edge that has a certificate or none.
fn nobody_there(has_leaf: bool) -> Snapshot {
    let policy = "listeners: [{name: edge, bind: '127.0.0.1:7000'}]\n\
                  services: [{name: game, tls: mesh, consul: {service: game}}]\n\
                  routes: [{name: all, server_type: 200, to: [{service: game}]}]";
    let certificate = rcgen::generate_simple_self_signed([EDGE.to_owned()]).unwrap();
    let leaf = Leaf {
        uri: id(EDGE),
        chain: certificate.cert.pem(),
        key: certificate.signing_key.serialize_pem(),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH,
    };
    let identities = Identities {
        trust_domain: super::DOMAIN.to_owned(),
        datacenter: "dc1".to_owned(),
        roots: [leaf.chain.clone()].into(),
        leaves: has_leaf.then(|| (EDGE.to_owned(), Arc::new(leaf))).into_iter().collect(),
        unproven: false,
    };
    let mesh = Mesh {
        policy: Arc::new(parse(policy).unwrap()),
        rules: Arc::default(),
        identities: Arc::new(identities),
        intentions: Arc::default(),
        module: FilterModule { sha256: String::new(), location: ModuleLocation::Path(String::new()) },
        edge: Arc::default(),
        catalog: Arc::new(Catalog { local: "dc1".to_owned(), ..Catalog::default() }),
        placement: Arc::default(),
        unheard: Unheard::default(),
    };
    compile(&mesh, &Scope { service: EDGE.to_owned(), ..Scope::default() })
}

/// Its clusters and secrets with an endpoint here, of which nothing is said.
fn with_somebody(made: &Snapshot, net: &TestNet) -> Snapshot {
    let address = SocketAddress {
        address: net.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port::GAME.into())),
        ..SocketAddress::default()
    };
    let address = Address { address: Some(address::Address::SocketAddress(address)) };
    let endpoint = Endpoint { address: Some(address), ..Endpoint::default() };
    let endpoint =
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() };
    let assignment = ClusterLoadAssignment {
        cluster_name: "game".to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
        ..ClusterLoadAssignment::default()
    };
    let none = || ResourceSet::new([]);
    let endpoints = ResourceSet::new([Arc::new(Resource::new("game", &assignment))]);
    Snapshot::new(Arc::clone(made.of(ResourceType::Cluster)), endpoints, none(), none())
        .with_secrets(Arc::clone(made.of(ResourceType::Secret)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_no_cluster_expects_is_not_spoken_to_in_the_clear() {
    for has_leaf in [true, false] {
        let net = TestNet::new();
        let snapshot = with_somebody(&nobody_there(has_leaf), &net);
        let source = Arc::new(Fixed(watch::Sender::new(Arc::new(snapshot))));
        let metrics = prometheus::Registry::new();
        let server = AdsServer::new(source, Arc::new(Registry::new(&metrics).unwrap()));
        let listener = Listener::open(ListenerConfig::default(), &metrics).unwrap();
        let socket = TcpListener::bind(net.at(port::XDS)).await.unwrap();
        let serving = tokio::spawn(listener.serve(socket, server, std::future::pending::<()>()));
        let game = TcpListener::bind(net.at(port::GAME)).await.unwrap();

        let bootstrap = fs::read_to_string(parts::workspace().join("envoy/edge.yaml")).unwrap();
        let bootstrap = bootstrap.replace("127.0.0.1", &net.ip().to_string());
        let edge = Envoy::with(net.dir(), bootstrap, net.at(port::ADMIN)).name("edge").spawn().unwrap();
        // Its health check is the first to connect. In the clear it says nothing.
        let (mut connection, _) = timeout(LIMIT, game.accept()).await.expect("nobody came").unwrap();
        let mut first = [0];
        let read = timeout(LIMIT, connection.read(&mut first)).await.expect("nobody speaks").unwrap();
        assert_eq!((read, first), (1, [22]), "a TLS handshake, with a certificate: {has_leaf}");
        drop(edge);
        serving.abort();
    }
}
