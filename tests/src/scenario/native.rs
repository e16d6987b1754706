//! Runs a scenario against the filter's core, with a host that writes down what it is told.

use realmgate_filter::Gateway;
use realmgate_filter::host::{Host, HostError};
use realmgate_filter::session::{CLOSE_REASON, Verdict};
use realmgate_filter::telemetry::Metric;

use super::{Outcome, Scenario, Step};
use crate::Failure;

/// The only connection's id.
const CONNECTION: u32 = 2;

/// Runs it.
pub fn run_natively(scenario: &Scenario) -> Result<Outcome, Failure> {
    let mut host = Recorder { source: scenario.source.clone(), ..Recorder::default() };
    let mut gateway = Gateway::new().map_err(Failure::because("making a gateway"))?;
    if let Err(error) = gateway.configure(scenario.config.to_string().as_bytes(), &mut host) {
        host.outcome.config_refused = Some(error.to_string());
        return Ok(host.outcome);
    }
    let session = gateway.open(CONNECTION, &mut host);
    let mut held = Vec::new();
    for step in &scenario.steps {
        if host.closed {
            break;
        }
        match step {
            Step::Send(bytes) => held.extend_from_slice(bytes),
            Step::EndStream => {}
            Step::WaitMs(ms) => {
                let period = gateway.tick_period_ms().unwrap_or(*ms).max(1);
                for _ in 0..ms / period {
                    gateway.tick(period, &mut host);
                }
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
        if gateway.data(&session, &held, end_of_stream, &mut host) == Verdict::Pass {
            host.outcome.to_backend.append(&mut held);
        }
    }
    gateway.end(&session, true, &mut host);
    if host.awaiting != 0 {
        return Err(Failure::new(format!(
            "{}: {} connections are left waiting",
            scenario.name, host.awaiting
        )));
    }
    Ok(host.outcome)
}

#[derive(Default)]
struct Recorder {
    outcome: Outcome,
    source: Option<String>,
    closed: bool,
    awaiting: i64,
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
    fn set_property(&mut self, name: &'static str, value: &str) -> Result<(), HostError> {
        if name == CLOSE_REASON {
            self.outcome.closed = Some(value.to_owned());
        }
        Ok(())
    }
    fn source_address(&mut self, out: &mut String) -> Result<(), HostError> {
        self.source.as_ref().ok_or_else(|| refused("source_address"))?.clone_into(out);
        Ok(())
    }
    fn close(&mut self) -> Result<(), HostError> {
        self.closed = true;
        Ok(())
    }
    fn count(&mut self, metric: Metric, by: i64) {
        if metric == Metric::AwaitingHeader {
            self.awaiting += by;
        }
    }
    fn random(&mut self) -> u64 {
        0
    }
    fn warn(&mut self, _message: &str) {}
}

fn refused(call: &'static str) -> HostError {
    HostError { call, reason: "not in this scenario".to_owned() }
}
