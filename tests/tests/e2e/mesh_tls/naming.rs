//! Whom a sidecar's access log names: peers that have proven who they are, and nobody who says so.

use std::fs;
use std::time::{Duration, SystemTime};

use realmgate_tests::wait_until;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::peers::{Authority, Peer};
use super::{Mesh, bounds, checks, id};
use crate::cast::LIMIT;

/// The lines of the log, each of which is JSON of its own.
pub(super) fn lines(mesh: &Mesh) -> Vec<Value> {
    let log = fs::read_to_string(mesh.net.dir().join("sidecar.log")).unwrap();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Says this in the clear, and waits until it is shown out.
async fn says_in_the_clear(mesh: &Mesh, words: &[u8]) {
    let mut stream = TcpStream::connect(mesh.inbound()).await.unwrap();
    let shown_out = async {
        let _ = stream.write_all(words).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    timeout(LIMIT, shown_out).await.expect("it is not shown out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_believed_writes_nothing_into_the_log() {
    const REFUSED: &str = "tls_handshake_failed";
    const DENIED: &str = "rbac_access_denied_matched_policy[none]";
    let forged = "spiffe://x\",\"authz\":\"\",\"source\":\"forged\"}\n{\"source\":\"forged\",\"y\":\"";
    for version in [None, Some("1.39"), Some("1.38"), Some("1.37")] {
        let mut mesh = Mesh::with(version, &json!({})).await;
        mesh.intend(&json!([]), "allow");
        let (believed, foreign) = (mesh.authority(), Authority::foreign());
        let before = lines(&mesh).len();
        let web = id("web");
        // One that is believed may say what it likes, and it is still one line.
        let named_oddly = format!("{}\",\"authz\":\"\"}}\n{{\"y\":\"{forged}\\", id("web"));
        let expired = believed.peer_until(&web, SystemTime::now() - Duration::from_secs(5));
        let peers = [
            (foreign.peer(forged), "", REFUSED),
            (foreign.peer(&web), "", REFUSED),
            (Peer::signed_by_itself(forged), "", REFUSED),
            (Peer::nameless(), "", REFUSED),
            (expired, "", REFUSED),
            (believed.peer(forged), "", REFUSED),
            (believed.peer(&named_oddly), &named_oddly, DENIED),
            (believed.peer(&web), &web, ""),
        ];
        let mut expected = Vec::new();
        for (peer, source, authz) in &peers {
            assert_eq!(peer.is_let_in(mesh.inbound()).await, authz.is_empty(), "{source} {authz}");
            expected.push((*source, *authz));
            // Lines come in the order of the connections.
            wait_until("it is logged", LIMIT, || lines(&mesh).len() == before + expected.len());
        }
        drop(TcpStream::connect(mesh.inbound()).await.unwrap());
        expected.push(("", "no_data"));
        wait_until("it is logged", LIMIT, || lines(&mesh).len() == before + expected.len());
        says_in_the_clear(&mesh, b"GET / HTTP/1.1\r\nHost: \"}\r\n\r\n").await;
        expected.push(("", REFUSED));
        wait_until("all are logged", LIMIT, || lines(&mesh).len() == before + expected.len());
        for (line, (source, authz)) in lines(&mesh).split_off(before).iter().zip(expected) {
            assert_eq!(
                (&line["source"], &line["authz"]),
                (&json!(source), &json!(authz)),
                "{version:?}: {line}"
            );
            assert_eq!(line["server"].is_null(), !authz.is_empty(), "{version:?}: {line}");
            assert!(line.get("y").is_none(), "{line}");
        }
        checks::leave_nothing_behind(&mut mesh, version).await;
        bounds::hold(&mesh, version).await;
    }
}
