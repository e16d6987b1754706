//! Wire scenarios: what a client sends, in which chunks, and what becomes of it. The same files in
//! `tests/scenarios` run natively, in the wasm module and through a real Envoy.
//!
//! A file is JSON: a filter configuration and the scenarios that use it.
//! ```json
//! {"config": {"routes": [{"server_type": 200, "to": [{"cluster": "game-{world}"}]}]},
//!  "scenarios": [
//!   {"name": "a header and half a body", "at_each_byte": true,
//!    "steps": [{"send": "04000110 02c80180"}, {"send": "61*2"}],
//!    "expect": {"cluster": "game-1"}},
//!   {"name": "half a header, then silence",
//!    "steps": [{"send": "04000110"}, {"wait_ms": 6000}], "expect": {"closed": "header_timeout"}}]}
//! ```
//! Bytes are hexadecimal, in groups as they read best; `61*2` stands for `61 61`.
//!
//! Where a service has a framing of its own, `{"reply": "..."}` is a step of its server, and what is to arrive is written
//! out. The session id is written as 0x0102030405060708 and stands for whichever the session has, see [`session`].
//! ```json
//! {"name": "a message and its echo",
//!  "steps": [{"send": "02003412 02c80100 aabb"},
//!            {"reply": "0b000000 34120000 00000000 0807060504030201 01 0807060504030201 aabb"}],
//!  "expect": {"cluster": "server",
//!             "to_backend": "0b000000 34120000 00000000 0807060504030201 01 0807060504030201 aabb",
//!             "to_client": "02003412 00000000 aabb"}}
//! ```

mod before;
mod corpus;
mod native;
pub mod session;

use std::path::Path;
use std::{fs, iter};

use serde::Deserialize;
use serde_json::Value;

pub use before::Before;
pub use corpus::corpus;
pub use native::run_natively;

use crate::{Failure, parts};

/// One scenario, ready to run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// File and name, for people.
    pub name: String,
    /// Plugin configuration of the filter.
    pub config: Value,
    /// The client's address as the filter sees it, `ip:port`. A runner on real sockets cannot choose it and
    /// leaves out the scenarios that [need it](Self::needs_source).
    pub source: Option<String>,
    /// What other connections do before this one comes.
    pub before: Vec<Before>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What is to come of it.
    pub expect: Expect,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The client sends this in one piece.
    Send(Vec<u8>),
    /// The server sends this in one piece.
    Reply(Vec<u8>),
    /// The client closes its sending side.
    EndStream,
    /// Nothing happens for so many milliseconds.
    WaitMs(u32),
    /// A new configuration is applied.
    Configure(Value),
    /// A new configuration is offered, which is to be refused.
    ConfigureBad(Value),
}

/// What is to come of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Routed to one of these clusters, with this hash key.
    Routed {
        /// More than one only where chance decides.
        clusters: Vec<String>,
        /// `None` = no key is set.
        hash_key: Option<String>,
        /// What the backend receives; `None` = what the client sends.
        to_backend: Option<Vec<u8>>,
        /// What the client receives; `None` = what the server sends.
        to_client: Option<Vec<u8>>,
        /// The reason with which the filter closes the session in the end; `None` = it does not.
        closed: Option<String>,
    },
    /// Closed by the filter with this reason, unrouted; no byte reaches a backend.
    Closed(String),
    /// Neither: the connection is open and no byte has reached a backend.
    Waiting,
    /// The configuration is not taken; the text with which the refusal begins, its place first.
    ConfigRefused(String),
}

/// What came of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The refusal of the scenario's configuration.
    pub config_refused: Option<String>,
    /// The cluster chosen.
    pub cluster: Option<String>,
    /// The hash key set.
    pub hash_key: Option<String>,
    /// The reason the connection was closed with.
    pub closed: Option<String>,
    /// What was let through to the backend.
    pub to_backend: Vec<u8>,
    /// What was let through to the client.
    pub to_client: Vec<u8>,
}

/// Why the filter closed a connection, by what it tells the access log; `None` = it did not.
#[must_use]
pub fn closed_by_filter(fields: &str) -> Option<String> {
    let fields: Value = serde_json::from_str(&format!("{{{}}}", fields.strip_prefix(',')?)).ok()?;
    let reason = fields.get("close_reason")?.as_str()?;
    (!["client", "server", "proxy"].contains(&reason)).then(|| reason.to_owned())
}

impl Scenario {
    /// Whether the outcome depends on [`Self::source`].
    #[must_use]
    pub const fn needs_source(&self) -> bool {
        self.source.is_some()
    }

    /// The client's address where the runner can choose it.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        let has_others = !self.before.is_empty();
        self.source.clone().or_else(|| has_others.then(|| before::SOURCE.to_owned()))
    }

    /// Everything that the client sends.
    #[must_use]
    pub fn sent(&self) -> Vec<u8> {
        let sent = self.steps.iter().filter_map(|step| match step {
            Step::Send(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        sent.collect::<Vec<_>>().concat()
    }

    /// Everything that the server sends.
    #[must_use]
    pub fn replied(&self) -> Vec<u8> {
        let replied = self.steps.iter().filter_map(|step| match step {
            Step::Reply(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        replied.collect::<Vec<_>>().concat()
    }

    /// What the backend is to receive.
    #[must_use]
    pub fn expected_at_backend(&self) -> Vec<u8> {
        match &self.expect {
            Expect::Routed { to_backend, .. } => to_backend.clone().unwrap_or_else(|| self.sent()),
            Expect::Closed(_) | Expect::Waiting | Expect::ConfigRefused(_) => Vec::new(),
        }
    }

    /// What the client is to receive.
    #[must_use]
    pub fn expected_at_client(&self) -> Vec<u8> {
        match &self.expect {
            Expect::Routed { to_client, .. } => to_client.clone().unwrap_or_else(|| self.replied()),
            Expect::Closed(_) | Expect::Waiting | Expect::ConfigRefused(_) => Vec::new(),
        }
    }

    /// Compares an outcome with what was expected.
    ///
    /// # Errors
    /// Names the scenario, what was expected and what came.
    pub fn check(&self, outcome: &Outcome) -> Result<(), Failure> {
        let Outcome { config_refused, cluster, hash_key, closed, to_backend, to_client } = outcome;
        let as_expected = match &self.expect {
            Expect::Routed { clusters, hash_key: key, closed: reason, .. } => {
                cluster.as_ref().is_some_and(|cluster| clusters.contains(cluster))
                    && hash_key == key
                    && closed == reason
            }
            Expect::Closed(reason) => cluster.is_none() && closed.as_ref() == Some(reason),
            Expect::Waiting => cluster.is_none() && closed.is_none() && config_refused.is_none(),
            Expect::ConfigRefused(text) => {
                config_refused.as_ref().is_some_and(|told| told.starts_with(text.as_str()))
            }
        };
        if !as_expected {
            return Err(Failure::new(format!(
                "{}: expected {:?}; got cluster {cluster:?}, hash key {hash_key:?}, closed {closed:?}, configuration \
                 refused {config_refused:?}",
                self.name, self.expect,
            )));
        }
        session::compare(&self.expected_at_backend(), to_backend)
            .and_then(|()| session::compare(&self.expected_at_client(), to_client))
            .map_err(Failure::because(&self.name))
    }
}

/// All scenarios of `tests/scenarios`, those that ask for it once for each way to chop them.
pub fn load_scenarios() -> Result<Vec<Scenario>, Failure> {
    let folder = parts::workspace().join("tests/scenarios");
    let because = || Failure::because(format!("reading {}", folder.display()));
    let entries = fs::read_dir(&folder).map_err(because())?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(because())?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut scenarios = Vec::new();
    for path in paths {
        scenarios.extend(read_file(&path).map_err(Failure::because(path.display()))?);
    }
    if scenarios.is_empty() {
        return Err(Failure::new(format!("no scenarios in {}", folder.display())));
    }
    Ok(scenarios)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    config: Value,
    scenarios: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    /// Instead of the file's.
    config: Option<Value>,
    source: Option<String>,
    /// Also with the first bytes cut at each place, and byte by byte.
    #[serde(default)]
    at_each_byte: bool,
    #[serde(default)]
    before: Vec<Before>,
    #[serde(default)]
    steps: Vec<WrittenStep>,
    expect: WrittenExpect,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenStep {
    Send(String),
    Reply(String),
    EndStream,
    WaitMs(u32),
    Configure(Value),
    ConfigureBad(Value),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
struct WrittenExpect {
    cluster: Option<String>,
    one_of: Option<Vec<String>>,
    hash_key: Option<String>,
    to_backend: Option<String>,
    to_client: Option<String>,
    closed: Option<String>,
    config_refused: Option<String>,
}

fn read_file(path: &Path) -> Result<Vec<Scenario>, Failure> {
    let text = fs::read(path).map_err(Failure::because("reading"))?;
    let file: File = serde_json::from_slice(&text).map_err(Failure::because("reading"))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut scenarios = Vec::new();
    for written in file.scenarios {
        let name = format!("{stem}: {}", written.name);
        let steps: Result<Vec<_>, _> = written.steps.into_iter().map(step).collect();
        let scenario = Scenario {
            config: written.config.unwrap_or_else(|| file.config.clone()),
            source: written.source,
            before: written.before,
            steps: steps.map_err(Failure::because(&name))?,
            expect: expect(written.expect).map_err(Failure::because(&name))?,
            name,
        };
        if written.at_each_byte {
            scenarios.extend(chopped(&scenario));
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

fn step(step: WrittenStep) -> Result<Step, Failure> {
    Ok(match step {
        WrittenStep::Send(text) => Step::Send(bytes(&text)?),
        WrittenStep::Reply(text) => Step::Reply(bytes(&text)?),
        WrittenStep::EndStream => Step::EndStream,
        WrittenStep::WaitMs(ms) => Step::WaitMs(ms),
        WrittenStep::Configure(config) => Step::Configure(config),
        WrittenStep::ConfigureBad(config) => Step::ConfigureBad(config),
    })
}

fn expect(written: WrittenExpect) -> Result<Expect, Failure> {
    let WrittenExpect { cluster, one_of, hash_key, to_backend, to_client, closed, config_refused } = written;
    let to_backend = to_backend.map(|text| bytes(&text)).transpose()?;
    let to_client = to_client.map(|text| bytes(&text)).transpose()?;
    match (cluster, one_of, closed, config_refused) {
        (Some(cluster), None, closed, None) => {
            Ok(Expect::Routed { clusters: vec![cluster], hash_key, to_backend, to_client, closed })
        }
        (None, Some(clusters), closed, None) => {
            Ok(Expect::Routed { clusters, hash_key, to_backend, to_client, closed })
        }
        (None, None, Some(reason), None) => Ok(Expect::Closed(reason)),
        (None, None, None, Some(text)) => Ok(Expect::ConfigRefused(text)),
        (None, None, None, None) => Ok(Expect::Waiting),
        _ => Err(Failure::new("expects two things at once")),
    }
}

/// Reads hexadecimal groups, `61*2` for a repeated one.
fn bytes(text: &str) -> Result<Vec<u8>, Failure> {
    let bad = |group: &str| Failure::new(format!("`{group}` is not hexadecimal bytes"));
    let mut bytes = Vec::new();
    for group in text.split_whitespace() {
        let (digits, times) = match group.split_once('*') {
            Some((digits, times)) => (digits, times.parse().map_err(|_| bad(group))?),
            None => (group, 1_usize),
        };
        if digits.len() % 2 != 0 || !digits.is_ascii() {
            return Err(bad(group));
        }
        let pairs = (0..digits.len()).step_by(2).filter_map(|i| digits.get(i..i + 2));
        let once: Result<Vec<u8>, _> = pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
        bytes.extend(once.map_err(|_| bad(group))?.repeat(times));
    }
    Ok(bytes)
}

/// The scenario with its first bytes, and those of its first reply, sent in other pieces: cut in two at each place up to
/// behind the header, and each byte by itself.
fn chopped(scenario: &Scenario) -> Vec<Scenario> {
    let is_reply = |step: &Step| matches!(step, Step::Reply(_));
    let first_reply = scenario.steps.iter().position(is_reply);
    let of_client = chopped_at(scenario, 0, 10);
    of_client.into_iter().chain(first_reply.into_iter().flat_map(|at| chopped_at(scenario, at, 31))).collect()
}

fn chopped_at(scenario: &Scenario, step: usize, cuts: usize) -> Vec<Scenario> {
    let (before, rest) = scenario.steps.split_at(step);
    let Some((chopped, rest)) = rest.split_first() else { return Vec::new() };
    let (bytes, what, make): (_, _, fn(Vec<u8>) -> Step) = match chopped {
        Step::Send(bytes) => (bytes, "", Step::Send),
        Step::Reply(bytes) => (bytes, "reply ", Step::Reply),
        _ => return Vec::new(),
    };
    let variant = |name: String, pieces: Vec<&[u8]>| {
        let pieces = pieces.into_iter().map(|piece| make(piece.to_vec()));
        let steps = before.iter().cloned().chain(pieces).chain(rest.iter().cloned()).collect();
        Scenario { name, steps, ..scenario.clone() }
    };
    let cuts = (1..bytes.len().min(cuts)).map(|at| {
        let (left, right) = bytes.split_at(at);
        variant(format!("{}, {what}cut at {at}", scenario.name), vec![left, right])
    });
    let single = variant(format!("{}, {what}byte by byte", scenario.name), bytes.chunks(1).collect());
    cuts.chain(iter::once(single)).collect()
}
