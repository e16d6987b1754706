//! A Consul with many services whose instances are where nobody listens, and the policy that names them all.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cast::GAME;
use crate::consul::{Config, Health};
use crate::stage::port;
use crate::{Consul, ControlPlane, Failure, TestNet, parts};

/// One that is not the agent's own, since an agent takes from its own node what it does not know.
const NODE: &str = "many";
/// Of the first instance; each has its own.
const FIRST_PORT: usize = 10_000;
/// The most that Consul takes in a transaction is 64.
const OPERATIONS: usize = 60;

/// The address goes last.
pub(super) struct Crowd {
    pub(super) consul: Consul,
    pub(super) net: TestNet,
    services: usize,
    instances: usize,
}

impl Crowd {
    /// So many services with so many instances each, all of them passing.
    pub(super) fn start(services: usize, instances: usize) -> Result<Self, Failure> {
        let net = TestNet::alone();
        let consul = Consul::start(net.dir(), Config::new("aws"))?;
        let crowd = Self { consul, net, services, instances };
        let ip = crowd.net.ip();
        crowd.consul.put("/v1/catalog/register", &json!({"Node": NODE, "Address": ip}));
        let all = (0..services).flat_map(|service| (0..instances).map(move |n| (service, n)));
        let operations: Vec<_> = all
            .flat_map(|(service, n)| {
                let port = FIRST_PORT + service * instances + n;
                [register(service, n, ip, port), check(service, n, Health::Passing)]
            })
            .collect();
        for batch in operations.chunks(OPERATIONS) {
            crowd.consul.put("/v1/txn", &json!(batch));
        }
        fs::write(crowd.net.dir().join("policy.json"), crowd.policy())
            .map_err(Failure::because("the policy"))?;
        Ok(crowd)
    }

    pub(super) const fn services(&self) -> usize {
        self.services
    }

    pub(super) const fn all_instances(&self) -> usize {
        self.services * self.instances
    }

    /// The service that changes.
    pub(super) fn changing(&self) -> String {
        name(self.services / 2)
    }

    /// Sets what the check of its first instance says.
    pub(super) fn set_health(&self, health: Health) {
        self.consul.put("/v1/txn", &json!([check(self.services / 2, 0, health)]));
    }

    /// A control plane that knows no more than the policy, with its files in a folder of this name.
    pub(super) fn control_plane(&self, name: &str) -> Result<ControlPlane, Failure> {
        let settings = json!({
            "filter": {"path": parts::FILTER.find()?},
            "edge": {"health_listen": ""},
            "consul": {"address": self.consul.url()},
            "policy": {"file": self.net.dir().join("policy.json")},
        });
        let net = &self.net;
        ControlPlane::start(&net.dir().join(name), net.at(port::XDS), net.at(port::API), &settings)
    }

    fn policy(&self) -> String {
        // An Envoy that checks thousands of instances three times a second does nothing else.
        let service = |n: usize| {
            json!({"name": name(n), "consul": {"service": name(n)},
                "health_check": {"interval": "1h", "timeout": "1s"}})
        };
        let route = |n: usize| json!({"name": name(n), "server_type": GAME, "worlds": [n + 1], "to": [{"service": name(n)}]});
        let services: Vec<_> = (0..self.services).map(service).collect();
        let routes: Vec<_> = (0..self.services).map(route).collect();
        let bind = self.net.at(port::PLAYERS).to_string();
        json!({"listeners": [{"name": "edge", "bind": bind}], "services": services, "routes": routes})
            .to_string()
    }
}

fn name(service: usize) -> String {
    format!("game-{service}")
}

fn register(service: usize, n: usize, ip: IpAddr, port: usize) -> Value {
    json!({"Service": {"Verb": "set", "Node": NODE, "Service": {
        "Service": name(service), "ID": format!("game-{service}-{n}"), "Address": ip, "Port": port}}})
}

fn check(service: usize, n: usize, health: Health) -> Value {
    let id = format!("game-{service}-{n}");
    json!({"Check": {"Verb": "set", "Check": {
        "Node": NODE, "CheckID": format!("service:{id}"), "Name": "alive", "Status": health.word(), "ServiceID": id}}})
}
