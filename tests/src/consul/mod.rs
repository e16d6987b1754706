//! Real Consul servers: one datacenter, or two that are joined over WAN, with Connect on.
//!
//! A server has an address of its own, so its ports are Consul's usual ones. Two of them are ready about two
//! seconds after the start, most of which Consul waits before it elects itself.

mod access;
mod service;

pub use access::{in_url, run_script};
pub use service::{Health, Service};

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::address::Address;
use crate::control_plane::merge_settings;
use crate::http::{Answer, Http};
use crate::process::Process;
use crate::wait::poll;
use crate::{Failure, netns, parts};

/// Electing itself takes two seconds, twice that where the machine is busy.
const READY: Duration = Duration::from_mins(1);

const HTTP_PORT: u16 = 8500;

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The datacenter.
    pub datacenter: String,
    /// Where it listens; `None` = a loopback address of its own.
    pub ip: Option<IpAddr>,
    /// The primary datacenter and the address of its server; `None` = this is the primary.
    pub primary: Option<(String, IpAddr)>,
    /// With a token: ACLs are on, deny by default, and this is the token that may do everything.
    pub token: Option<String>,
    /// The network namespace that it runs in.
    pub namespace: Option<String>,
    /// Further settings of Consul's own, merged over ours.
    pub settings: Value,
}

impl Config {
    /// A primary datacenter on an address of its own, without ACLs.
    #[must_use]
    pub fn new(datacenter: &str) -> Self {
        Self {
            datacenter: datacenter.to_owned(),
            ip: None,
            primary: None,
            token: None,
            namespace: None,
            settings: json!({}),
        }
    }
}

/// A running server. Stopped and reaped on drop.
#[derive(Debug)]
pub struct Consul {
    process: Process,
    config: Config,
    dir: PathBuf,
    ip: IpAddr,
    http: Http,
    _claim: Option<Address>,
}

/// Two datacenters that know each other over WAN; `aws` is the primary.
#[derive(Debug)]
pub struct TwoDatacenters {
    /// The primary.
    pub aws: Consul,
    /// The other one.
    pub azure: Consul,
}

impl TwoDatacenters {
    /// Starts both with their files below `dir`; ACLs as [`Config::token`] says.
    pub fn start(dir: &Path, token: Option<&str>) -> Result<Self, Failure> {
        let config = |name: &str| Config { token: token.map(str::to_owned), ..Config::new(name) };
        Self::with(dir, config("aws"), config("azure"))
    }

    /// Starts these; the first is the primary of the second, unless that says where it finds its primary.
    pub fn with(dir: &Path, aws: Config, mut azure: Config) -> Result<Self, Failure> {
        let mut aws = Consul::launch(dir, aws)?;
        azure.primary.get_or_insert_with(|| (aws.config.datacenter.clone(), aws.ip));
        // Both elect themselves at the same time.
        let mut azure = Consul::launch(dir, azure)?;
        aws.wait_ready()?;
        azure.wait_ready()?;
        let both = Self { aws, azure };
        both.wait_joined()?;
        Ok(both)
    }

    /// Waits until each answers for the other, as after a restart of one.
    pub fn wait_joined(&self) -> Result<(), Failure> {
        for (here, there) in [(&self.aws, &self.azure), (&self.azure, &self.aws)] {
            let path = format!("/v1/catalog/nodes?dc={}", there.config.datacenter);
            poll("the datacenters are joined", READY, || Ok(here.answers(&path).then_some(())))?;
        }
        Ok(())
    }
}

impl Consul {
    /// Starts a server with its files in `<dir>/consul-<datacenter>`, and waits until it leads and has a CA.
    pub fn start(dir: &Path, config: Config) -> Result<Self, Failure> {
        let mut consul = Self::launch(dir, config)?;
        consul.wait_ready()?;
        Ok(consul)
    }

    fn launch(dir: &Path, config: Config) -> Result<Self, Failure> {
        let claim = config.ip.is_none().then(Address::claim);
        let ip = claim.as_ref().map(Address::ip).or(config.ip);
        let ip = ip.ok_or_else(|| Failure::new("a Consul needs an address"))?;
        let dir = dir.join(format!("consul-{}", config.datacenter));
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join("consul.json"), settings(&config, ip, &dir).to_string()))
            .map_err(Failure::because(format!("cannot write below {}", dir.display())))?;
        let http = Http::new(SocketAddr::new(ip, HTTP_PORT));
        let http = match &config.token {
            Some(token) => http.with_header("X-Consul-Token", token),
            None => http,
        };
        let process = run(&config, &dir)?;
        Ok(Self { process, config, dir, ip, http, _claim: claim })
    }

    fn wait_ready(&mut self) -> Result<(), Failure> {
        let http = self.http.clone();
        // The CA comes last: a leader alone does not sign yet. The list of nodes shows that tokens are known.
        let ready = || {
            let roots = http.get("/v1/connect/ca/roots").ok();
            let node = http.get("/v1/catalog/nodes").is_ok_and(|(_, nodes)| nodes.contains("\"Node\""));
            node && roots
                .and_then(json_of)
                .is_some_and(|roots| !access::text(&roots, "ActiveRootID").is_empty())
        };
        self.process.wait_ready("Consul leads and has a CA", READY, ready)
    }

    /// The HTTP API as settings take it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.http_address())
    }

    /// The HTTP API.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, HTTP_PORT)
    }

    /// Its datacenter.
    #[must_use]
    pub fn datacenter(&self) -> &str {
        &self.config.datacenter
    }

    /// The child process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it at once, as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again with the data it had; ends it first if it still runs.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.terminate();
        self.process = run(&self.config, &self.dir)?;
        self.wait_ready()
    }

    /// GET of a path that must exist.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, &Value::Null)
    }

    /// PUT that must succeed; `Null` = without a body.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Value {
        self.call("PUT", path, body)
    }

    /// DELETE that must succeed.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.call("DELETE", path, &Value::Null);
    }

    /// Any request, whatever is answered.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.http.send(method, path, "application/json", body).unwrap_or_else(|e| self.panic(&e.to_string()))
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = self.send(method, path, &text);
        if !(200..300).contains(&status) {
            self.panic(&format!("{method} {path}: {status} {answer}"));
        }
        // Some answer `true`, some nothing.
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    #[track_caller]
    fn panic(&self, what: &str) -> ! {
        panic!("Consul of {}: {what}\n{}", self.config.datacenter, self.process.log_tail())
    }

    fn answers(&self, path: &str) -> bool {
        self.http.get(path).is_ok_and(|(status, _)| status == 200)
    }
}

fn json_of((_, body): Answer) -> Option<Value> {
    serde_json::from_str(&body).ok()
}

fn run(config: &Config, dir: &Path) -> Result<Process, Failure> {
    let mut command = consul(config.namespace.as_deref())?;
    command.arg("agent").arg("-config-file").arg(dir.join("consul.json"));
    Process::start("consul", &mut command, dir)
}

/// The program, in the namespace of this name.
fn consul(namespace: Option<&str>) -> Result<Command, Failure> {
    Ok(netns::command(namespace, &parts::CONSUL.find()?))
}

/// A server that is quick to notice, as in one rack: gossip every 20 ms, and an election as soon as Consul allows. Others are
/// given up slower than that: one that had no processor for a moment is not dead.
fn settings(config: &Config, ip: IpAddr, dir: &Path) -> Value {
    let gossip = json!({
        "gossip_interval": "20ms", "probe_interval": "500ms", "probe_timeout": "500ms", "suspicion_mult": 4,
    });
    let (primary, join) = match &config.primary {
        Some((name, ip)) => (name.as_str(), vec![ip.to_string()]),
        None => (config.datacenter.as_str(), Vec::new()),
    };
    let mut all = json!({
        "datacenter": config.datacenter,
        "primary_datacenter": primary,
        "node_name": format!("{}-server", config.datacenter),
        "data_dir": dir.join("data"),
        "bind_addr": ip.to_string(),
        "client_addr": ip.to_string(),
        "server": true,
        "bootstrap": true,
        "connect": {"enabled": true},
        "enable_central_service_config": true,
        "ports": {"dns": -1, "grpc": -1},
        "performance": {"raft_multiplier": 1},
        "gossip_lan": gossip,
        "gossip_wan": gossip,
        "retry_join_wan": join,
        "retry_interval_wan": "100ms",
        "disable_update_check": true,
    });
    if let Some(token) = &config.token {
        let mut tokens = json!({"agent": token});
        let kind = if config.primary.is_none() { "master" } else { "replication" };
        merge_settings(&mut tokens, &json!({kind: token}));
        merge_settings(
            &mut all,
            &json!({"acl": {
                "enabled": true,
                "default_policy": "deny",
                "enable_token_replication": true,
                "tokens": tokens,
            }}),
        );
    }
    merge_settings(&mut all, &config.settings);
    all
}
