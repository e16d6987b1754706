//! What web pages, crowds and large documents cannot do to the management API of a real control plane.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use prost::Message;
use realmgate_proto::v1::PutPolicyRequest;
use realmgate_tests::{Stage, TestNet, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const GOOD: &str = "services: [{name: blue, endpoints: ['127.0.0.1:1']}]\n";
const HOSTILE: &str = "services: [{name: evil, endpoints: ['127.0.0.1:1']}]\n";

fn exchange(api: SocketAddr, request: &[u8], answer: &mut String) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(api)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request)?;
    stream.read_to_string(answer)
}

/// A request as it stands, and the answer's status and body; status 0 = it was closed without one.
fn raw(api: SocketAddr, head: &str, body: &[u8]) -> (u16, String) {
    let head = format!("{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let mut answer = String::new();
    // Closed or reset: what came before says which answer there was.
    let _ = exchange(api, &[head.as_bytes(), body].concat(), &mut answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or_default(), body.unwrap_or_default())
}

#[test]
fn a_web_page_writes_nothing_and_reads_nothing() {
    let net = TestNet::new();
    let settings = json!({"api": {"hosts": "realmgate.example.com,https://console.example.com"}});
    let control_plane = Stage::control_plane(&net, &settings).unwrap();
    control_plane.put_policy(GOOD);
    let api = control_plane.api();
    // As a page sends it without asking first: a form's or a text's type, to any address that it likes.
    let message = PutPolicyRequest { text: HOSTILE.to_owned(), force: true, ..PutPolicyRequest::default() };
    let message = message.encode_to_vec();
    let framed = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let call = "POST /realmgate.v1.Management/PutPolicy HTTP/1.1";
    for (more, status) in [
        ("Origin: http://evil.example\r\nContent-Type: text/plain", 403),
        ("Origin: null\r\nContent-Type: application/x-www-form-urlencoded", 403),
        ("Sec-Fetch-Site: cross-site\r\nContent-Type: text/plain", 403),
        ("Content-Type: text/plain", 415),
        ("Content-Type: application/grpc", 415),
    ] {
        let (refused, body) = raw(api, &format!("{call}\r\nHost: {api}\r\n{more}"), &framed);
        assert_eq!(refused, status, "{more}: {body}");
    }
    // Under a name of its own that leads here.
    let put = "PUT /v1/policy?force=true HTTP/1.1";
    for (method, host, more, status) in [
        (put, "evil.example", "", 421),
        (put, "evil.example", "\r\nOrigin: http://evil.example", 421),
        ("GET /v1/policy HTTP/1.1", "evil.example", "", 421),
        ("GET /v1/filter/x.wasm HTTP/1.1", "evil.example", "", 421),
        (put, "127.0.0.1", "\r\nOrigin: http://evil.example", 403),
        ("OPTIONS /v1/policy HTTP/1.1", "127.0.0.1", "\r\nOrigin: http://evil.example", 403),
    ] {
        let (refused, body) = raw(api, &format!("{method}\r\nHost: {host}{more}"), HOSTILE.as_bytes());
        assert_eq!(refused, status, "{method} {host} {more}: {body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert!(error["message"].as_str().unwrap().contains("`api.hosts`"), "{error}");
    }
    let (_, shown) = control_plane.get("/v1/policy");
    assert!(shown.contains("blue") && !shown.contains("evil"), "{shown}");

    // A probe comes by a pod's address, a scrape by a service's name, and whoever is meant by his.
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, body) = raw(api, &format!("GET {path} HTTP/1.1\r\nHost: 10.1.2.3:18080"), b"");
        assert!(matches!(status, 200 | 503) && !body.contains("wrong_host"), "{path}: {status}");
    }
    let page = "\r\nOrigin: https://console.example.com";
    for (host, more) in [("realmgate.example.com", ""), ("localhost", ""), (&api.to_string(), page)] {
        let (status, body) = raw(api, &format!("{put}\r\nHost: {host}{more}"), GOOD.as_bytes());
        assert_eq!(status, 200, "{host}: {body}");
    }
}

/// A document of 2 MB that is good: worlds that a route lists in no order.
fn large() -> String {
    let worlds = |of: usize| {
        let worlds = (0..16_000)
            .map(|i| format!("'{}-{}'", (i * 7_919 % 16_000) * 2 + 1, (i * 7_919 % 16_000) * 2 + 2));
        let worlds = worlds.collect::<Vec<_>>().join(", ");
        format!("  - {{name: r{of}, server_type: {of}, worlds: [{worlds}], to: [{{service: blue}}]}}\n")
    };
    format!("{GOOD}routes:\n{}", (0..9).map(worlds).collect::<String>())
}

#[test]
fn neither_documents_nor_connections_hold_it_up() {
    const PLACES: usize = 24;
    let net = TestNet::new();
    let mut control_plane = Stage::control_plane(&net, &json!({"api": {"max_connections": PLACES}})).unwrap();
    let api = control_plane.api();
    let text = large();
    let ask = |text: &str| {
        let mut stream = TcpStream::connect(api).unwrap();
        let head = format!(
            "PUT /v1/policy?dry_run=true HTTP/1.1\r\nHost: {api}\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    // More than are worked on at a time; the probe is answered meanwhile, and who left is not worked for any more.
    let clients: Vec<_> = (0..6).map(|_| ask(&text)).collect();
    assert_eq!(control_plane.get("/healthz").0, 200);
    drop(clients);
    let (status, answer) = control_plane.put_policy_with("?dry_run=true", GOOD);
    assert_eq!(status, 200, "{answer}");

    let get = |path: &str| raw(api, &format!("GET {path} HTTP/1.1\r\nHost: a"), b"");
    let alone = "\nrealmgate_api_connections 1\n";
    wait_until("those who left have given their places back", SOON, || get("/metrics").1.contains(alone));

    // Places that are held for nothing: in silence, within a header, within a body.
    let held = |n: usize| {
        let mut stream = TcpStream::connect(api).unwrap();
        let begun: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /healthz HTTP/1.1\r\nHost: a",
            _ => b"PUT /v1/policy HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
        };
        stream.write_all(begun).unwrap();
        stream
    };
    let holders: Vec<_> = (0..2 * PLACES).map(held).collect();
    wait_until("the API answers beside them", SOON, || get("/healthz").0 == 200);
    let made_room = "realmgate_api_connections_refused_total{reason=\"made_room\"}";
    wait_until("it says that some made room", SOON, || get("/metrics").1.contains(made_room));
    drop(holders);

    // SIGTERM is heard while it works.
    let _clients: Vec<_> = (0..6).map(|_| ask(&text)).collect();
    control_plane.process().signal(Signal::TERM);
    wait_until("it stops", SOON, || control_plane.process().exit_status().is_some());
    assert!(control_plane.process().exit_status().is_some_and(|status| status.success()));
}
