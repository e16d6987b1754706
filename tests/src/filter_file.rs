//! An Envoy whose filter is configured by a file: thousands of configurations in seconds, any module, no control plane.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cast::LIMIT;
use crate::stage::port;
use crate::{Envoy, Failure, TestNet, wait_until};

/// The listener and what it is called by in Envoy's statistics.
pub const LISTENER: &str = "game";

/// Which part of the module is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The filter of a listener.
    Gateway,
    /// A sidecar's guard.
    Guard,
}

impl Part {
    const fn root_id(self) -> &'static str {
        match self {
            Self::Gateway => "realmgate",
            Self::Guard => realmgate_filter::guard::ROOT_ID,
        }
    }

    /// The configuration of this number, like no other.
    fn configuration(self, number: u64) -> Value {
        match self {
            Self::Gateway => json!({
                "header_timeout_ms": 5000 + number,
                "connections_per_ip": 100,
                "routes": [{"server_type": 200, "to": [{"cluster": "nowhere"}]}],
            }),
            Self::Guard => {
                json!({"trust_domain": "x.consul", "services": {"only": [format!("service-{number}")]}})
            }
        }
    }
}

/// What a process did in a while.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// How often its threads woke up.
    pub wakeups: u64,
    /// Processor time, in ticks of 10 ms.
    pub ticks: u64,
}

/// A running Envoy with two workers.
#[derive(Debug)]
pub struct FilterFile {
    edge: Envoy,
    module: PathBuf,
    part: Part,
    changes: u64,
    net: TestNet,
}

impl FilterFile {
    /// Starts an Envoy of this version (`None`: the newest) with this module.
    pub fn start(version: Option<&str>, module: &Path, part: Part) -> Result<Self, Failure> {
        let net = TestNet::new();
        write(net.dir(), module, part, 0)?;
        let bootstrap = bootstrap(&net.dir().join("ecds.json"), net.at(port::PLAYERS)).to_string();
        let mut builder = Envoy::with(net.dir(), bootstrap, net.at(port::ADMIN)).concurrency(2);
        if let Some(version) = version {
            builder = builder.version(version);
        }
        let edge = builder.start()?;
        Ok(Self { edge, module: module.to_owned(), part, changes: 0, net })
    }

    /// The Envoy.
    pub const fn edge(&self) -> &Envoy {
        &self.edge
    }

    /// Gives it another configuration, and waits until it has it.
    pub fn change(&mut self) {
        self.changes += 1;
        write(self.net.dir(), &self.module, self.part, self.changes).expect("the test's folder is there");
        let taken = || {
            let reloads = "extension_config_discovery.network_filter.realmgate/game.config_reload";
            self.edge.stat(reloads) > self.changes
        };
        wait_until("the configuration is taken", LIMIT, taken);
    }

    /// A player comes, says too little, and goes.
    pub fn knock(&self) -> std::io::Result<()> {
        TcpStream::connect(self.net.at(port::PLAYERS))?.write_all(b"123")
    }

    /// What it does in this time.
    pub fn activity(&mut self, time: Duration) -> Activity {
        let pid = self.edge.process().pid();
        let before = activity_of(pid);
        // The measurement itself, nothing is waited for.
        thread::sleep(time);
        let after = activity_of(pid);
        Activity { wakeups: after.wakeups - before.wakeups, ticks: after.ticks - before.ticks }
    }

    /// Its memory, in KiB.
    pub fn resident_kib(&mut self) -> u64 {
        let pid = self.edge.process().pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        field(&status, "VmRSS:")
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Since it started.
fn activity_of(pid: u32) -> Activity {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let wakeups = statuses.map(|status| field(&status, "voluntary_ctxt_switches:")).sum();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // Behind the name, which may hold anything: user and system time are the 12th and 13th.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let times = behind.split_whitespace().skip(11).take(2).filter_map(|time| time.parse::<u64>().ok());
    Activity { wakeups, ticks: times.sum() }
}

/// Moved into place, as Envoy wants it.
fn write(dir: &Path, module: &Path, part: Part, number: u64) -> Result<(), Failure> {
    let string =
        |value: String| json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value});
    let plugin = json!({
        "name": LISTENER,
        "root_id": part.root_id(),
        "configuration": string(part.configuration(number).to_string()),
        "failure_policy": "FAIL_RELOAD",
        "vm_config": {
            "vm_id": "realmgate",
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": module}},
        },
    });
    let wasm = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm", "config": plugin});
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "realmgate/game",
        "typed_config": wasm,
    });
    let response = json!({"version_info": number.to_string(), "resources": [resource]});
    let [new, place] = ["ecds.new", "ecds.json"].map(|name| dir.join(name));
    fs::write(&new, response.to_string())
        .and_then(|()| fs::rename(&new, &place))
        .map_err(Failure::because("writing"))
}

fn bootstrap(file: &Path, players: SocketAddr) -> Value {
    let tcp_proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": LISTENER,
        "cluster": "nowhere",
        "max_early_data_bytes": 1024,
        "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
    });
    let discovered = json!({
        "config_source": {"path_config_source": {"path": file}},
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm"],
    });
    let address =
        json!({"socket_address": {"address": players.ip().to_string(), "port_value": players.port()}});
    json!({
        "node": {"id": "edge-1", "cluster": "edges"},
        "static_resources": {"listeners": [{
            "name": LISTENER,
            "address": address,
            "filter_chains": [{"filters": [
                {"name": "realmgate/game", "config_discovery": discovered},
                {"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp_proxy},
            ]}],
        }]},
    })
}
