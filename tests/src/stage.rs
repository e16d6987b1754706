//! The usual cast of an end-to-end test: a control plane with the filter, and an edge that follows it.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::cast::LIMIT;
use crate::control_plane::merge_settings;
use crate::{ControlPlane, Envoy, Failure, TestNet, parts, wait_until};

/// Ports on a test's address.
pub mod port {
    /// Where players connect: the listener `edge` of [`super::Stage::listener`].
    pub const PLAYERS: u16 = 7000;
    /// Where players of game-gateway rules connect.
    pub const GAME_GATEWAY: u16 = 8080;
    /// The edge's own `/health`, `/ready` and `/metrics`.
    pub const HEALTH: u16 = 9090;
    /// Envoy's admin interface.
    pub const ADMIN: u16 = 9901;
    /// xDS.
    pub const XDS: u16 = 18_000;
    /// xDS at the end of a link.
    pub const LINK: u16 = 18_001;
    /// The management API.
    pub const API: u16 = 18_080;
    /// Prometheus.
    pub const PROMETHEUS: u16 = 9091;
    /// Redis.
    pub const REDIS: u16 = 6379;
    /// The first game server; further ones follow.
    pub const GAME: u16 = 21_001;
}

/// These limits of a listener, and none on how many players may come from where: all of a test's have one address, and
/// come as fast as they can.
#[must_use]
pub fn crowd(limits: &Value) -> Value {
    let mut all = json!({"connections": 0, "connections_per_ip": 0, "new_connections_per_ip_per_second": 0});
    merge_settings(&mut all, limits);
    all
}

/// Everything stops in the order of the fields: the edge first, the address last.
#[derive(Debug)]
pub struct Stage {
    /// The Envoy that players connect to.
    pub edge: Envoy,
    /// Its control plane.
    pub control_plane: ControlPlane,
    /// Where both are.
    pub net: TestNet,
}

impl Stage {
    /// Starts both on `net`, with further settings for the control plane (see [`ControlPlane::start`]).
    pub fn start(net: TestNet, settings: &Value) -> Result<Self, Failure> {
        let control_plane = Self::control_plane(&net, settings)?;
        let edge = Self::edge(&net, &control_plane)?;
        Ok(Self { edge, control_plane, net })
    }

    /// A control plane alone.
    pub fn control_plane(net: &TestNet, settings: &Value) -> Result<ControlPlane, Failure> {
        let mut all = json!({
            "filter": {"path": parts::FILTER.find()?},
            "game_gateway": {"listen": net.at(port::GAME_GATEWAY).to_string(), "limits": crowd(&json!({}))},
            "edge": {"health_listen": net.at(port::HEALTH).to_string()},
        });
        merge_settings(&mut all, settings);
        ControlPlane::start(net.dir(), net.at(port::XDS), net.at(port::API), &all)
    }

    /// An edge that follows `control_plane`.
    pub fn edge(net: &TestNet, control_plane: &ControlPlane) -> Result<Envoy, Failure> {
        let admin = net.at(port::ADMIN);
        let bootstrap = control_plane.edge_bootstrap("edge-1", admin)?;
        Envoy::with(net.dir(), bootstrap, admin).name("edge").start()
    }

    /// Where players connect.
    #[must_use]
    pub fn players(&self) -> SocketAddr {
        self.net.at(port::PLAYERS)
    }

    /// Where players of game-gateway rules connect.
    #[must_use]
    pub fn game_gateway(&self) -> SocketAddr {
        self.net.at(port::GAME_GATEWAY)
    }

    /// The `listeners` part of a policy: one, `edge`, at [`Self::players`], with these limits and those of a [`crowd`].
    #[must_use]
    pub fn listener(&self, limits: &Value) -> Value {
        json!([{"name": "edge", "bind": self.players().to_string(), "limits": crowd(limits)}])
    }

    /// A counter or gauge of the filter, by the part of its name behind `realmgate_`.
    #[track_caller]
    #[must_use]
    pub fn filter_stat(&self, name: &str) -> u64 {
        self.edge.stat(&format!("wasmcustom.realmgate_{name}"))
    }

    /// Blocks until `condition` on the filter's counter or gauge holds.
    #[track_caller]
    pub fn wait_filter_stat(&self, name: &str, condition: impl Fn(u64) -> bool) {
        let what = format!("the filter's {name} is as it should be");
        wait_until(&what, LIMIT, || condition(self.filter_stat(name)));
    }
}
