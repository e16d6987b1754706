//! go-control-plane under measurement: the small server of `tests/peers/go-control-plane`, where Go is at hand.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use super::request;
use super::server::{Change, Server, Way};
use crate::http::Http;
use crate::process::Process;
use crate::stage::port;
use crate::{Failure, TestNet, parts};

const READY: Duration = Duration::from_secs(30);

/// A running peer.
pub(super) struct Peer {
    process: Process,
    binary: PathBuf,
    net: TestNet,
    clusters: u32,
    endpoints: u32,
}

/// Builds it; fails where there is no Go, or none that can fetch what it needs.
pub(super) fn build() -> Result<PathBuf, Failure> {
    let binary = parts::target().join("release/go-control-plane-peer");
    let mut command = Command::new("go");
    // By go.sum alone, whatever GOFLAGS says.
    command.args(["build", "-mod=readonly", "-o"]).arg(&binary).arg(".");
    command.current_dir(parts::workspace().join("tests/peers/go-control-plane"));
    let output = command.output().map_err(Failure::because("cannot run `go`"))?;
    if output.status.success() {
        return Ok(binary);
    }
    Err(Failure::new(format!("go build fails: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

impl Peer {
    /// So many clusters with so many endpoints each.
    pub(super) fn start(binary: &Path, clusters: u32, endpoints: u32) -> Result<Self, Failure> {
        let net = TestNet::alone();
        let process = run(binary, &net, clusters, endpoints)?;
        Ok(Self { process, binary: binary.to_owned(), net, clusters, endpoints })
    }
}

impl Server for Peer {
    fn name(&self) -> &'static str {
        "go-control-plane"
    }

    fn xds(&self) -> SocketAddr {
        self.net.at(port::XDS)
    }

    fn pid(&mut self) -> u32 {
        self.process.pid()
    }

    fn ways(&self) -> &'static [Way] {
        &[Way::Api]
    }

    fn cluster(&self, _: Way) -> &'static str {
        "game-1"
    }

    fn change(&mut self, _: Way) -> Result<Change, Failure> {
        let sent = request::send(self.net.at(port::API), "POST", "/change", "")?;
        Ok(Change { sent: sent.at, answer: Some(sent) })
    }

    fn restart_changed(&mut self) -> Result<Way, Failure> {
        // It forgets changes when it ends: what it had at first differs from what its proxies have.
        self.change(Way::Api)?.finish()?;
        super::server::quiet(self.pid())?;
        self.process.kill9();
        self.process = run(&self.binary, &self.net, self.clusters, self.endpoints)?;
        Ok(Way::Api)
    }
}

fn run(binary: &Path, net: &TestNet, clusters: u32, endpoints: u32) -> Result<Process, Failure> {
    let cores = available_parallelism().map_err(Failure::because("cores"))?;
    let api = net.at(port::API);
    let mut command = Command::new(binary);
    command.args(["--xds", &net.at(port::XDS).to_string(), "--api", &api.to_string()]);
    command.args(["--clusters", &clusters.to_string(), "--endpoints", &endpoints.to_string()]);
    // As many threads as ours has, whatever the shell says.
    command.env("GOMAXPROCS", cores.to_string());
    let mut process = Process::start("go-control-plane", &mut command, net.dir())?;
    let http = Http::new(api);
    let up = || http.get("/healthz").is_ok_and(|(status, _)| status == 200);
    process.wait_ready("go-control-plane is up", READY, up)?;
    Ok(process)
}
