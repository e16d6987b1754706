//! A real Consul's word on intentions, against what a sidecar does.

use realmgate_tests::consul::{Config, Consul};
use realmgate_tests::wait_until;
use serde_json::{Value, json};

use super::{Mesh, id, intention};
use crate::cast::LIMIT;

/// Sets of intentions that are tried.
const SETS: u32 = 12;

/// The same numbers every time, as random as the tests need them (an xorshift).
struct Dice(u32);

impl Dice {
    fn throw(&mut self, sides: u32) -> u32 {
        for shift in [13, -17, 5] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        self.0 % sides
    }
}

/// Whether Consul's agent, asked as a Connect proxy asks it, lets this service connect to `api`.
fn authorizes(consul: &Consul, source: &str) -> bool {
    let uri = format!("spiffe://{}/ns/default/dc/aws/svc/{source}", consul.trust_domain());
    let question = json!({"Target": "api", "ClientCertURI": uri, "ClientCertSerial": "01"});
    let (status, answer) = consul.send("POST", "/v1/agent/connect/authorize", &question.to_string());
    assert_eq!(status, 200, "{answer}");
    serde_json::from_str::<Value>(&answer).unwrap()["Authorized"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_lets_in_whom_consul_would() {
    let mesh = Mesh::start(&json!({})).await;
    let consul = Consul::start(mesh.net.dir(), Config::new("aws")).unwrap();
    let authority = mesh.authority();
    let peers = ["web", "cron", "other"].map(|name| (name, authority.peer(&id(name))));
    let mut dice = Dice(0x9e37_79b9);
    let mut seen = [0, 0];
    for _ in 0..SETS {
        let mut intentions = Vec::new();
        for (source, destination) in
            ["web", "cron", "*"].iter().flat_map(|s| ["api", "shop", "*"].map(|d| (*s, d)))
        {
            match dice.throw(4) {
                action @ (0 | 1) => {
                    let action = ["allow", "deny"][action as usize];
                    consul.intention(source, destination, action);
                    intentions.push(intention(source, destination, action));
                }
                _ => consul.delete_intention(source, destination),
            }
        }
        // Without ACLs Consul's default is to allow.
        mesh.intend(&json!(intentions), "allow");
        for (name, peer) in &peers {
            let let_in = peer.is_let_in(mesh.inbound()).await;
            assert_eq!(let_in, consul.allows(name, "api"), "{name} by {intentions:?}");
            // Its agent hears of intentions a little later.
            let agrees = || authorizes(&consul, name) == let_in;
            wait_until(&format!("the agent says {let_in} of {name} by {intentions:?}"), LIMIT, agrees);
            seen[usize::from(let_in)] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 3), "the sets are too much alike: {seen:?}");
}
