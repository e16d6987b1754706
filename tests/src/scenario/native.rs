//! Runs a scenario against the filter's core, with a host that writes down what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use realmgate_filter::Gateway;
use realmgate_filter::access_log::Record;
use realmgate_filter::host::{Host, HostError, Process, Stream, UpstreamFailure, Way};
use realmgate_filter::session::{Session, Verdict};
use realmgate_filter::telemetry::Metric;

use super::{Before, Outcome, Scenario, Step, closed_by_filter, session};
use crate::Failure;

/// The only connection's id.
const CONNECTION: u32 = 2;

/// Runs it.
pub fn run_natively(scenario: &Scenario) -> Result<Outcome, Failure> {
    let mut host = Recorder { source: scenario.source(), ..Recorder::default() };
    let mut gateway = Gateway::new().map_err(Failure::because("making a gateway"))?;
    if let Err(error) = gateway.configure(scenario.config.to_string().as_bytes(), &mut host) {
        host.outcome.config_refused = Some(error.to_string());
        return Ok(host.outcome);
    }
    let others = play_before(scenario, &mut gateway, &mut host);
    let session = gateway.open(CONNECTION, &mut host);
    for step in &scenario.steps {
        if host.closed {
            break;
        }
        match step {
            Step::Send(bytes) => host.on_its_way(Way::ToServer).extend_from_slice(bytes),
            Step::Reply(bytes) => {
                host.to_client.extend_from_slice(bytes);
                relay(&mut gateway, &session, Way::ToClient, &mut host);
                continue;
            }
            Step::EndStream => {}
            Step::WaitMs(ms) => {
                wait(*ms, &mut gateway, &mut host);
                continue;
            }
            Step::Configure(config) | Step::ConfigureBad(config) => {
                let taken = gateway.configure(config.to_string().as_bytes(), &mut host).is_ok();
                if taken == matches!(step, Step::ConfigureBad(_)) {
                    return Err(Failure::new(format!("{}: configuration taken: {taken}", scenario.name)));
                }
                continue;
            }
        }
        let end_of_stream = matches!(step, Step::EndStream);
        let held = host.to_server.clone();
        if gateway.data(&session, &held, end_of_stream, &mut host) == Verdict::Pass {
            relay(&mut gateway, &session, Way::ToServer, &mut host);
        }
    }
    // Its end is the client's, whatever the access log is told of it.
    let outcome = host.outcome.clone();
    gateway.end(&session, true, &mut host);
    for session in &others {
        gateway.end(session, true, &mut host);
    }
    if host.left != 0 {
        return Err(Failure::new(format!(
            "{}: {} connections are left in a gauge",
            scenario.name, host.left
        )));
    }
    Ok(outcome)
}

/// The other connections that are left.
fn play_before(scenario: &Scenario, gateway: &mut Gateway, host: &mut Recorder) -> VecDeque<Rc<Session>> {
    let mut others = VecDeque::new();
    for before in &scenario.before {
        match before {
            Before::Open(count) => {
                let ids = CONNECTION + 1..=CONNECTION + count;
                others.extend(ids.map(|id| gateway.open(id, host)));
            }
            Before::Close(count) => {
                for _ in 0..*count {
                    if let Some(session) = others.pop_front() {
                        gateway.end(&session, true, host);
                    }
                }
            }
            Before::WaitMs(ms) => wait(*ms, gateway, host),
        }
    }
    // What the access log is told of them is not this one's.
    host.outcome = Outcome::default();
    others
}

fn wait(ms: u32, gateway: &mut Gateway, host: &mut Recorder) {
    host.now_ms += u64::from(ms);
    let period = gateway.tick_period_ms().unwrap_or(ms).max(1);
    for _ in 0..ms / period {
        gateway.tick(period, host);
        gateway.beat(host);
    }
}

/// Lets the data that is on its way through, translated where the session wants it.
fn relay(gateway: &mut Gateway, session: &Session, way: Way, host: &mut Recorder) {
    let size = host.on_its_way(way).len();
    if !session.translates() || gateway.translate(session, way, size, host) == Verdict::Pass {
        let mut data = std::mem::take(host.on_its_way(way));
        match way {
            Way::ToServer => host.outcome.to_backend.append(&mut data),
            Way::ToClient => host.outcome.to_client.append(&mut data),
        }
    }
}

#[derive(Default)]
struct Recorder {
    outcome: Outcome,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    source: Option<String>,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    now_ms: u64,
    closed: bool,
    left: i64,
}

impl Recorder {
    fn on_its_way(&mut self, way: Way) -> &mut Vec<u8> {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToClient => &mut self.to_client,
        }
    }
}

impl Host for Recorder {
    fn select(&mut self, connection: u32) -> Result<(), HostError> {
        if connection == CONNECTION { Ok(()) } else { Err(refused("select")) }
    }
    fn choose_cluster(&mut self, cluster: &str) -> Result<(), HostError> {
        self.outcome.cluster = Some(cluster.to_owned());
        Ok(())
    }
    fn set_hash_key(&mut self, key: &str) -> Result<(), HostError> {
        self.outcome.hash_key = Some(key.to_owned());
        Ok(())
    }
    fn log(&mut self, record: &Record) {
        self.outcome.closed = closed_by_filter(&record.fields());
    }
    fn upstream_failure(&mut self) -> Option<UpstreamFailure> {
        None
    }
    fn source_address(&mut self, out: &mut String) -> Result<(), HostError> {
        self.source.as_ref().ok_or_else(|| refused("source_address"))?.clone_into(out);
        Ok(())
    }
    fn session_id(&mut self) -> Result<i64, HostError> {
        Ok(session::ID)
    }
    fn close(&mut self) -> Result<(), HostError> {
        self.closed = true;
        Ok(())
    }
    fn count(&mut self, metric: Metric, by: i64) {
        if matches!(metric, Metric::AwaitingHeader | Metric::SessionsActive) {
            self.left += by;
        }
    }
    fn warn(&mut self, _message: &str) {}
}

impl Stream for Recorder {
    fn read(&mut self, way: Way, len: usize) -> Result<Vec<u8>, HostError> {
        Ok(self.on_its_way(way).iter().copied().take(len).collect())
    }
    fn replace(&mut self, way: Way, len: usize, by: &[u8]) -> Result<(), HostError> {
        self.on_its_way(way).splice(..len, by.iter().copied());
        Ok(())
    }
    fn append(&mut self, way: Way, bytes: &[u8]) -> Result<(), HostError> {
        self.on_its_way(way).extend_from_slice(bytes);
        Ok(())
    }
}

impl Process for Recorder {
    fn now(&mut self) -> Result<u64, HostError> {
        Ok(self.now_ms * 1_000_000)
    }
    fn load(&mut self, key: &str, out: &mut Vec<u8>) -> Result<Option<u32>, HostError> {
        let (value, version) = self.shared.get(key).cloned().unzip();
        *out = value.unwrap_or_default();
        Ok(version)
    }
    fn store(&mut self, key: &str, value: &[u8], version: Option<u32>) -> Result<bool, HostError> {
        let next = version.unwrap_or(0) + 1;
        self.shared.insert(key.to_owned(), (value.to_owned(), next));
        Ok(true)
    }
    fn random(&mut self) -> u64 {
        0
    }
}

fn refused(call: &'static str) -> HostError {
    HostError { call, reason: "not in this scenario".to_owned() }
}
