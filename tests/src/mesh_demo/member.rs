//! A datacenter of the demo's mesh: a Consul, a game server behind a sidecar, an edge and its control plane.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cast::route;
use crate::consul::{Config, Health, Service, run_script};
use crate::stage::{crowd, port};
use crate::{Consul, Datacenter, Envoy, Failure, Site, parts};

/// Where the sidecar takes what comes by mutual TLS.
pub(super) const INBOUND: u16 = 20_500;

/// A message that game servers send back.
const PING: u16 = 77;

/// What it runs stops in the order of the fields.
#[derive(Debug)]
pub(super) struct Member {
    sidecar: Option<Envoy>,
    datacenter: Datacenter,
    consul: Consul,
    dir: PathBuf,
}

impl Member {
    /// Starts all but the sidecar, which needs a policy.
    pub(super) fn start(
        name: &str,
        at: IpAddr,
        primary: Option<IpAddr>,
        dir: &Path,
    ) -> Result<Self, Failure> {
        // Each demo starts anew, not from what the last one stored.
        for stored in [dir.join("data"), dir.join(format!("consul-{name}"))] {
            let _ = fs::remove_dir_all(stored);
        }
        let is_primary = primary.is_none();
        let primary = primary.map(|ip| ("aws".to_owned(), ip));
        let consul = Consul::start(dir, Config { ip: Some(at), primary, ..Config::new(name) })?;
        if is_primary {
            // From here they reach the other.
            run_script(&consul.url(), &parts::workspace().join("consul/intentions/game.sh"))?;
        }
        let site = Site { name: name.to_owned(), outside: at, game: (at, port::GAME).into() };
        let id = format!("{name}-1");
        consul.register(&Service::new("game", &id, site.game));
        consul.register(&Service::sidecar("game", &id, site.at(INBOUND), site.game));
        let settings = json!({"consul": {"address": consul.url()}, "mesh": {"ca": "consul"}});
        let datacenter = Datacenter::with(None, site, dir, settings)?;
        Ok(Self { sidecar: None, datacenter, consul, dir: dir.to_owned() })
    }

    /// Applies a policy by which players go to `other` when nobody serves here, and starts the sidecar.
    pub(super) fn serve(&mut self, other: &str, after: &str) -> Result<(), Failure> {
        self.datacenter.control_plane.put_policy(&self.policy(other, after).to_string());
        self.start_sidecar()
    }

    fn policy(&self, other: &str, after: &str) -> Value {
        let service = json!({
            "name": "game",
            "consul": {"service": "game"},
            "tls": "mesh",
            "failover": {
                "order": "lowest_latency",
                "targets": [{"datacenter": other}],
                "fail_back": {"after": after, "over": 0},
            },
            "health_check": {"check": {"ping": {"message_id": PING}}},
        });
        let bind = self.at(port::PLAYERS).to_string();
        json!({
            "listeners": [{"name": "edge", "bind": bind, "limits": crowd(&json!({}))}],
            "services": [service],
            "routes": [route("all", &json!("any"), "game")],
        })
    }

    fn start_sidecar(&mut self) -> Result<(), Failure> {
        let (inbound, app) = (self.at(INBOUND).to_string(), self.at(port::GAME).to_string());
        let more = ["--service", "game", "--inbound", &inbound, "--app", &app];
        let admin = self.at(port::ADMIN + 1);
        let bootstrap = self.datacenter.control_plane.bootstrap("sidecar", "game-1", admin, &more)?;
        self.sidecar = Some(Envoy::with(&self.dir, bootstrap, admin).name("sidecar").start()?);
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.datacenter.site.name
    }

    pub(super) const fn at(&self, port: u16) -> SocketAddr {
        self.datacenter.site.at(port)
    }

    /// The SPIFFE id of its edge.
    pub(super) fn edge_id(&self) -> String {
        let domain = self.consul.trust_domain();
        format!("spiffe://{domain}/ns/default/dc/{}/svc/realmgate-edge", self.name())
    }

    /// Says whom its sidecar has let in.
    pub(super) fn show_let_in(&self) {
        let Some(sidecar) = &self.sidecar else { return };
        println!(
            "the sidecar of {} has let in {} connections by its intentions, all by mutual TLS",
            self.name(),
            sidecar.stat("connect_authz.rbac.allowed"),
        );
    }

    /// Everything of it dies at once.
    pub(super) fn kill9(&mut self) {
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.process().kill9();
        }
        self.datacenter.kill9();
        self.consul.kill9();
    }

    /// Starts what was killed. Its control plane remembers its policy, its Consul what is registered.
    pub(super) fn revive(self) -> Result<Self, Failure> {
        let Self { sidecar, datacenter, mut consul, dir } = self;
        drop(sidecar);
        consul.restart()?;
        // A Consul that starts again takes all that is to tell of itself for critical, until it does.
        for id in [format!("{}-1", datacenter.site.name), format!("{}-1-sidecar-proxy", datacenter.site.name)]
        {
            consul.set_health(&id, Health::Passing);
        }
        let mut member = Self { sidecar: None, datacenter: datacenter.revive()?, consul, dir };
        member.start_sidecar()?;
        Ok(member)
    }
}
