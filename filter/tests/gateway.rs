//! Connections through a whole gateway, with a host that writes down what it is asked.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::rc::Rc;

use realmgate_filter::Gateway;
use realmgate_filter::access_log::Record;
use realmgate_filter::host::{Host, HostError, Process, Stream, UpstreamFailure, Way};
use realmgate_filter::session::{Refusal, Session, Verdict};
use realmgate_filter::telemetry::Metric;
use realmgate_filter::translate::Fault;
use realmgate_wire::{ClientHeader, ServerId};
use serde_json::{Value, json};

#[derive(Default)]
struct Recorder {
    calls: Vec<String>,
    counts: BTreeMap<Metric, i64>,
    failing: Option<&'static str>,
    gone: Vec<u32>,
    data: Vec<u8>,
    failure: Option<UpstreamFailure>,
    logged: Option<Value>,
}

impl Recorder {
    fn call(&mut self, call: &'static str, value: &str) -> Result<(), HostError> {
        if self.failing == Some(call) {
            return Err(HostError { call, reason: "told to".to_owned() });
        }
        self.calls.push(format!("{call} {value}").trim_end().to_owned());
        Ok(())
    }

    fn counted(&self, metric: Metric) -> i64 {
        self.counts.get(&metric).copied().unwrap_or(0)
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

impl Host for Recorder {
    fn select(&mut self, connection: u32) -> Result<(), HostError> {
        if self.gone.contains(&connection) {
            return Err(HostError { call: "select", reason: "gone".to_owned() });
        }
        self.call("select", &connection.to_string())
    }
    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError> {
        self.call("cluster", cluster)
    }
    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError> {
        self.call("key", key)
    }
    fn log(&mut self, record: &Record) {
        let value = record.fields();
        let fields: Value =
            serde_json::from_str(&format!("{{{}}}", value.strip_prefix(',').unwrap())).unwrap();
        let reason = fields.get("close_reason").and_then(serde_json::Value::as_str).unwrap().to_owned();
        self.logged = Some(fields);
        let _ = self.call("log", &reason);
    }
    fn upstream_failure(&mut self) -> Option<UpstreamFailure> {
        let _ = self.call("upstream_failure", "");
        self.failure.clone()
    }
    fn source_address(&mut self, out: &mut String) -> Result<(), HostError> {
        self.call("address", "")?;
        "[2001:db8::1]:4711".clone_into(out);
        Ok(())
    }
    fn session_id(&mut self) -> Result<i64, HostError> {
        self.call("session_id", "")?;
        Ok(0x0102_0304_0506_0708)
    }
    fn close(&mut self) -> Result<(), HostError> {
        self.call("close", "")
    }
    fn count(&mut self, metric: Metric, by: i64) {
        *self.counts.entry(metric).or_default() += by;
    }
    fn warn(&mut self, message: &str) {
        let _ = self.call("warn", message);
    }
}

impl Stream for Recorder {
    fn read(&mut self, way: Way, len: usize) -> Result<Vec<u8>, HostError> {
        self.call("read", &format!("{way:?} {len}"))?;
        Ok(self.data.iter().copied().take(len).collect())
    }
    fn replace(&mut self, way: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
        self.call("replace", &format!("{way:?} {len} by {}", by.len()))?;
        self.data.splice(..len, by.iter().copied());
        Ok(())
    }
    fn append(&mut self, way: Way, bytes: &[u8]) -> Result<(), HostError> {
        self.call("append", &format!("{way:?} {}", bytes.len()))?;
        self.data.extend_from_slice(bytes);
        Ok(())
    }
}

impl Process for Recorder {
    fn now(&mut self) -> Result<u64, HostError> {
        unreachable!("no limits")
    }
    fn load(&mut self, _: &str, _: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        unreachable!("no limits")
    }
    fn store(&mut self, _: &str, _: &[u8], _: Option<u32>) -> Result<bool, HostError> {
        unreachable!("no limits")
    }
    fn random(&mut self) -> u64 {
        0
    }
}

const CONFIG: &str = r#"{"header_timeout_ms": 800, "max_message_bytes": 100, "routes": [
    {"server_type": 200, "worlds": "1-9", "hash_key": "source_ip", "to": [{"cluster": "game-{world}"}]}
]}"#;

fn gateway() -> (Gateway, Recorder) {
    let (mut gateway, mut host) = (Gateway::new().unwrap(), Recorder::default());
    gateway.configure(CONFIG.as_bytes(), &mut host).unwrap();
    (gateway, host)
}

fn header(world: u16, body_len: u16) -> [u8; 8] {
    ClientHeader { body_len, message_id: 1, server_id: ServerId::new(200, world, 2, true) }.to_bytes()
}

#[test]
fn a_header_routes_once() {
    let (mut gateway, mut host) = gateway();
    let session = gateway.open(3, &mut host);
    let bytes = header(7, 100);
    for end in 0..8 {
        assert_eq!(gateway.data(&session, &bytes[..end], false, &mut host), Verdict::Wait);
    }
    assert!(host.take().is_empty());
    assert_eq!(gateway.data(&session, &bytes, false, &mut host), Verdict::Pass);
    assert_eq!(host.take(), ["address", "key 2001:db8::1", "cluster game-7", "session_id"]);
    // Whatever follows is not looked at.
    assert_eq!(gateway.data(&session, &header(99, 9999), false, &mut host), Verdict::Pass);
    gateway.end(&session, true, &mut host);
    gateway.tick(10_000, &mut host);
    assert_eq!(host.take(), ["log client"], "one property for a whole connection");
    let expected = [(Metric::Routed, 1), (Metric::AwaitingHeader, 0), (Metric::SessionsActive, 0)];
    assert_eq!(host.counts, BTreeMap::from(expected));
}

#[test]
fn refusals_close_with_their_reason() {
    for (bytes, reason) in [
        (header(10, 0), Refusal::NoRoute),
        (header(0, 0), Refusal::NoRoute),
        (header(1, 101), Refusal::MessageTooLarge),
        (*b"GET / HT", Refusal::MessageTooLarge),
    ] {
        let (mut gateway, mut host) = gateway();
        let session = gateway.open(1, &mut host);
        assert_eq!(gateway.data(&session, &bytes, false, &mut host), Verdict::Closed);
        let calls = host.take();
        assert_eq!(calls, [format!("log {}", reason.label()), "close".to_owned()]);
        assert_eq!(gateway.data(&session, &header(1, 0), false, &mut host), Verdict::Closed);
        gateway.end(&session, true, &mut host);
        let expected = [(Metric::Refused(reason), 1), (Metric::AwaitingHeader, 0)];
        assert_eq!(host.counts, BTreeMap::from(expected));
    }
}

#[test]
fn a_client_that_leaves_early_is_not_refused() {
    let (mut gateway, mut host) = gateway();
    let half_closed = gateway.open(1, &mut host);
    assert_eq!(gateway.data(&half_closed, &header(1, 0)[..7], true, &mut host), Verdict::Closed);
    assert_eq!(host.take(), ["log client_gone", "close"]);
    gateway.end(&half_closed, true, &mut host);
    let reset = gateway.open(2, &mut host);
    gateway.end(&reset, true, &mut host);
    gateway.end(&reset, true, &mut host);
    // Closed by the proxy itself: neither gone nor refused.
    let drained = gateway.open(3, &mut host);
    gateway.end(&drained, false, &mut host);
    assert_eq!(host.counts, BTreeMap::from([(Metric::ClientGone, 2), (Metric::AwaitingHeader, 0)]));
}

#[test]
fn a_header_with_the_end_of_the_stream_is_routed() {
    let (mut gateway, mut host) = gateway();
    let session = gateway.open(1, &mut host);
    assert_eq!(gateway.data(&session, &header(1, 0), true, &mut host), Verdict::Pass);
}

#[test]
fn what_the_host_refuses_is_handled() {
    let (mut gateway, mut host) = gateway();
    host.failing = Some("cluster");
    for _ in 0..3 {
        let session = gateway.open(1, &mut host);
        assert_eq!(gateway.data(&session, &header(1, 0), false, &mut host), Verdict::Closed);
    }
    assert_eq!(host.counted(Metric::Refused(Refusal::HostError)), 3);
    let warnings = host.take().iter().filter(|call| call.starts_with("warn")).count();
    assert_eq!(warnings, 1, "a failure of every connection must not fill the log");

    // None of these is worth a player.
    for harmless in ["log", "address"] {
        host.failing = Some(harmless);
        let session = gateway.open(1, &mut host);
        assert_eq!(gateway.data(&session, &header(1, 0), false, &mut host), Verdict::Pass, "{harmless}");
    }
    for harmless in ["log", "close"] {
        host.failing = Some(harmless);
        let session = gateway.open(1, &mut host);
        assert_eq!(gateway.data(&session, &header(99, 0), false, &mut host), Verdict::Closed, "{harmless}");
    }
}

#[test]
fn a_silent_client_is_closed_in_time_and_not_before() {
    let (mut gateway, mut host) = gateway();
    assert_eq!(gateway.tick_period_ms(), Some(100));
    assert!(!gateway.waits());
    let silent = gateway.open(1, &mut host);
    assert!(gateway.waits());
    gateway.tick(100, &mut host);
    let later = gateway.open(2, &mut host);
    let routed = gateway.open(3, &mut host);
    gateway.data(&routed, &header(1, 0), false, &mut host);
    host.take();
    // It may have come right before the first tick, so the tick at 800 is too early.
    for _ in 0..7 {
        gateway.tick(100, &mut host);
        assert!(host.take().is_empty());
    }
    gateway.tick(100, &mut host);
    assert_eq!(host.take(), ["select 1", "log header_timeout", "close"]);
    gateway.end(&silent, false, &mut host);
    host.gone.push(2);
    gateway.tick(100, &mut host);
    assert!(host.take().is_empty(), "the host knew it no more");
    gateway.end(&later, true, &mut host);
    assert_eq!(host.counted(Metric::Refused(Refusal::HeaderTimeout)), 1);
    assert_eq!(host.counted(Metric::AwaitingHeader), 0);
    assert_eq!(gateway.remembered(), 0);
    assert!(!gateway.waits(), "no more ticks are wanted");
}

#[test]
fn a_new_configuration_decides_those_who_wait_and_spares_the_rest() {
    let (mut gateway, mut host) = gateway();
    let routed = gateway.open(1, &mut host);
    gateway.data(&routed, &header(7, 0), false, &mut host);
    let waiting = gateway.open(2, &mut host);
    let (first, rest) = ([header(20, 0); 2], header(20, 0));
    gateway.data(&waiting, &first[0][..5], false, &mut host);

    assert!(gateway.configure(b"{\"routes\": 3}", &mut host).is_err());
    assert_eq!(host.counted(Metric::ConfigRejected), 1);
    let new = br#"{"header_timeout_ms": 0, "routes": [{"server_type": 200, "to": [{"cluster": "new"}]}]}"#;
    gateway.configure(new, &mut host).unwrap();
    assert_eq!(gateway.tick_period_ms(), None);
    assert_eq!(gateway.data(&routed, &header(7, 0), false, &mut host), Verdict::Pass);
    host.take();
    assert_eq!(gateway.data(&waiting, &rest, false, &mut host), Verdict::Pass);
    assert_eq!(host.take(), ["cluster new", "session_id"]);
}

#[test]
fn a_timeout_that_a_new_configuration_brings_counts_from_the_beginning() {
    let (mut gateway, mut host) = gateway();
    let _old = gateway.open(1, &mut host);
    gateway.tick(100, &mut host);
    let _new = gateway.open(2, &mut host);
    gateway.configure(br#"{"header_timeout_ms": 80}"#, &mut host).unwrap();
    gateway.tick(10, &mut host);
    assert_eq!(host.take()[0], "select 1");
    for _ in 0..7 {
        gateway.tick(10, &mut host);
    }
    assert!(host.take().is_empty());
    gateway.tick(10, &mut host);
    assert_eq!(host.take()[0], "select 2");
}

#[test]
fn memory_follows_the_connections_that_wait() {
    let (mut gateway, mut host) = gateway();
    // One that stays in front of all others.
    let _patient = gateway.open(0, &mut host);
    let mut open: Vec<Rc<Session>> = Vec::new();
    for connection in 1..100_000 {
        open.push(gateway.open(connection, &mut host));
        if open.len() > 50 {
            // Neither the oldest nor the newest leaves.
            gateway.end(&open.swap_remove(25), true, &mut host);
        }
        if connection % 100 == 0 {
            gateway.tick(0, &mut host);
        }
        let waiting = open.len() + 1;
        assert!(gateway.remembered() <= waiting + 100, "{}", gateway.remembered());
    }
    assert_eq!(host.counted(Metric::AwaitingHeader), 51);
}

/// Where nobody reads the access log, the host is asked and told as little as can be.
#[test]
fn without_a_log_nothing_is_found_out_for_it() {
    let (mut gateway, mut host) = gateway();
    gateway.configure(CONFIG.replacen('{', r#"{"access_log": false, "#, 1).as_bytes(), &mut host).unwrap();
    let session = gateway.open(1, &mut host);
    assert_eq!(gateway.data(&session, &header(7, 0), false, &mut host), Verdict::Pass);
    assert_eq!(host.take(), ["address", "key 2001:db8::1", "cluster game-7"], "no name for the session");
    gateway.end(&session, false, &mut host);
    assert!(host.take().is_empty(), "and no reason for its end");
    // Who ended a connection is not told here. One that waited was its client's to end.
    let waiting = gateway.open(2, &mut host);
    gateway.end(&waiting, false, &mut host);
    let expected = [
        (Metric::Routed, 1),
        (Metric::ClientGone, 1),
        (Metric::AwaitingHeader, 0),
        (Metric::SessionsActive, 0),
    ];
    assert_eq!(host.counts, BTreeMap::from(expected));
}

const SERVER: &str = r#"{"header_timeout_ms": 0, "max_message_bytes": 100, "routes": [
    {"server_type": 200, "worlds": "1", "to": [{"cluster": "plain", "framing": "server"}]},
    {"server_type": 200, "worlds": "2", "to": [{"cluster": "traced", "framing": "server-traced"}]},
    {"server_type": 200, "name": "any world", "to": [{"cluster": "client"}]}
]}"#;

/// A connection that has sent its first header, under [`SERVER`].
fn routed(world: u16) -> (Gateway, Recorder, Rc<Session>) {
    let (mut gateway, mut host) = (Gateway::new().unwrap(), Recorder::default());
    gateway.configure(SERVER.as_bytes(), &mut host).unwrap();
    let session = gateway.open(1, &mut host);
    assert_eq!(gateway.data(&session, &header(world, 2), false, &mut host), Verdict::Pass);
    (gateway, host, session)
}

#[test]
fn a_session_has_an_id_and_exchanges_headers() {
    let (mut gateway, mut host, session) = routed(1);
    assert_eq!(host.take(), ["cluster plain", "session_id"]);
    assert!(session.translates());
    host.data = [&header(1, 2)[..], b"ab"].concat();
    assert_eq!(gateway.translate(&session, Way::ToServer, 10, &mut host), Verdict::Pass);
    assert_eq!(host.take(), ["read ToServer 10", "replace ToServer 8 by 29"]);
    assert_eq!(host.data.len(), 31);
    // Chunks of body alone, and chunks that the proxy has not even told of.
    host.data = [&header(1, 100)[..], b"c"].concat();
    assert_eq!(gateway.translate(&session, Way::ToServer, 9, &mut host), Verdict::Pass);
    host.take();
    assert_eq!(gateway.translate(&session, Way::ToServer, 99, &mut host), Verdict::Pass);
    assert_eq!(gateway.translate(&session, Way::ToServer, 0, &mut host), Verdict::Pass);
    assert!(host.take().is_empty());

    assert_eq!(host.counted(Metric::SessionsActive), 1);
    assert_eq!(host.counted(Metric::MessagesToServer), 2);
    host.data = vec![9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(gateway.translate(&session, Way::ToClient, 29, &mut host), Verdict::Pass);
    assert_eq!(host.data, [0, 0, 1, 0, 0, 0, 0, 0]);
    host.take();
    gateway.end(&session, true, &mut host);
    gateway.end(&session, true, &mut host);
    assert_eq!(host.take(), ["log client"]);
    let expected = json!({
        "status": "ok", "close_reason": "client", "error.message": "", "route": "",
        "server.type": 200, "world.id": 1, "instance.id": 2, "session.id": "72623859790382856",
        "trace_id": "01020304050607080000000000000000", "span_id": "0000000000000001",
        "messages.to_server": 2, "messages.to_client": 1,
    });
    assert_eq!(host.logged, Some(expected));
    let counts = [
        (Metric::Routed, 1),
        (Metric::AwaitingHeader, 0),
        (Metric::SessionsActive, 0),
        (Metric::MessagesToServer, 2),
        (Metric::MessagesToClient, 1),
    ];
    assert_eq!(host.counts, BTreeMap::from(counts));
}

#[test]
fn the_log_says_who_ended_a_session_and_why() {
    let reset = UpstreamFailure { flags: UpstreamFailure::RESET, reason: String::new() };
    let refused = UpstreamFailure { flags: UpstreamFailure::CONNECT | 1 << 15, reason: "refused".to_owned() };
    for (ends, by_client, failure, status, reason, message) in [
        (&[Way::ToServer, Way::ToClient][..], false, None, "ok", "client", ""),
        (&[Way::ToClient, Way::ToServer][..], true, None, "ok", "server", ""),
        (&[], true, None, "ok", "client", ""),
        (&[], false, Some(reset), "ok", "server", ""),
        (&[], false, Some(refused), "failed", "connect_failed", "refused"),
        (&[], false, None, "ok", "proxy", ""),
    ] {
        let (mut gateway, mut host, session) = routed(3);
        host.failure = failure;
        for &end in ends {
            session.on_end_of_stream(end);
        }
        host.take();
        gateway.end(&session, by_client, &mut host);
        // Envoy is asked only where nothing else explains the end.
        let asked = usize::from(ends.is_empty() && !by_client);
        assert_eq!(host.take().len(), 1 + asked);
        let logged = host.logged.unwrap();
        assert_eq!(logged["status"], status);
        assert_eq!(logged["close_reason"], reason);
        assert_eq!(logged["error.message"], message);
    }
}

#[test]
fn the_clients_framing_translates_nothing_and_has_a_trace_all_the_same() {
    let (mut gateway, mut host, session) = routed(3);
    assert!(!session.translates());
    gateway.end(&session, true, &mut host);
    assert_eq!(host.take(), ["cluster client", "session_id", "log client"]);
    let logged = host.logged.unwrap();
    assert_eq!(logged["trace_id"], "01020304050607080000000000000000");
    assert_eq!(logged["route"], "any world");
    assert_eq!(logged["messages.to_server"], Value::Null);

    // An id that nobody waits for is not worth a player.
    let (mut gateway, mut host) = (Gateway::new().unwrap(), Recorder::default());
    gateway.configure(SERVER.as_bytes(), &mut host).unwrap();
    host.failing = Some("session_id");
    let session = gateway.open(1, &mut host);
    assert_eq!(gateway.data(&session, &header(3, 2), false, &mut host), Verdict::Pass);
}

#[test]
fn a_session_that_makes_no_sense_is_closed_and_counted_once() {
    let bad_reply = vec![0xff; 29];
    let large_message = header(1, 101).to_vec();
    for (way, data, reason) in [
        (Way::ToClient, bad_reply, Fault::ReplyTooShort),
        (Way::ToServer, large_message, Fault::MessageTooLarge),
    ] {
        let (mut gateway, mut host, session) = routed(1);
        host.take();
        let size = data.len();
        host.data = data;
        assert_eq!(gateway.translate(&session, way, size, &mut host), Verdict::Closed);
        let calls = host.take();
        let closed = [format!("log {}", reason.label()), "close".to_owned()];
        assert_eq!(calls[1..], closed);
        assert_eq!(gateway.translate(&session, way, size, &mut host), Verdict::Closed);
        gateway.end(&session, true, &mut host);
        assert_eq!(host.counted(Metric::SessionClosed(reason)), 1);
        assert_eq!(host.counted(Metric::SessionsActive), 0);
    }
}

#[test]
fn a_player_without_a_session_id_is_refused() {
    let (mut gateway, mut host) = (Gateway::new().unwrap(), Recorder::default());
    gateway.configure(SERVER.as_bytes(), &mut host).unwrap();
    host.failing = Some("session_id");
    let session = gateway.open(1, &mut host);
    assert_eq!(gateway.data(&session, &header(1, 2), false, &mut host), Verdict::Closed);
    assert_eq!(host.counted(Metric::Refused(Refusal::HostError)), 1);
    assert_eq!(host.counted(Metric::SessionsActive), 0);
}
