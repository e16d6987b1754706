//! A real Consul's word on intentions, against what a sidecar does.

use std::fs;
use std::time::Instant;

use realmgate_tests::consul::{Config, Consul};
use realmgate_tests::{TestNet, wait_until};
use serde_json::{Value, json};

use super::peers::Peer;
use super::{Mesh, id, intention};
use crate::cast::LIMIT;

/// Sets of intentions that are tried.
const SETS: u32 = 12;

/// Names of services, and how Consul writes them in SPIFFE ids. Sources are told apart by case; intentions are not, so of each
/// name there is one in those.
const NAMES: [(&str, &str); 9] = [
    ("web", "web"),
    ("Web", "Web"),
    ("Cron", "Cron"),
    ("cron", "cron"),
    ("my shop", "my%20shop"),
    ("my%20shop", "my%2520shop"),
    ("\u{fc}n.\u{cf}", "%C3%BCn.%C3%8F"),
    ("a+b=c(d)", "a+b=c%28d%29"),
    ("other", "other"),
];
const SOURCES: [&str; 8] =
    ["web", "Cron", "my shop", "my%20shop", "\u{fc}n.\u{cf}", "a+b=c(d)", "a%2Fb", "*"];
const DESTINATIONS: [&[&str]; 3] = [&["api", "API", "Api"], &["shop", "my shop"], &["*"]];

/// The same numbers every time, as random as the tests need them (an xorshift).
struct Dice(u32);

impl Dice {
    fn throw(&mut self, sides: u32) -> u32 {
        for shift in [13, -17, 5] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        self.0 % sides
    }

    /// Writes a set of intentions in Consul, in the place of the last, and gives it as a policy has it.
    fn intend(&mut self, consul: &Consul) -> Vec<Value> {
        consul.delete_intentions();
        let mut intentions = Vec::new();
        for (source, destinations) in SOURCES.iter().flat_map(|source| DESTINATIONS.map(|to| (*source, to))) {
            let sides = u32::try_from(destinations.len()).unwrap();
            let destination = destinations[self.throw(sides) as usize];
            if let action @ (0 | 1) = self.throw(5) {
                let action = ["allow", "deny"][action as usize];
                consul.add_intention(source, destination, action);
                intentions.push(intention(source, destination, action));
            }
        }
        intentions
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
    let peers = NAMES.map(|(name, written)| (name, written, authority.peer(&id(written))));
    // The same names in other words, and what is no name. Consul signs none of them.
    let nobody = ["w%65b", "%C3%bcn.%C3%8F", "my shop", "a%2Fb", "a/b", ""]
        .map(|written| authority.peer(&id(written)));
    let mut dice = Dice(0x9e37_79b9);
    let mut seen = [0, 0];
    for _ in 0..SETS {
        let intentions = dice.intend(&consul);
        // Without ACLs Consul's default is to allow.
        mesh.intend(&json!(intentions), "allow");
        for (name, written, peer) in &peers {
            let let_in = peer.is_let_in(mesh.inbound()).await;
            assert_eq!(let_in, consul.allows(name, "api"), "{name} by {intentions:?}");
            // Its agent hears of intentions a little later.
            let agrees = || authorizes(&consul, written) == let_in;
            wait_until(&format!("the agent says {let_in} of {name} by {intentions:?}"), LIMIT, agrees);
            seen[usize::from(let_in)] += 1;
        }
        for peer in &nobody {
            assert!(!peer.is_let_in(mesh.inbound()).await, "{intentions:?}");
        }
    }
    assert!(seen.iter().all(|count| *count > 3), "the sets are too much alike: {seen:?}");
}

/// By what is written in Consul alone, and its own certificates; with ACLs its default is to deny.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_does_what_consul_says_whatever_holds_without_an_intention() {
    const MASTER: &str = "5a2e3f5c-0000-4000-8000-000000000007";
    for token in [None, Some(MASTER.to_owned())] {
        let net = TestNet::new();
        let settings = token.as_ref().map_or_else(
            || json!({}),
            |token| {
                let file = net.dir().join("token");
                fs::write(&file, token).unwrap();
                json!({"consul": {"token_file": file}})
            },
        );
        let consul = Consul::start(net.dir(), Config { token, ..Config::new("aws") }).unwrap();
        let mesh = crate::consul::Mesh::on(net, consul, &settings).await;
        let (consul, inbound) = (&mesh.consul, mesh.inbound());
        let peers = NAMES.map(|(name, _)| (name, Peer::of_consul(consul, name)));
        let (mut dice, mut seen) = (Dice(0x5bd1_e995), [0, 0]);
        for _ in 0..SETS {
            let intentions = dice.intend(consul);
            for (name, peer) in &peers {
                let (start, expected) = (Instant::now(), consul.allows(name, "api"));
                while peer.is_let_in(inbound).await != expected {
                    assert!(start.elapsed() < LIMIT, "not {expected} for {name} by {intentions:?}");
                }
                seen[usize::from(expected)] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count > 3), "the sets are too much alike: {seen:?}");
    }
}
