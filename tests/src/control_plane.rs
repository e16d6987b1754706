//! A real control plane: the `realmgate` binary, its settings, its API and its command line.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::http::{Answer, Http};
use crate::netns::{self, Namespace};
use crate::process::Process;
use crate::{Failure, parts};

const READY: Duration = Duration::from_secs(30);

/// The variable that tells the commands where the API is.
pub const API_VARIABLE: &str = "REALMGATE_API";

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    binary: PathBuf,
    config: PathBuf,
    dir: PathBuf,
    api: SocketAddr,
    xds: SocketAddr,
    http: Http,
    /// The network namespace that it runs in.
    namespace: Option<String>,
}

impl ControlPlane {
    /// Starts `realmgate serve` with these listeners and further `settings` (an object, nested as in
    /// `realmgate.yaml`), its files in `dir`, and waits until `/healthz` answers.
    pub fn start(dir: &Path, xds: SocketAddr, api: SocketAddr, settings: &Value) -> Result<Self, Failure> {
        Self::start_in(None, dir, xds, api, settings)
    }

    /// The same of another build.
    pub fn start_build(
        binary: &Path,
        dir: &Path,
        xds: SocketAddr,
        api: SocketAddr,
        settings: &Value,
    ) -> Result<Self, Failure> {
        Self::start_any(binary.to_owned(), None, dir, xds, api, settings)
    }

    /// The same in a network namespace.
    pub fn start_in(
        namespace: Option<&Namespace>,
        dir: &Path,
        xds: SocketAddr,
        api: SocketAddr,
        settings: &Value,
    ) -> Result<Self, Failure> {
        Self::start_any(parts::REALMGATE.find()?, namespace, dir, xds, api, settings)
    }

    fn start_any(
        binary: PathBuf,
        namespace: Option<&Namespace>,
        dir: &Path,
        xds: SocketAddr,
        api: SocketAddr,
        settings: &Value,
    ) -> Result<Self, Failure> {
        let mut all = serde_json::json!({
            "xds": {"listen": xds.to_string()},
            "api": {"listen": api.to_string()},
            "data_dir": dir.join("data"),
        });
        merge_settings(&mut all, settings);
        let config = dir.join("realmgate.yaml");
        fs::create_dir_all(dir)
            // JSON is YAML.
            .and_then(|()| fs::write(&config, format!("{all:#}\n")))
            .map_err(Failure::because(format!("cannot write {}", config.display())))?;
        let namespace = namespace.map(|namespace| namespace.name().to_owned());
        let process = run(namespace.as_deref(), &binary, &config, dir, api)?;
        Ok(Self { process, binary, config, dir: dir.to_owned(), api, xds, http: Http::new(api), namespace })
    }

    /// Where the API is.
    #[must_use]
    pub const fn api(&self) -> SocketAddr {
        self.api
    }

    /// Where Envoys connect.
    #[must_use]
    pub const fn xds(&self) -> SocketAddr {
        self.xds
    }

    /// The child process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops it at once, as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again with the settings and data it had; ends it first if it still runs.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.terminate();
        self.process = run(self.namespace.as_deref(), &self.binary, &self.config, &self.dir, self.api)?;
        Ok(())
    }

    /// GET of an API path.
    #[track_caller]
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.http.get(path).unwrap_or_else(|e| panic!("{e}\n{}", self.process.log_tail()))
    }

    /// `/readyz`, whatever its status.
    #[track_caller]
    #[must_use]
    pub fn readyz(&self) -> Answer {
        self.get("/readyz")
    }

    /// PUT of a policy (YAML or JSON), with a query such as `?dry_run=true` or none.
    #[track_caller]
    pub fn put_policy_with(&self, query: &str, policy: &str) -> Answer {
        let answer = self.http.send("PUT", &format!("/v1/policy{query}"), "application/yaml", policy);
        answer.unwrap_or_else(|e| panic!("{e}\n{}", self.process.log_tail()))
    }

    /// Makes this the policy, whatever it takes away, and waits until every connected proxy has it or has refused something.
    #[track_caller]
    pub fn put_policy(&self, policy: &str) {
        let (status, body) = self.put_policy_with("?wait=applied&timeout=40s&force=true", policy);
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        let is_refused = answer.pointer("/applied/rejecting/0").is_some();
        let is_awaited = answer.pointer("/applied/pending/0").is_some();
        let is_settled = status == 200 || status == 202 && is_refused && !is_awaited;
        assert!(is_settled, "the policy is not in force everywhere: {status} {body}\n{policy}");
    }

    /// Runs a command of the binary against this control plane.
    pub fn realmgate(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env(API_VARIABLE, format!("http://{}", self.api)).current_dir(&self.dir);
        command.output().map_err(Failure::because(format!("realmgate {}", arguments.join(" "))))
    }

    /// The bootstrap of an edge that connects here, from `realmgate envoy-bootstrap`, with its admin interface
    /// (and what asks it) on `admin`.
    pub fn edge_bootstrap(&self, id: &str, admin: SocketAddr) -> Result<String, Failure> {
        self.edge_bootstrap_with(id, admin, &[])
    }

    /// The same with further arguments.
    pub fn edge_bootstrap_with(&self, id: &str, admin: SocketAddr, more: &[&str]) -> Result<String, Failure> {
        self.bootstrap("edge", id, admin, more)
    }

    /// The same of a proxy of any role.
    pub fn bootstrap(
        &self,
        role: &str,
        id: &str,
        admin: SocketAddr,
        more: &[&str],
    ) -> Result<String, Failure> {
        let port = admin.port().to_string();
        let text = self.printed_bootstrap(role, id, &[&["--admin-port", &port], more].concat())?;
        Ok(move_admin(&text, admin))
    }

    /// What `realmgate envoy-bootstrap` prints for a proxy that connects here.
    pub fn printed_bootstrap(&self, role: &str, id: &str, more: &[&str]) -> Result<String, Failure> {
        let xds = self.xds.to_string();
        let arguments = ["envoy-bootstrap", "--role", role, "--id", id, "--control-plane", &xds];
        let output = self.realmgate(&[&arguments[..], more].concat())?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("realmgate envoy-bootstrap: {}: {error}", output.status)));
        }
        String::from_utf8(output.stdout).map_err(Failure::because("realmgate envoy-bootstrap"))
    }
}

/// The command puts the admin interface on 127.0.0.1, which all tests would have to share.
fn move_admin(bootstrap: &str, admin: SocketAddr) -> String {
    let is = |line: Option<&&str>, key: &str, value: &str| {
        let found = line.and_then(|line| line.trim().strip_prefix(key));
        found.is_some_and(|found| found.trim().trim_matches('"') == value)
    };
    let port = admin.port().to_string();
    let lines: Vec<_> = bootstrap.lines().collect();
    let moved = lines.iter().enumerate().map(|(n, line)| {
        let here = is(Some(line), "address:", "127.0.0.1") && is(lines.get(n + 1), "port_value:", &port);
        let line = if here { line.replace("127.0.0.1", &admin.ip().to_string()) } else { (*line).to_owned() };
        line + "\n"
    });
    moved.collect()
}

fn run(
    namespace: Option<&str>,
    binary: &Path,
    config: &Path,
    dir: &Path,
    api: SocketAddr,
) -> Result<Process, Failure> {
    let mut command = netns::command(namespace, binary);
    command.arg("serve").arg("--config").arg(config);
    let mut process = Process::start("realmgate", &mut command, dir)?;
    let http = Http::new(api);
    let up = || http.get("/healthz").is_ok_and(|(status, _)| status == 200);
    process.wait_ready("the control plane is up", READY, up)?;
    Ok(process)
}

/// Puts `extra` over `base`, object by object.
pub fn merge_settings(base: &mut Value, extra: &Value) {
    match (base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                merge_settings(base.entry(key).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (base, extra) => *base = extra.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{merge_settings, move_admin};

    #[test]
    fn settings_are_put_over_the_defaults() {
        let mut base = json!({"xds": {"listen": "a"}, "data_dir": "d"});
        merge_settings(
            &mut base,
            &json!({"xds": {"insecure": true}, "data_dir": "e", "redis": {"url": "r"}}),
        );
        let expected =
            json!({"xds": {"listen": "a", "insecure": true}, "data_dir": "e", "redis": {"url": "r"}});
        assert_eq!(base, expected);
    }

    #[test]
    fn only_the_admin_interface_moves() {
        let address = |ip: &str, port: u16| format!("  address: \"{ip}\"\n  port_value: {port}\n");
        let before = address("127.0.0.1", 9901) + "x:\n" + &address("127.0.0.1", 18000);
        let after = address("127.70.1.2", 9901) + "x:\n" + &address("127.0.0.1", 18000);
        assert_eq!(move_admin(&before, "127.70.1.2:9901".parse().unwrap()), after);
    }
}
