//! A datacenter with all that players need: an edge, its control plane, and a game server of one service, `game`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::netns::Namespace;
use crate::stage::{crowd, port};
use crate::{ControlPlane, Envoy, Failure, GameProcess, cast, parts};

/// Where a datacenter is.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Where its players, and we, reach it.
    pub outside: IpAddr,
    /// Where other datacenters reach its game server.
    pub game: SocketAddr,
}

/// A running one. What runs stops in the order of the fields.
#[derive(Debug)]
pub struct Datacenter {
    /// The Envoy that players connect to.
    pub edge: Envoy,
    /// Its control plane.
    pub control_plane: ControlPlane,
    /// The game server, `<datacenter>-1`.
    pub game: GameProcess,
    /// Where they are.
    pub site: Site,
    dir: PathBuf,
    more: Value,
}

impl Site {
    /// A port where players are.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.outside, port)
    }
}

impl Datacenter {
    /// Starts it with its files in `dir`, in a network namespace or here. The edge knows where it is.
    pub fn start(namespace: Option<&Namespace>, site: Site, dir: &Path) -> Result<Self, Failure> {
        Self::with(namespace, site, dir, json!({}))
    }

    /// The same with more settings of the control plane.
    pub fn with(namespace: Option<&Namespace>, site: Site, dir: &Path, more: Value) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(Failure::because(format!("cannot make {}", dir.display())))?;
        let game = GameProcess::start_in(namespace, &format!("{}-1", site.name), site.game, dir)?;
        let mut settings = json!({
            "filter": {"path": parts::FILTER.find()?},
            "edge": {"health_listen": ""},
            "xds": {"insecure": true},
            "api": {"insecure": true},
        });
        crate::control_plane::merge_settings(&mut settings, &more);
        let (xds, api, admin) = (site.at(port::XDS), site.at(port::API), site.at(port::ADMIN));
        let control_plane = ControlPlane::start_in(namespace, dir, xds, api, &settings)?;
        let bootstrap =
            control_plane.edge_bootstrap_with(&site.name, admin, &["--datacenter", &site.name])?;
        let edge = Envoy::with(dir, bootstrap, admin).name("edge").within(namespace).start()?;
        Ok(Self { edge, control_plane, game, site, dir: dir.to_owned(), more })
    }

    /// Everything of it dies at once.
    pub fn kill9(&mut self) {
        self.game.kill9();
        self.edge.process().kill9();
        self.control_plane.kill9();
    }

    /// Starts what was killed, here and not in a namespace. Its control plane remembers its policy.
    pub fn revive(self) -> Result<Self, Failure> {
        let Self { edge, control_plane, game, site, dir, more } = self;
        drop((edge, control_plane, game));
        Self::with(None, site, &dir, more)
    }

    /// The policy of an edge here: `game` is in the first of these datacenters, and in the others where that fails.
    /// `failover` holds what else the service's `failover` says.
    #[must_use]
    pub fn policy(&self, all: &[&Site], failover: &Value) -> Value {
        let endpoints = |site: &Site| json!([site.game.to_string()]);
        let (own, others) = match all {
            [own, others @ ..] => (*own, others),
            [] => (&self.site, &[][..]),
        };
        let target = |site: &&Site| json!({"datacenter": site.name, "endpoints": endpoints(site)});
        let mut all = json!({"targets": others.iter().map(target).collect::<Vec<_>>()});
        crate::control_plane::merge_settings(&mut all, failover);
        let service = json!({
            "name": "game", "datacenter": own.name, "endpoints": endpoints(own), "failover": all,
            "health_check": {"check": {"ping": {"message_id": PING}}},
        });
        json!({
            "listeners": [{"name": "edge", "bind": self.site.at(port::PLAYERS).to_string(),
                "limits": crowd(&json!({}))}],
            "services": [service],
            "routes": [cast::route("all", &json!("any"), "game")],
        })
    }
}

/// A message that game servers send back.
const PING: u16 = 77;
