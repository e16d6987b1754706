//! Connections: whatever comes in whatever pieces, between ticks and new configurations, each connection is
//! counted once and none is forgotten.
//!
//! The input is a script: a byte says what happens, the bytes behind it are its content.
#![no_main]

use std::collections::BTreeMap;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use realmgate_filter::Gateway;
use realmgate_filter::access_log::Record;
use realmgate_filter::host::{Host, HostError, Process, Stream, UpstreamFailure, Way};
use realmgate_filter::session::{Session, Verdict};
use realmgate_filter::telemetry::Metric;

const CONFIGS: [&[u8]; 4] = [
    br#"{"header_timeout_ms": 80, "max_message_bytes": 1000, "routes": [
        {"server_type": 200, "worlds": "1-9", "hash_key": "source_ip",
         "to": [{"cluster": "a-{world}"}, {"cluster": "b", "framing": "server"}]},
        {"server_type": 200, "instances": "8-99", "to": [{"cluster": "d", "framing": "server-traced"}]},
        {"server_type": 200, "instances": "7", "to": [{"cluster": "c", "pick":
         {"strategy": "realm_based", "of": 3, "cluster": "c-{pick}"}}]}]}"#,
    br#"{"header_timeout_ms": 0, "connections_per_ip": 2, "new_connections_per_ip_per_second": 9, "routes": [{"server_type": 0, "to": [{"cluster": "zero"}]}]}"#,
    b"{}",
    b"no configuration",
];

#[derive(Default)]
struct Counting {
    metrics: BTreeMap<Metric, i64>,
    clusters: i64,
    failing: bool,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    data: Vec<u8>,
}

impl Counting {
    fn answer(&self) -> Result<(), HostError> {
        if self.failing { Err(HostError { call: "call", reason: String::new() }) } else { Ok(()) }
    }
}

impl Host for Counting {
    fn select(&mut self, _: u32) -> Result<(), HostError> {
        self.answer()
    }
    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError> {
        assert!(!cluster.is_empty() && !cluster.contains(['{', '}']));
        self.answer()?;
        self.clusters += 1;
        Ok(())
    }
    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError> {
        assert_eq!(key, "192.0.2.1");
        self.answer()
    }
    fn log(&mut self, record: &Record) {
        assert!(!record.fields().is_empty());
    }
    fn upstream_failure(&mut self) -> Option<UpstreamFailure> {
        self.failing.then(UpstreamFailure::default)
    }
    fn source_address(&mut self, out: &mut String) -> Result<(), HostError> {
        "192.0.2.1:1234".clone_into(out);
        self.answer()
    }
    fn session_id(&mut self) -> Result<i64, HostError> {
        self.answer().map(|()| 7)
    }
    fn close(&mut self) -> Result<(), HostError> {
        self.answer()
    }
    fn count(&mut self, metric: Metric, by: i64) {
        *self.metrics.entry(metric).or_default() += by;
    }
    fn warn(&mut self, _: &str) {}
}

impl Stream for Counting {
    fn read(&mut self, _: Way, len: usize) -> Result<Vec<u8>, HostError> {
        self.answer().map(|()| self.data[..len].to_vec())
    }
    fn replace(&mut self, _: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
        self.data.splice(..len, by.iter().copied());
        self.answer()
    }
    fn append(&mut self, _: Way, bytes: &[u8]) -> Result<(), HostError> {
        self.data.extend_from_slice(bytes);
        self.answer()
    }
}

impl Process for Counting {
    fn now(&mut self) -> Result<u64, HostError> {
        self.answer().map(|()| 0)
    }
    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        self.answer()?;
        let (value, version) = self.shared.get(key).cloned().unzip();
        *out = value.unwrap_or_default();
        Ok(version)
    }
    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
        self.answer()?;
        self.shared.insert(key.to_owned(), (value.to_owned(), version.unwrap_or(0).wrapping_add(1)));
        Ok(true)
    }
    fn random(&mut self) -> u64 {
        u64::MAX
    }
}

struct Connection {
    session: Rc<Session>,
    held: Vec<u8>,
    passed: bool,
}

fuzz_target!(|script: &[u8]| {
    let mut host = Counting::default();
    let mut gateway = Gateway::new().expect("the default is valid");
    let _ = gateway.configure(CONFIGS[0], &mut host);
    let (mut open, mut opened): (Vec<Connection>, u32) = (Vec::new(), 0);
    let mut ended_by_proxy = 0;
    // Those that waited when time last passed, and those that came since.
    let mut remembered = 0;
    let mut rest = script;
    while let Some((&action, after)) = rest.split_first() {
        rest = after;
        let which = usize::from(action >> 3) % open.len().max(1);
        match action & 7 {
            0 => {
                opened += 1;
                remembered += 1;
                let session = gateway.open(opened, &mut host);
                open.push(Connection { session, held: Vec::new(), passed: false });
            }
            1..=3 => {
                let (bytes, after) = rest.split_at(rest.len().min(usize::from(action >> 3)));
                rest = after;
                let which = usize::from(action) % open.len().max(1);
                let Some(connection) = open.get_mut(which) else { continue };
                connection.held.extend_from_slice(bytes);
                let end = action & 7 == 3;
                let verdict = gateway.data(&connection.session, &connection.held, end, &mut host);
                // Once let through, always let through, unless a message makes no sense.
                assert!(!connection.passed || verdict == Verdict::Pass);
                connection.passed = verdict == Verdict::Pass;
                if connection.passed && connection.session.translates() {
                    host.data = std::mem::take(&mut connection.held);
                    // What a client sends will do for a server's replies.
                    let way = if action & 7 == 2 { Way::ToClient } else { Way::ToServer };
                    let size = host.data.len();
                    connection.passed =
                        gateway.translate(&connection.session, way, size, &mut host) == Verdict::Pass;
                }
            }
            4 if which < open.len() => {
                let connection = open.swap_remove(which);
                let by_client = action & 8 == 0;
                ended_by_proxy += i64::from(connection.session.is_waiting() && !by_client);
                gateway.end(&connection.session, by_client, &mut host);
            }
            5 => gateway.tick(10 * u32::from(action >> 3), &mut host),
            6 => drop(gateway.configure(CONFIGS[usize::from(action >> 3) % CONFIGS.len()], &mut host)),
            _ => host.failing = !host.failing,
        }
        let routed = open.iter().filter(|connection| connection.passed).count();
        let waiting = open.iter().filter(|connection| connection.session.is_waiting()).count();
        let count = |metric| host.metrics.get(&metric).copied().unwrap_or(0);
        assert_eq!(count(Metric::AwaitingHeader), i64::try_from(waiting).expect("few"));
        assert_eq!(count(Metric::SessionsActive), i64::try_from(routed).expect("few"));
        assert_eq!(count(Metric::Routed), host.clusters);
        if action & 7 == 5 {
            remembered = waiting;
        }
        assert!((waiting..=remembered).contains(&gateway.remembered()));
        let settled =
            |metric: &&Metric| matches!(metric, Metric::Routed | Metric::Refused(_) | Metric::ClientGone);
        let ended: i64 = host.metrics.iter().filter(|(metric, _)| settled(metric)).map(|(_, n)| n).sum();
        // One that the host had forgotten when its time was up counts nowhere.
        let unaccounted = i64::from(opened) - i64::try_from(waiting).expect("few") - ended - ended_by_proxy;
        assert!(unaccounted >= 0, "counted twice");
    }
});
