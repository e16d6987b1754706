//! Realmgate as the conformance suite sees it: a world is a policy, put through the API.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::time::Duration;

use realmgate_tests::cast::{LIMIT, route};
use realmgate_tests::conformance::{Kind, Limits, Subject, World};
use realmgate_tests::{ControlPlane, Stage, TestNet, wait_until};
use serde_json::{Value, json};

/// ECDS resources are named after their listener with this in front.
const EXTENSION: &str = "realmgate/";

/// A real control plane that serves nothing but the script's world. It starts when it is first used.
#[derive(Default)]
pub(super) struct Realmgate(OnceCell<Started>);

struct Started {
    control_plane: ControlPlane,
    net: TestNet,
}

impl Realmgate {
    fn started(&self) -> &Started {
        self.0.get_or_init(|| {
            let net = TestNet::new();
            // Without the listener that is there whatever the policy says.
            let settings = json!({"edge": {"health_listen": ""}, "mesh": {"ca": "embedded"}});
            let control_plane = Stage::control_plane(&net, &settings).unwrap();
            Started { control_plane, net }
        })
    }

    /// A cluster is a service and a route to it; all listeners have all routes.
    fn policy(&self, world: &World) -> String {
        let services = world.clusters.iter().map(|(name, cluster)| {
            let host = if cluster.resolved { "localhost" } else { "127.0.0.1" };
            let endpoints: Vec<_> = cluster.endpoints.iter().map(|port| format!("{host}:{port}")).collect();
            let timeout = format!("{}ms", 1000 + cluster.setting);
            json!({"name": name, "endpoints": endpoints, "connections": {"connect_timeout": timeout}})
        });
        // A world of its own for each route: two that match the same would be refused.
        let routes = world.clusters.keys().map(|name| route(name, &json!([number(name)]), name));
        let listeners = world.listeners.iter().map(|(name, listener)| {
            let idle_timeout = format!("{}s", 60 + listener.setting);
            let limits = json!({"max_message_bytes": 1000 + listener.filter, "idle_timeout": idle_timeout});
            json!({"name": name, "bind": self.started().net.at(7000 + number(name)).to_string(), "limits": limits})
        });
        // No cluster, since no route names it; with it the edges have a certificate.
        let meshed = json!({"name": "meshed", "endpoints": ["127.0.0.1:1"], "tls": "mesh"});
        json!({
            "services": services.chain([meshed]).collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "listeners": listeners.collect::<Vec<_>>(),
        })
        .to_string()
    }

    fn put(&self, query: &str, policy: &str) -> Value {
        let (status, body) = self.started().control_plane.put_policy_with(query, policy);
        assert!((200..300).contains(&status), "{status}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Subject for Realmgate {
    fn address(&self) -> SocketAddr {
        self.started().control_plane.xds()
    }

    fn begin(&self, world: &World) {
        let policy = self.policy(world);
        wait_until("new clients get this policy", LIMIT, || {
            // Without clients it is applied when it is compiled, which is when new clients get it.
            self.put("?wait=applied&timeout=5s&force=true", &policy)["applied"]["complete"] == json!(true)
        });
        wait_until("the edges have a certificate", LIMIT, || {
            let (_, ready) = self.started().control_plane.readyz();
            let ready: Value = serde_json::from_str(&ready).unwrap();
            ready["mesh"]["services"].as_array().is_some_and(|services| services.len() == 2)
        });
    }

    fn show(&self, world: &World) {
        self.put("?force=true", &self.policy(world));
    }

    fn wire_name(&self, kind: Kind, name: &str) -> String {
        if kind == Kind::Extension { format!("{EXTENSION}{name}") } else { name.to_owned() }
    }

    fn script_name(&self, kind: Kind, name: &str) -> Option<String> {
        let name = if kind == Kind::Extension { name.strip_prefix(EXTENSION)? } else { name };
        Some(name.to_owned())
    }

    fn secrets(&self) -> Option<[&str; 2]> {
        Some(["leaf/realmgate-edge", "roots"])
    }

    fn limits(&self) -> Limits {
        Limits {
            names: 65_536,
            name_bytes: 1024,
            request_bytes: 4 << 20,
            first_request: Duration::from_secs(10),
            unanswered: 16,
        }
    }
}

/// A number of 1 to 9,000 that a name keeps whatever else there is; the scripts' few names have different ones.
fn number(name: &str) -> u16 {
    name.bytes().fold(0, |number, byte| (number * 7 + u16::from(byte)) % 9_000) + 1
}
