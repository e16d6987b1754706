//! TLS towards players: certificates are exchanged under live sessions, and bad ones change nothing.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use realmgate_tests::{Frame, GameClient, Stage, TestNet, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::cast::{LIMIT, route, servers, services};

const HOST: &str = "play.example.com";

/// An authority, and how its players connect.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With the name of what it signs, that would seem to have signed itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A new certificate and its key, PEM.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A player who believes it; with a certificate of its own where it has one.
    fn player(&self, own: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = if own {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["player".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }
}

/// A session behind TLS, after a PROXY header where there is one.
async fn connect(
    player: &TlsConnector,
    edge: SocketAddr,
    proxy_header: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(edge).await?;
    stream.write_all(proxy_header.as_bytes()).await?;
    player.connect(ServerName::try_from(HOST).unwrap(), stream).await
}

async fn exchange(session: &mut TlsStream<TcpStream>, frame: &Frame) -> io::Result<()> {
    let sent = frame.to_bytes()?;
    session.write_all(&sent).await?;
    let mut came = vec![0; sent.len()];
    session.read_exact(&mut came).await?;
    assert_eq!(came, sent);
    Ok(())
}

fn shown(session: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    session.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Moves files into place, as certificate managers do.
fn put(dir: &Path, (cert, key): &(String, String)) {
    for (name, pem) in [("tls.crt", cert), ("tls.key", key)] {
        let next = dir.with_extension("next");
        fs::write(&next, pem).unwrap();
        fs::rename(next, dir.join(name)).unwrap();
    }
}

/// The certificate that new connections are shown comes to differ from `old`.
async fn until_shown_another(player: &TlsConnector, edge: SocketAddr, old: &CertificateDer<'static>) {
    let start = std::time::Instant::now();
    while shown(&connect(player, edge, "").await.unwrap()) == *old {
        assert!(start.elapsed() < LIMIT, "the old certificate stays");
        tokio::task::yield_now().await;
    }
}

fn folder(net: &TestNet, name: &str) -> PathBuf {
    let dir = net.dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_exchanged_under_live_sessions() {
    let stage = Stage::start(TestNet::new(), &json!({})).unwrap();
    let servers = servers(&stage.net, 1, 0).await;
    let (files, authority) = (folder(&stage.net, "tls"), Authority::new());
    put(&files, &authority.issue());
    let authorities = folder(&stage.net, "ca").join("players.pem");
    fs::write(&authorities, authority.0.pem()).unwrap();
    let mutual = stage.net.at(7001);
    let tls = |dir: &Path| json!({"cert_file": dir.join("tls.crt"), "key_file": dir.join("tls.key")});
    let mut strict = tls(&files);
    strict["client_ca_file"] = json!(authorities);
    strict["min_version"] = json!("1.3");
    let listener = |name: &str, bind: SocketAddr, tls: Value| json!({"name": name, "bind": bind, "tls": tls});
    let mut behind = listener("strict", mutual, strict);
    behind["proxy_protocol"] = json!(true);
    behind["trusted_proxies"] = json!(["127.0.0.0/8"]);
    let mut policy = json!({
        "listeners": [listener("edge", stage.players(), tls(&files)), behind],
        "services": services(&servers),
        "routes": [route("all", &json!("any"), "game-1")],
    });
    stage.control_plane.put_policy(&policy.to_string());

    // The filter sees the same, whole or in parts; whoever speaks no TLS gets nowhere.
    let player = authority.player(false);
    let frame = Frame::to_world(1, 5, vec![7; 40_000]);
    let mut live = connect(&player, stage.players(), "").await.unwrap();
    exchange(&mut live, &frame).await.unwrap();
    let first = shown(&live);
    let mut plain = GameClient::connect(stage.players()).await.unwrap();
    plain.send(&Frame::to_world(1, 5, "in the clear")).await.unwrap();
    plain.read_until_closed().await.unwrap();
    // Behind a load balancer, and with a certificate of the player's own.
    let header = "PROXY TCP4 192.0.2.7 192.0.2.8 4711 7000\r\n";
    let mut known = connect(&authority.player(true), mutual, header).await.unwrap();
    exchange(&mut known, &frame).await.unwrap();
    let unknown = connect(&player, mutual, header).await;
    if let Ok(mut unknown) = unknown {
        // In TLS 1.3 a player learns of the refusal with the first answer.
        exchange(&mut unknown, &frame).await.unwrap_err();
    }

    let before = stage.edge.stat("listener_manager.listener_create_success");
    put(&files, &authority.issue());
    until_shown_another(&player, stage.players(), &first).await;
    exchange(&mut live, &frame).await.unwrap();
    exchange(&mut known, &frame).await.unwrap();
    assert_eq!(
        stage.edge.stat("listener_manager.listener_create_success"),
        before,
        "a listener was replaced"
    );

    // Files that make no sense: the last good ones serve on.
    let second = shown(&connect(&player, stage.players(), "").await.unwrap());
    let failed =
        || stage.edge.stats("sds.").iter().filter(|(name, _)| is_failure(name)).map(|(_, n)| n).sum::<u64>();
    let failures = failed();
    put(&files, &("nonsense".to_owned(), "nonsense".to_owned()));
    wait_until("the new files are refused", LIMIT, || failed() > failures);
    let mut session = connect(&player, stage.players(), "").await.unwrap();
    exchange(&mut session, &frame).await.unwrap();
    assert_eq!(shown(&session), second);
    put(&files, &authority.issue());
    until_shown_another(&player, stage.players(), &second).await;

    // Files that were never there are named, and hurt nobody else.
    let nowhere = folder(&stage.net, "nowhere");
    let third = listener("third", stage.net.at(7002), tls(&nowhere));
    policy["listeners"].as_array_mut().unwrap().push(third);
    stage.control_plane.put_policy_with("?wait=applied&timeout=3s", &policy.to_string());
    let missing = nowhere.join("tls.crt").display().to_string();
    wait_until("the missing file is named", LIMIT, || {
        stage.control_plane.get("/v1/proxies").1.contains(&missing)
    });
    exchange(&mut live, &frame).await.unwrap();
    exchange(&mut connect(&player, stage.players(), "").await.unwrap(), &frame).await.unwrap();
    put(&nowhere, &authority.issue());
    let start = std::time::Instant::now();
    while connect(&player, stage.net.at(7002), "").await.is_err() {
        assert!(start.elapsed() < LIMIT, "the files that came late are not taken");
        tokio::task::yield_now().await;
    }
}

fn is_failure(stat: &str) -> bool {
    stat.ends_with("key_rotation_failed") || stat.ends_with("update_rejected")
}
