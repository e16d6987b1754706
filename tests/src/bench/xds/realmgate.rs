//! Realmgate under measurement: clusters by a policy, and one by a game-gateway rule in Redis.

use std::net::SocketAddr;
use std::time::Duration;

use redis::{Connection, cmd};
use serde_json::{Value, json};

use super::super::worlds::{RULES_KEY, RULES_NOTIFY};
use super::request;
use super::server::{Change, Server, Way};
use crate::control_plane::merge_settings;
use crate::fleet::moment;
use crate::stage::port;
use crate::{ControlPlane, Failure, Redis, Stage, TestNet, wait_until};

const READY: Duration = Duration::from_secs(30);
/// The clusters whose endpoints change.
const BY_POLICY: &str = "game-1";
pub(super) const BY_RULE: &str = "game-gateway/rule/200/any";

/// The control plane; stops before its Redis, and its address goes last.
pub(super) struct Realmgate {
    pub(super) control_plane: ControlPlane,
    notifier: Connection,
    redis: Redis,
    pub(super) net: TestNet,
    clusters: u32,
    endpoints: u32,
    /// Grows with each change.
    version: u32,
}

impl Realmgate {
    /// So many clusters with so many endpoints each.
    pub(super) fn start(clusters: u32, endpoints: u32) -> Result<Self, Failure> {
        Self::with_settings(clusters, endpoints, &json!({}))
    }

    /// The same with more settings.
    pub(super) fn with_settings(clusters: u32, endpoints: u32, more: &Value) -> Result<Self, Failure> {
        let net = TestNet::alone();
        let redis = Redis::start(net.dir(), net.at(port::REDIS))?;
        redis.set(RULES_KEY, &rule(0));
        // Polls so seldom that only a notification can explain a quick change.
        let gateway = json!({"enabled": true, "refresh_interval": "1h"});
        let mut settings = json!({"redis": {"url": redis.url()}, "game_gateway": gateway});
        merge_settings(&mut settings, more);
        let control_plane = Stage::control_plane(&net, &settings)?;
        let client = redis::Client::open(redis.url()).and_then(|client| client.get_connection());
        let notifier = client.map_err(Failure::because("Redis"))?;
        let server = Self { control_plane, notifier, redis, net, clusters, endpoints, version: 0 };
        server.wait_ready();
        request::send(server.control_plane.api(), "PUT", "/v1/policy", &server.policy())?.finish()?;
        Ok(server)
    }

    fn wait_ready(&self) {
        wait_until("the control plane is ready", READY, || self.control_plane.readyz().0 == 200);
    }

    /// All clusters but that of the rule, each with a route of its own.
    fn policy(&self) -> String {
        let service = |n: u32| {
            let port = if n == 1 { 7000 + self.version % 1000 } else { 7000 };
            let endpoint = |e: u32| format!("10.{e}.{}.{}:{port}", n / 250, n % 250 + 1);
            let endpoints: Vec<_> = (0..self.endpoints).map(endpoint).collect();
            json!({"name": format!("game-{n}"), "endpoints": endpoints})
        };
        let route = |n: u32| {
            let to = json!([{"service": format!("game-{n}")}]);
            json!({"name": format!("world-{n}"), "server_type": 200, "worlds": [n], "to": to})
        };
        let services: Vec<_> = (1..self.clusters).map(service).collect();
        let routes: Vec<_> = (1..self.clusters).map(route).collect();
        let bind = self.net.at(port::PLAYERS).to_string();
        let listeners = json!([{"name": "edge", "bind": bind}]);
        json!({"listeners": listeners, "services": services, "routes": routes}).to_string()
    }
}

impl Server for Realmgate {
    fn name(&self) -> &'static str {
        "Realmgate"
    }

    fn xds(&self) -> SocketAddr {
        self.control_plane.xds()
    }

    fn pid(&mut self) -> u32 {
        self.control_plane.process().pid()
    }

    fn ways(&self) -> &'static [Way] {
        &[Way::Api, Way::Redis]
    }

    fn cluster(&self, way: Way) -> &'static str {
        match way {
            Way::Api => BY_POLICY,
            Way::Redis => BY_RULE,
        }
    }

    fn change(&mut self, way: Way) -> Result<Change, Failure> {
        self.version += 1;
        match way {
            Way::Api => {
                let sent = request::send(self.control_plane.api(), "PUT", "/v1/policy", &self.policy())?;
                Ok(Change { sent: sent.at, answer: Some(sent) })
            }
            Way::Redis => {
                self.redis.set(RULES_KEY, &rule(self.version));
                let sent = moment();
                let published =
                    cmd("PUBLISH").arg(RULES_NOTIFY).arg("reload").query::<i64>(&mut self.notifier);
                published.map_err(Failure::because("PUBLISH"))?;
                Ok(Change { sent, answer: None })
            }
        }
    }

    fn restart_changed(&mut self) -> Result<Way, Failure> {
        self.control_plane.kill9();
        self.version += 1;
        self.redis.set(RULES_KEY, &rule(self.version));
        self.control_plane.restart()?;
        self.wait_ready();
        Ok(Way::Redis)
    }
}

fn rule(version: u32) -> String {
    let endpoint = format!("10.200.0.1:{}", 7000 + version % 1000);
    let rule: Value = json!({"server_type": 200, "service_name": "rule", "strategy": "round_robin",
        "endpoints": [endpoint]});
    json!({"1": rule}).to_string()
}
