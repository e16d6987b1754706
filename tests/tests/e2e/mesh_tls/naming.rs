//! Whom a sidecar's access log names: peers that have proven who they are, and nobody who says so.

use std::fs;

use realmgate_tests::wait_until;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::peers::{Authority, Peer};
use super::{Mesh, id};
use crate::cast::LIMIT;

/// The lines of the log, each of which is JSON of its own.
fn lines(mesh: &Mesh) -> Vec<Value> {
    let log = fs::read_to_string(mesh.net.dir().join("sidecar.log")).unwrap();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_believed_writes_nothing_into_the_log() {
    for version in [None, Some("1.39"), Some("1.38"), Some("1.37")] {
        let mesh = Mesh::with(version, &json!({})).await;
        mesh.intend(&json!([]), "allow");
        let forged = "spiffe://x\",\"authz\":\"\",\"source\":\"forged\"}\n{\"source\":\"forged\",\"y\":\"";
        let (believed, foreign) = (mesh.authority(), Authority::foreign());
        let before = lines(&mesh).len();
        // One that is believed may say what it likes, and it is still one line.
        for peer in [foreign.peer(forged), foreign.peer(&id("web")), Peer::nameless(), believed.peer(forged)]
        {
            assert!(!peer.is_let_in(mesh.inbound()).await);
        }
        drop(TcpStream::connect(mesh.inbound()).await.unwrap());
        assert!(believed.peer(&id("web")).is_let_in(mesh.inbound()).await);
        wait_until("all are logged", LIMIT, || lines(&mesh).len() == before + 6);
        let lines = lines(&mesh).split_off(before);
        let refused = "tls_handshake_failed";
        for (line, authz) in lines.iter().zip([refused, refused, refused, refused, "no_data", ""]) {
            let source = if authz.is_empty() { id("web") } else { String::new() };
            assert_eq!(
                (&line["source"], &line["authz"]),
                (&json!(source), &json!(authz)),
                "{version:?}: {line}"
            );
            assert_eq!(line["server"].is_null(), !authz.is_empty(), "{version:?}: {line}");
            assert!(line.get("y").is_none(), "{line}");
        }
    }
}
