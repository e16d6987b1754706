//! Who may be a proxy: certificates and tokens between real Envoys and the xDS listener, and how it lets them go.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use realmgate_tests::consul::Config;
use realmgate_tests::stage::port;
use realmgate_tests::{Consul, ControlPlane, Envoy, Stage, Stopwatch, TestNet, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cast::LIMIT;

/// Where a sidecar listens.
const INBOUND: u16 = 20_500;

/// Longest that a stream outlives its credential, as docs/identity.md promises.
const REVOKED: Duration = Duration::from_secs(10);

/// An authority of a test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the name of what it signs, that would seem to have signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its own certificate.
    fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, self.0.pem()).unwrap();
        path
    }

    /// Writes a certificate and its key.
    fn issue(&self, dir: &Path, name: &str, san: SanType) -> (PathBuf, PathBuf) {
        self.issue_for(Duration::from_hours(1), dir, name, san)
    }

    /// The same, good for so long.
    fn issue_for(&self, good: Duration, dir: &Path, name: &str, san: SanType) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![san];
        params.not_after = (SystemTime::now() + good).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let paths = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        fs::write(&paths.0, certificate.pem()).unwrap();
        fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    /// Writes the certificate of a proxy.
    fn issue_to(&self, dir: &Path, name: &str, service: &str) -> (PathBuf, PathBuf) {
        self.issue(dir, name, id(service))
    }
}

fn id(service: &str) -> SanType {
    SanType::URI(format!("spiffe://test.consul/ns/default/dc/aws/svc/{service}").try_into().unwrap())
}

/// A control plane that shows a certificate of `authority` and wants one of it.
fn with_mutual_tls(net: &TestNet, authority: &Authority) -> ControlPlane {
    let (cert, key) = authority.issue(net.dir(), "server", SanType::IpAddress(net.ip()));
    let ca = authority.write(net.dir(), "clients.pem");
    let tls =
        json!({"cert_file": cert, "key_file": key, "client_ca_file": ca, "trust_domains": "test.consul"});
    Stage::control_plane(net, &json!({"xds": {"tls": tls}})).unwrap()
}

/// An Envoy to be, whose bootstrap has these further arguments.
fn edge(
    net: &TestNet,
    control_plane: &ControlPlane,
    number: u16,
    more: &[&str],
) -> realmgate_tests::envoy::Builder {
    let (name, admin) = (format!("edge-{number}"), net.at(port::ADMIN + number));
    let bootstrap = control_plane.edge_bootstrap_with(&name, admin, more).unwrap();
    Envoy::with(net.dir(), bootstrap, admin).name(&name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The stream of a connected proxy.
fn stream_of(control_plane: &ControlPlane, id: &str) -> Option<u64> {
    let proxies: Value = serde_json::from_str(&control_plane.get("/v1/proxies").1).unwrap();
    let list = proxies["proxies"].as_array().unwrap_or_else(|| panic!("{proxies}"));
    list.iter().find(|proxy| proxy["id"] == id).and_then(|proxy| proxy["stream"].as_u64())
}

fn counts(control_plane: &ControlPlane, line: &str) -> bool {
    control_plane
        .get("/metrics")
        .1
        .lines()
        .any(|l| l.rsplit_once(' ').is_some_and(|(name, n)| name == line && n != "0"))
}

#[track_caller]
fn wait_counted(control_plane: &ControlPlane, line: &str) {
    wait_until(&format!("{line} is counted"), LIMIT, || counts(control_plane, line));
}

#[track_caller]
fn wait_logged(net: &TestNet, name: &str, words: &str) {
    let path = net.dir().join(format!("{name}.log"));
    wait_until(&format!("the log of {name} says {words:?}"), LIMIT, || {
        // Envoy writes gRPC messages as they are encoded.
        let plain = |log: String| log.replace("%20", " ").replace("%60", "`");
        fs::read_to_string(&path).is_ok_and(|log| plain(log).contains(words))
    });
}

#[test]
fn certificates_are_replaced_under_connected_proxies() {
    let net = TestNet::new();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let control_plane = with_mutual_tls(&net, &old);
    let ca = old.write(net.dir(), "ca.pem");
    let (cert, key) = old.issue_to(net.dir(), "edge", "realmgate-edge");
    let own = ["--tls-cert", text(&cert), "--tls-key", text(&key), "--datacenter", "aws"];
    let sds = net.dir().join("sds");
    let more = [&own[..], &["--tls-ca", text(&ca), "--sds-dir", text(&sds)]].concat();
    let _first = edge(&net, &control_plane, 1, &more).start().unwrap();
    let stream = stream_of(&control_plane, "edge-1").expect("it is connected");

    // First the certificate alone, which does not go with the key.
    let (cert, key) = new.issue(net.dir(), "new", SanType::IpAddress(net.ip()));
    fs::rename(cert, net.dir().join("server.pem")).unwrap();
    wait_counted(&control_plane, r#"realmgate_xds_tls_reloads_total{result="failed"}"#);
    wait_logged(&net, "realmgate", "the key is not that of the certificate");
    fs::rename(key, net.dir().join("server.key")).unwrap();
    wait_counted(&control_plane, r#"realmgate_xds_tls_reloads_total{result="ok"}"#);

    // The second trusts nobody but the new authority.
    let ca = new.write(net.dir(), "new-ca.pem");
    let _second =
        edge(&net, &control_plane, 2, &[&own[..], &["--tls-ca", text(&ca)]].concat()).start().unwrap();
    assert!(stream_of(&control_plane, "edge-2").is_some());
    assert_eq!(stream_of(&control_plane, "edge-1"), Some(stream), "the first was disturbed");
}

#[test]
fn certificates_that_are_missing_foreign_or_of_another_service_are_refused() {
    let net = TestNet::new();
    let authority = Authority::new("ours");
    let control_plane = with_mutual_tls(&net, &authority);
    let ca = authority.write(net.dir(), "ca.pem");
    let _none = edge(&net, &control_plane, 1, &["--tls-ca", text(&ca)]).spawn().unwrap();
    let (cert, key) = Authority::new("foreign").issue_to(net.dir(), "foreign", "realmgate-edge");
    let more = ["--tls-ca", text(&ca), "--tls-cert", text(&cert), "--tls-key", text(&key)];
    let _foreign = edge(&net, &control_plane, 2, &more).spawn().unwrap();
    let (cert, key) = authority.issue_to(net.dir(), "shop", "shop");
    let more =
        ["--tls-ca", text(&ca), "--tls-cert", text(&cert), "--tls-key", text(&key), "--service", "shop"];
    let _other = edge(&net, &control_plane, 3, &more).spawn().unwrap();

    wait_logged(&net, "edge-1", "closed: 16, a client certificate is required");
    wait_counted(&control_plane, r#"realmgate_xds_unauthenticated_total{reason="no_certificate"}"#);
    wait_counted(&control_plane, r#"realmgate_xds_unauthenticated_total{reason="unknown_ca"}"#);
    wait_logged(
        &net,
        "edge-3",
        "closed: 7, node.metadata.realmgate.role is `edge`, and its certificate, \
         spiffe://test.consul/ns/default/dc/aws/svc/shop, is good for `role=sidecar service=shop datacenter=aws` only",
    );
    wait_counted(&control_plane, r#"realmgate_xds_streams_refused_total{reason="identity"}"#);
    wait_logged(&net, "realmgate", "stream ended: node.metadata.realmgate.role is `edge`");
    assert!(control_plane.get("/metrics").1.contains("realmgate_xds_connected_proxies 0"));
    let log = fs::read_to_string(net.dir().join("realmgate.log")).unwrap();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

fn tokens_let_in(version: Option<&str>) {
    const OLD: &str = "the-old-token-0123456789";
    const NEW: &str = "the-new-token-0123456789";
    let net = TestNet::new();
    let accepted = net.dir().join("accepted");
    fs::write(&accepted, format!("{OLD} role=edge\n")).unwrap();
    let control_plane = Stage::control_plane(&net, &json!({"xds": {"token_file": accepted}})).unwrap();
    let (mine, sds) = (net.dir().join("token"), net.dir().join("sds"));
    fs::write(&mine, NEW).unwrap();
    let mut builder = edge(&net, &control_plane, 1, &["--token-file", text(&mine), "--sds-dir", text(&sds)]);
    if let Some(version) = version {
        builder = builder.version(version);
    }
    let mut edge_1 = builder.spawn().unwrap();
    wait_logged(&net, "edge-1", "closed: 16, the token is none of those that are good here");
    let _without = edge(&net, &control_plane, 2, &[]).spawn().unwrap();
    wait_logged(&net, "edge-2", "closed: 16, a token is required");
    for reason in ["wrong_token", "no_token"] {
        wait_counted(&control_plane, &format!("realmgate_xds_unauthenticated_total{{reason=\"{reason}\"}}"));
    }
    // The proxy is given the old one: it takes it from the file and comes in.
    let replacement = net.dir().join("replacement");
    fs::write(&replacement, OLD).unwrap();
    fs::rename(&replacement, &mine).unwrap();
    edge_1.wait_ready().unwrap();
    wait_until("it is connected", LIMIT, || stream_of(&control_plane, "edge-1").is_some());
    // Now the control plane takes the new one, too.
    fs::write(&accepted, format!("{OLD} role=edge\n{NEW} role=edge\n")).unwrap();
    wait_counted(&control_plane, r#"realmgate_xds_token_reloads_total{result="ok"}"#);
    fs::write(&mine, NEW).unwrap();
    let _third = edge(&net, &control_plane, 3, &["--token-file", text(&mine)]).start().unwrap();
    wait_until("it is connected", LIMIT, || stream_of(&control_plane, "edge-3").is_some());
    // The old one is taken out: who came by it is let go, whoever has the new one stays.
    let third = stream_of(&control_plane, "edge-3");
    let watch = Stopwatch::start();
    fs::write(&accepted, format!("{NEW} role=edge\n")).unwrap();
    wait_logged(&net, "edge-1", "closed: 16, not let in any more: the token is none of those");
    assert!(watch.undisturbed() < REVOKED, "{:?}", watch.elapsed());
    wait_counted(&control_plane, r#"realmgate_xds_streams_refused_total{reason="revoked_token"}"#);
    assert_eq!(stream_of(&control_plane, "edge-1"), None);
    fs::write(&replacement, NEW).unwrap();
    fs::rename(&replacement, &mine).unwrap();
    wait_until("it is back", LIMIT, || stream_of(&control_plane, "edge-1").is_some());
    assert_eq!(stream_of(&control_plane, "edge-3"), third);
    for file in ["realmgate.log", "edge-1.yaml", "edge-3.yaml", "sds/control-plane-token.yaml"] {
        let text = fs::read_to_string(net.dir().join(file)).unwrap();
        assert!(!text.contains(OLD) && !text.contains(NEW), "{file} holds a token:\n{text}");
    }
}

#[test]
fn the_newest_envoy_comes_in_by_token() {
    tokens_let_in(None);
}

#[test]
fn the_oldest_envoy_comes_in_by_token() {
    tokens_let_in(Some("1.37"));
}

#[test]
fn a_proxy_whose_certificate_ends_comes_back_with_the_next_one() {
    let net = TestNet::new();
    let authority = Authority::new("ours");
    let control_plane = with_mutual_tls(&net, &authority);
    let ca = authority.write(net.dir(), "ca.pem");
    let life = Duration::from_secs(15);
    let begin = Instant::now();
    let (cert, key) = authority.issue_for(life, net.dir(), "edge", id("realmgate-edge"));
    let sds = net.dir().join("sds");
    let more =
        ["--tls-ca", text(&ca), "--tls-cert", text(&cert), "--tls-key", text(&key), "--sds-dir", text(&sds)];
    let edge = edge(&net, &control_plane, 1, &more).start().unwrap();
    let stream = stream_of(&control_plane, "edge-1").expect("it is connected");
    // Envoy has the next one long before, and shows it on no connection that is open.
    let later = net.dir().join("later");
    fs::create_dir(&later).unwrap();
    let (later_cert, later_key) = authority.issue_to(&later, "edge", "realmgate-edge");
    fs::rename(later_key, &key).unwrap();
    fs::rename(later_cert, &cert).unwrap();
    wait_until("its stream is another one", life + LIMIT, || {
        stream_of(&control_plane, "edge-1").is_some_and(|now| now != stream)
    });
    assert!(
        begin.elapsed() + Duration::from_secs(1) > life,
        "its certificate was good: {:?}",
        begin.elapsed()
    );
    wait_logged(&net, "realmgate", "not let in any more: the client certificate has expired");
    wait_counted(&control_plane, r#"realmgate_xds_streams_refused_total{reason="revoked_expired"}"#);
    assert_eq!(edge.stat("server.live"), 1);
}

#[test]
fn a_sidecar_gets_the_keys_of_its_service_and_only_while_its_token_is_good() {
    const GAME: &str = "the-token-of-game-0123456789";
    let net = TestNet::new();
    let accepted = net.dir().join("accepted");
    // As `realmgate token new` makes it.
    let bound =
        format!("{GAME} role=sidecar service=game\nthe-token-of-shop-0123456789 role=sidecar service=shop\n");
    fs::write(&accepted, &bound).unwrap();
    let settings =
        json!({"xds": {"token_file": accepted}, "mesh": {"ca": "embedded", "leaf_lifetime": "4s"}});
    let control_plane = Stage::control_plane(&net, &settings).unwrap();
    let service =
        |name: &str, port| json!({"name": name, "endpoints": [net.at(port).to_string()], "tls": "mesh"});
    let policy = json!({
        "services": [service("game", INBOUND), service("shop", INBOUND + 1)],
        "default_intention": "allow",
    });
    control_plane.put_policy(&policy.to_string());
    let mine = net.dir().join("token");
    fs::write(&mine, GAME).unwrap();
    let bootstrap = |role: &str, number: u16, more: &[&str]| {
        let admin = net.at(port::ADMIN + number);
        let more = [&["--token-file", text(&mine)], more].concat();
        let name = format!("proxy-{number}");
        let text = control_plane.bootstrap(role, &name, admin, &more).unwrap();
        Envoy::with(net.dir(), text, admin).name(&name)
    };
    let (inbound, app) = (net.at(INBOUND).to_string(), net.at(port::GAME).to_string());
    let ports = ["--inbound", &inbound, "--app", &app];
    let sidecar = bootstrap("sidecar", 1, &[&["--service", "game"], &ports[..]].concat()).start().unwrap();
    // The same token is good for nobody else's key.
    let _shop = bootstrap("sidecar", 2, &[&["--service", "shop"], &ports[..]].concat()).spawn().unwrap();
    let _edge = bootstrap("edge", 3, &["--service", "game"]).spawn().unwrap();
    wait_logged(
        &net,
        "proxy-2",
        "closed: 7, node.metadata.realmgate.service is `shop`, and its token is good for",
    );
    wait_logged(
        &net,
        "proxy-3",
        "closed: 7, node.metadata.realmgate.role is `edge`, and its token is good for",
    );

    let serials = || {
        let certificates = sidecar.get("/certs");
        let serials = certificates.lines().filter(|line| line.contains("serial_number"));
        serials.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = serials();
    wait_until("it has its next key", LIMIT, || serials() != first);
    let watch = Stopwatch::start();
    fs::write(&accepted, bound.lines().last().unwrap()).unwrap();
    wait_logged(&net, "proxy-1", "closed: 16, not let in any more: the token is none of those");
    assert!(watch.undisturbed() < REVOKED, "{:?}", watch.elapsed());
    let last = serials();
    let issued = || {
        let metrics = control_plane.get("/metrics").1;
        let line = metrics.lines().find_map(|line| line.strip_prefix("realmgate_ca_issued_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = issued();
    // One for each of three services in turn.
    wait_until("there are newer keys", LIMIT, || issued() >= before + 6);
    assert_eq!(serials(), last, "a key reached a proxy whose token is gone");
    assert_eq!(stream_of(&control_plane, "proxy-1"), None);
}

#[test]
fn consuls_certificates_are_their_services_and_the_same_names_of_another_trust_domain_are_not() {
    let net = TestNet::alone();
    let consul = Consul::start(net.dir(), Config::new("aws")).unwrap();
    let foreign = Authority::new("foreign");
    let (cert, key) = foreign.issue(net.dir(), "server", SanType::IpAddress(net.ip()));
    let ca = foreign.write(net.dir(), "ca.pem");
    let roots = consul.get("/v1/connect/ca/roots");
    let root = roots["Roots"][0]["RootCert"].as_str().unwrap();
    // It covers both: the trust domain tells them apart.
    let clients = net.dir().join("clients.pem");
    fs::write(&clients, foreign.0.pem() + root).unwrap();
    let control_plane = Stage::control_plane(
        &net,
        &json!({
            "xds": {"tls": {"cert_file": cert, "key_file": key, "client_ca_file": clients}},
            "consul": {"address": consul.url()},
            "mesh": {"ca": "consul"},
        }),
    )
    .unwrap();
    let leaf = |service: &str, name: &str| {
        let leaf = consul.get(&format!("/v1/agent/connect/ca/leaf/{service}"));
        let paths = (net.dir().join(format!("{name}.pem")), net.dir().join(format!("{name}.key")));
        fs::write(&paths.0, leaf["CertPEM"].as_str().unwrap()).unwrap();
        fs::write(&paths.1, leaf["PrivateKeyPEM"].as_str().unwrap()).unwrap();
        paths
    };
    let proxy = |role: &str, number: u16, (cert, key): &(PathBuf, PathBuf), more: &[&str]| {
        let (name, admin) = (format!("proxy-{number}"), net.at(port::ADMIN + number));
        let own = ["--tls-ca", text(&ca), "--tls-cert", text(cert), "--tls-key", text(key)];
        let bootstrap = control_plane.bootstrap(role, &name, admin, &[&own[..], more].concat()).unwrap();
        Envoy::with(net.dir(), bootstrap, admin).name(&name).spawn().unwrap()
    };
    let ports = ["--inbound", "127.0.0.1:20500", "--app", "127.0.0.1:7777"];
    let _edge = proxy("edge", 1, &leaf("realmgate-edge", "edge"), &["--datacenter", "aws"]);
    let _shop =
        proxy("sidecar", 2, &leaf("shop%21", "shop"), &[&["--service", "shop!"], &ports[..]].concat());
    let _foreign = proxy("edge", 3, &foreign.issue_to(net.dir(), "evil", "realmgate-edge"), &[]);
    for name in ["proxy-1", "proxy-2"] {
        wait_until(&format!("{name} is connected"), LIMIT, || stream_of(&control_plane, name).is_some());
    }
    let domain = consul.trust_domain();
    wait_logged(&net, "proxy-3", &format!("svc/realmgate-edge is of another trust domain than {domain}"));
    assert_eq!(stream_of(&control_plane, "proxy-3"), None);
}

#[test]
fn readiness_goes_first_and_a_proxy_that_is_stuck_is_not_waited_for() {
    let mut stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let signal = |pid: u32, signal| {
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
    };
    // It answers no GOAWAY.
    let edge = stage.edge.process().pid();
    signal(edge, Signal::STOP);
    let watch = Stopwatch::start();
    signal(stage.control_plane.process().pid(), Signal::TERM);
    // Each look at the readiness comes after a look at the listener: one that is refused was preceded by a 503.
    let refused = || TcpStream::connect(stage.control_plane.xds()).is_err();
    let (mut is_ready, mut looks_while_unready) = (true, 0);
    wait_until("no connection is taken any more", LIMIT, || {
        if refused() {
            return true;
        }
        looks_while_unready += usize::from(!is_ready);
        is_ready = stage.control_plane.readyz().0 == 200;
        false
    });
    assert!(looks_while_unready > 0, "connections are refused before anybody could know");
    assert_eq!(stage.control_plane.readyz().0, 503);
    assert!(watch.undisturbed() < Duration::from_secs(2), "{:?}", watch.elapsed());
    wait_until("it has ended", LIMIT, || stage.control_plane.process().exit_status().is_some());
    signal(edge, Signal::CONT);
    let (took, undisturbed) = (watch.elapsed(), watch.undisturbed());
    let status = stage.control_plane.process().exit_status().unwrap();
    assert!(status.success(), "{status}");
    assert!(took > Duration::from_millis(2500) && undisturbed < Duration::from_secs(5), "it took {took:?}");
}
