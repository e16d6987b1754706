//! A real Prometheus with the rules of `prometheus/`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::http::Http;
use crate::process::Process;
use crate::{Failure, parts};

const READY: Duration = Duration::from_secs(30);

/// Often enough that a test need not wait, an interval that divides a second, and time enough for a target to answer.
const INTERVAL: &str = "500ms";

/// A running server.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    http: Http,
}

/// One series of an answer: its labels, without the name and Prometheus' own `job` and `instance`, and its value.
pub type Series = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// Starts a server on `address` with its data in `dir`. It asks each target, a job's name and where that one's
    /// `/metrics` is, twice a second, and evaluates the rules as often.
    pub fn start(dir: &Path, address: SocketAddr, targets: &[(&str, SocketAddr)]) -> Result<Self, Failure> {
        let rules = parts::workspace().join("prometheus");
        let job = |(name, at): &(&str, SocketAddr)| json!({"job_name": name, "static_configs": [{"targets": [at.to_string()]}]});
        let config = json!({
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [rules.join("*.rules.yml"), rules.join("*.alerts.yml")],
            "scrape_configs": targets.iter().map(job).collect::<Vec<_>>(),
        });
        let file = dir.join("prometheus.yml");
        fs::write(&file, config.to_string())
            .map_err(Failure::because(format!("cannot write {}", file.display())))?;
        let mut command = Command::new(parts::PROMETHEUS.find()?);
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        command.arg(flag("config.file", &file.display()));
        command.arg(flag("storage.tsdb.path", &dir.join("prometheus").display()));
        command.arg(flag("web.listen-address", &address));
        let mut process = Process::start("prometheus", &mut command, dir)?;
        let http = Http::new(address);
        let up = || http.get("/-/ready").is_ok_and(|(status, _)| status == 200);
        process.wait_ready("Prometheus is ready", READY, up)?;
        Ok(Self { process, http })
    }

    /// What a query gives now.
    #[track_caller]
    #[must_use]
    pub fn query(&self, query: &str) -> Vec<Series> {
        let body = format!("query={}", form_encoded(query));
        let answer = self.http.send("POST", "/api/v1/query", "application/x-www-form-urlencoded", &body);
        let (status, body) = answer.unwrap_or_else(|e| panic!("{e}\n{}", self.process.log_tail()));
        assert_eq!(status, 200, "{query}: {body}");
        let answer: Answer = serde_json::from_str(&body).expect("Prometheus answers with a vector");
        answer.data.result.into_iter().map(Sample::series).collect()
    }

    /// The sum of what a query gives; `None` if that is nothing.
    #[track_caller]
    #[must_use]
    pub fn value(&self, query: &str) -> Option<f64> {
        let series = self.query(query);
        (!series.is_empty()).then(|| series.iter().map(|(_, value)| value).sum())
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    metric: BTreeMap<String, String>,
    /// When, and what: a number in a string, which may be `NaN`.
    value: (f64, String),
}

impl Sample {
    fn series(mut self) -> Series {
        self.metric.retain(|name, _| !["__name__", "job", "instance"].contains(&name.as_str()));
        (self.metric, self.value.1.parse().expect("a number"))
    }
}

fn form_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        // Writing to a String cannot fail.
        let _ = write!(encoded, "%{byte:02X}");
        encoded
    })
}
