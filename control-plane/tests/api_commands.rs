//! What the client commands ask a control plane, and what they make of its answers.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // a test fails by panicking

mod binary;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use binary::{Outcome, realmgate, realmgate_in};
use tempfile::TempDir;

/// A control plane that answers one request, always the same, and remembers it.
struct FakeApi {
    url: String,
    request: JoinHandle<String>,
}

impl FakeApi {
    fn answering(status: u16, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("the port"));
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        let request = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let request = read_request(&mut stream);
            stream.write_all(answer.as_bytes()).expect("the answer is sent");
            request
        });
        Self { url, request }
    }

    /// Runs a command against it; its outcome and the request it made.
    #[track_caller]
    fn run(self, directory: &TempDir, arguments: &[&str]) -> (Outcome, String) {
        let outcome = realmgate_in(directory, &[("REALMGATE_API", &self.url)], arguments);
        (outcome, self.request.join().expect("a request"))
    }
}

/// Head and body, as long as the head says.
fn read_request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).expect("the request is read");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if read == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

fn directory_with_policy() -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    fs::write(directory.path().join("p.yaml"), "routes: []\n").expect("the policy is written");
    directory
}

#[test]
fn apply_sends_the_document_as_it_is() {
    let answer = r#"{"version":4,"etag":"ab12","dry_run":true,"changed":true,"changes":["+ cluster game"]}"#;
    let arguments =
        ["policy", "apply", "p.yaml", "--dry-run", "--if-match", "ab11", "--message", "more & worlds"];
    let (outcome, request) = FakeApi::answering(200, answer).run(&directory_with_policy(), &arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let expected = "version 4, etag ab12\n  + cluster game\nThis was a dry run: nothing was stored.\n";
    assert_eq!(outcome.stdout, expected);
    assert!(
        request.starts_with("PUT /v1/policy?dry_run=true&message=more%20%26%20worlds HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.to_lowercase().contains("\r\nif-match: \"ab11\"\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\nroutes: []\n"), "{request}");
}

#[test]
fn apply_waits_for_the_proxies_and_fails_when_one_refuses() {
    let run = |status, applied: &str| {
        let answer = format!(r#"{{"version":4,"etag":"ab12","changed":true,"applied":{applied}}}"#);
        let arguments = ["policy", "apply", "--wait=3s", "p.yaml"];
        FakeApi::answering(status, &answer).run(&directory_with_policy(), &arguments)
    };
    let (outcome, request) = run(200, r#"{"complete":true}"#);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(request.starts_with("PUT /v1/policy?wait=applied&timeout=3s HTTP/1.1\r\n"), "{request}");
    let (outcome, _) = run(202, r#"{"complete":false,"pending":["edge-3"],"rejecting":["edge-1","edge-2"]}"#);
    assert_eq!((outcome.code, &*outcome.stdout), (Some(1), "version 4, etag ab12\n"), "{outcome:?}");
    let said = "the policy is stored, but refused by edge-1, edge-2; not acknowledged in time by edge-3; `realmgate proxies`";
    assert!(outcome.stderr.contains(said), "{outcome:?}");
}

#[test]
fn a_refused_policy_ends_with_64_and_every_problem() {
    let answer = r#"{"error":"invalid_policy","message":"2 problems","problems":[
        {"path":"routes[3].worlds","line":12,"column":5,"message":"0 is no world"},{"message":"too long"}]}"#;
    let api = FakeApi::answering(422, answer);
    let (outcome, _) = api.run(&directory_with_policy(), &["policy", "apply", "p.yaml"]);
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(
        outcome.stderr.contains("\np.yaml:12:5: routes[3].worlds: 0 is no world\np.yaml: too long\n"),
        "{outcome:?}"
    );
}

#[test]
fn other_refusals_end_with_1_and_the_reason() {
    for (status, body, expected) in [
        (
            412,
            r#"{"error":"conflict","message":"the etag is ab13"}"#,
            "the etag is ab13: the policy in force",
        ),
        (503, r#"{"error":"unavailable","message":"starting"}"#, "the control plane answered 503: starting"),
        (500, "oops", "is it a Realmgate API?"),
        (500, "{}", "no reason given"),
    ] {
        let api = FakeApi::answering(status, body);
        let (outcome, _) = api.run(&directory_with_policy(), &["policy", "apply", "p.yaml"]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(expected), "{outcome:?}");
    }
}

#[test]
fn nobody_listening_says_what_to_do() {
    // Bound and dropped: a port that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let outcome = realmgate(&["proxies", "--api", &url]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("is `realmgate serve` running there? (--api"), "{outcome:?}");
}

#[test]
fn show_prints_a_document_that_can_be_applied_again() {
    let answer = r#"{"version":3,"etag":"ab12","author":"ops","updated":1767225600,
        "policy":{"routes":[]},"text":"routes: []\n"}"#;
    let (outcome, request) =
        FakeApi::answering(200, answer).run(&directory_with_policy(), &["policy", "show"]);
    assert_eq!(outcome.stdout, "routes: []\n");
    assert!(outcome.stderr.starts_with("version 3, etag ab12, by ops, "), "{outcome:?}");
    assert!(outcome.stderr.ends_with("d ago\n"), "{outcome:?}");
    assert!(request.starts_with("GET /v1/policy HTTP/1.1\r\n"), "{request}");
}

#[test]
fn show_fails_where_no_policy_was_put() {
    let answer = r#"{"version":0,"etag":"","author":"","updated":0,"policy":{},"text":""}"#;
    let (outcome, _) = FakeApi::answering(200, answer).run(&directory_with_policy(), &["policy", "show"]);
    assert_eq!((outcome.code, &*outcome.stdout), (Some(1), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("no policy was ever put"), "{outcome:?}");
}

#[test]
fn explain_asks_for_one_first_message() {
    let arguments = ["explain", "--server-type", "200", "--world", "7", "--instance", "1"];
    let more = ["--source-ip", "2001:db8::1", "--listener", "edge", "--output", "yaml"];
    let api = FakeApi::answering(200, r#"{"matched":false,"reason":"no route"}"#);
    let (outcome, request) = api.run(&directory_with_policy(), &[&arguments[..], &more].concat());
    assert_eq!(outcome.stdout, "matched: false\nreason: no route\n");
    assert_eq!(
        (outcome.code, outcome.stderr.contains("no route takes this player")),
        (Some(1), true),
        "{outcome:?}"
    );
    let query = "server_type=200&world=7&instance=1&source_ip=2001%3Adb8%3A%3A1&listener=edge";
    assert!(request.starts_with(&format!("GET /v1/explain?{query} HTTP/1.1\r\n")), "{request}");
}

#[test]
fn proxies_are_listed_as_asked_for() {
    let answer = r#"{"proxies":[{"id":"edge-1","sync":"synced\u001b[2J"}]}"#;
    let run = |more: &[&str]| {
        let api = FakeApi::answering(200, answer);
        api.run(&directory_with_policy(), &[&["proxies"], more].concat()).0
    };
    let table = run(&[]).stdout;
    assert!(table.lines().any(|l| l.starts_with("edge-1  -")), "{table}");
    assert!(!table.contains('\u{1b}'), "what proxies say must not steer the terminal: {table:?}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--output", "json"]).stdout).unwrap();
    assert_eq!(json["proxies"][0]["id"], "edge-1");
}
