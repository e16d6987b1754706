//! A real Envoy and its admin interface.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::http::{Answer, Http, Place};
use crate::netns::{self, Namespace};
use crate::process::Process;
use crate::{Failure, parts};

/// Envoy waits this long for a control plane's first answer before it serves without (15 s), and compiles
/// the filter on a busy machine.
const READY: Duration = Duration::from_mins(1);

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Place,
    http: Http,
}

/// An Envoy to be.
#[derive(Clone, Debug)]
pub struct Builder {
    dir: PathBuf,
    name: String,
    bootstrap: String,
    admin: Place,
    version: Option<String>,
    concurrency: u32,
    namespace: Option<String>,
    tells_at_once: bool,
}

impl Envoy {
    /// An Envoy with this bootstrap (YAML or JSON) and its files in `dir`. Its admin interface is on the port
    /// `admin` whatever the bootstrap says, or on the socket that this has.
    #[must_use]
    pub fn with(dir: &Path, bootstrap: impl Into<String>, admin: impl Into<Place>) -> Builder {
        Builder {
            dir: dir.to_owned(),
            name: "envoy".to_owned(),
            bootstrap: bootstrap.into(),
            admin: admin.into(),
            version: None,
            concurrency: 1,
            namespace: None,
            tells_at_once: false,
        }
    }

    /// Where the admin interface is.
    #[must_use]
    pub const fn admin(&self) -> &Place {
        &self.admin
    }

    /// The child process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Blocks until `/ready` says yes: everything that the bootstrap and the first answers of a control
    /// plane name is there.
    pub fn wait_ready(&mut self) -> Result<(), Failure> {
        let http = self.http.clone();
        let ready = || http.get("/ready").is_ok_and(|(status, _)| status == 200);
        self.process.wait_ready("Envoy is ready", READY, ready)
    }

    /// GET of an admin path.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> String {
        self.checked(self.http.get(path))
    }

    /// POST to an admin path, such as `/healthcheck/fail`.
    #[track_caller]
    pub fn post(&self, path: &str) -> String {
        self.checked(self.http.post(path))
    }

    #[track_caller]
    fn checked(&self, answer: Result<Answer, Failure>) -> String {
        match answer {
            Ok((200, body)) => body,
            other => panic!("Envoy's admin interface: {other:?}\n{}", self.process.log_tail()),
        }
    }

    /// Counters and gauges whose names start with `prefix`.
    #[track_caller]
    #[must_use]
    pub fn stats(&self, prefix: &str) -> BTreeMap<String, u64> {
        let text = self.get(&format!("/stats?filter={prefix}"));
        // Histograms and text readouts have no plain number and fall out here.
        let lines = text.lines().filter_map(|line| line.rsplit_once(": "));
        let stats = lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        stats.filter(|(name, _)| name.starts_with(prefix)).collect()
    }

    /// One counter or gauge; 0 while Envoy does not have it, since many appear when they first count.
    #[track_caller]
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        self.stats(name).get(name).copied().unwrap_or(0)
    }

    /// The whole configuration, endpoints included.
    #[track_caller]
    #[must_use]
    pub fn config_dump(&self) -> Value {
        let text = self.get("/config_dump?include_eds");
        serde_json::from_str(&text).expect("Envoy's configuration dump is JSON")
    }

    /// The filter's configuration as Envoy shows it: the longest text with routes that it holds.
    #[track_caller]
    #[must_use]
    pub fn filter_config(&self) -> String {
        longest_with_routes(&self.config_dump())
    }

    /// Clusters with their hosts.
    #[track_caller]
    #[must_use]
    pub fn clusters(&self) -> Value {
        let text = self.get("/clusters?format=json");
        serde_json::from_str(&text).expect("Envoy's cluster list is JSON")
    }
}

fn longest_with_routes(dump: &Value) -> String {
    let inner: Vec<_> = match dump {
        Value::String(text) if text.contains("\"routes\"") => return text.clone(),
        Value::Array(items) => items.iter().map(longest_with_routes).collect(),
        // The same configuration, should it be shown as an object instead of as text.
        Value::Object(map) if map.contains_key("routes") && map.contains_key("header_timeout_ms") => {
            return dump.to_string();
        }
        Value::Object(map) => map.values().map(longest_with_routes).collect(),
        _ => Vec::new(),
    };
    inner.into_iter().max_by_key(String::len).unwrap_or_default()
}

impl Builder {
    /// Names its files, for tests with several.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Takes another version than the newest, such as `1.37`.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    /// Worker threads; one unless set.
    #[must_use]
    pub const fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// Writes its access log at once, not after up to 10 s.
    #[must_use]
    pub const fn tells_at_once(mut self) -> Self {
        self.tells_at_once = true;
        self
    }

    /// Runs it in a network namespace.
    #[must_use]
    pub fn within(mut self, namespace: Option<&Namespace>) -> Self {
        self.namespace = namespace.map(|namespace| namespace.name().to_owned());
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Result<Envoy, Failure> {
        let mut envoy = self.spawn()?;
        envoy.wait_ready()?;
        Ok(envoy)
    }

    /// Starts it and waits only for the admin interface: without a control plane it is not ready for long.
    pub fn spawn(self) -> Result<Envoy, Failure> {
        let binary = match &self.version {
            Some(version) => parts::envoy_version(version)?,
            None => parts::ENVOY.find()?,
        };
        let bootstrap = self.dir.join(format!("{}.yaml", self.name));
        fs::write(&bootstrap, &self.bootstrap)
            .map_err(Failure::because(format!("cannot write {}", bootstrap.display())))?;
        let mut command = netns::command(self.namespace.as_deref(), &binary);
        command.arg("--config-path").arg(&bootstrap);
        if let Place::Port(admin) = &self.admin {
            let address = serde_json::json!({"address": admin.ip().to_string(), "port_value": admin.port()});
            let admin = serde_json::json!({"admin": {"address": {"socket_address": address}}});
            command.args(["--config-yaml", &admin.to_string()]);
        }
        command.args(["--concurrency", &self.concurrency.to_string(), "--log-level", "warning"]);
        // Nothing to hand over to a next generation, and no shared memory to clash on with other tests.
        command.args(["--disable-hot-restart", "--use-dynamic-base-id"]);
        if self.tells_at_once {
            command.args(["--file-flush-interval-msec", "50"]);
        }
        let mut process = Process::start(&self.name, &mut command, &self.dir)?;
        let http = Http::new(self.admin.clone());
        process.wait_ready("Envoy's admin interface answers", READY, || http.get("/ready").is_ok())?;
        Ok(Envoy { process, admin: self.admin, http })
    }
}
