//! The files below `consul/` do what they say, each loaded into a real Consul.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use realmgate_control_plane::mesh::failover;
use realmgate_control_plane::model::parse;
use realmgate_control_plane::source::consul::ConsulConfig;
use realmgate_tests::address::Address;
use realmgate_tests::http::Http;
use realmgate_tests::process::Process;
use realmgate_tests::{TestNet, parts, wait_until};
use serde_json::{Value, json};

use super::stage::{Following, lookups};

/// As the harness waits for a server: electing itself takes two seconds, many times that where the disk is busy.
const SOON: Duration = Duration::from_secs(30);

/// All files of a folder below `consul/`, by name.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = parts::workspace().join("consul").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The defaults of a service before what depends on them: the alphabet has it so.
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The agents' files name addresses that a machine has once.
fn moved(text: &str, dir: &Path, [aws, azure]: [IpAddr; 2]) -> String {
    let data = dir.join("consul").display().to_string();
    text.replace("target/consul", &data)
        .replace("127.0.0.2", &aws.to_string())
        .replace("127.0.0.3", &azure.to_string())
}

fn consul(address: IpAddr, arguments: &[&str], file: &Path) {
    let output = Command::new(parts::CONSUL.find().unwrap())
        .args(arguments)
        .arg(file)
        .env("CONSUL_HTTP_ADDR", format!("http://{address}:8500"))
        .output()
        .unwrap();
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}{}", file.display(), said(&output.stdout), said(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_what_consul_takes() {
    let (net, other) = (TestNet::new(), Address::claim());
    let ips = [net.ip(), other.ip()];
    let mut agents = Vec::new();
    for file in files("agents") {
        let name = file.file_name().unwrap();
        let here = net.dir().join(name);
        fs::write(&here, moved(&fs::read_to_string(&file).unwrap(), net.dir(), ips)).unwrap();
        let mut command = Command::new(parts::CONSUL.find().unwrap());
        command.args(["agent", "-config-file"]).arg(&here);
        agents.push(Process::start(&name.to_string_lossy(), &mut command, net.dir()).unwrap());
    }
    let [aws, azure] = ips.map(|ip| Http::new(SocketAddr::new(ip, 8500)));
    let read = |of: &Http, path: &str| -> Value {
        of.get(path).ok().and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or_default()
    };
    wait_until("both datacenters lead and know each other", SOON, || {
        let leads = |of| read(of, "/v1/status/leader").as_str().is_some_and(|leader| !leader.is_empty());
        leads(&aws)
            && leads(&azure)
            // Sorted by how near they are.
            && read(&azure, "/v1/catalog/datacenters").as_array().is_some_and(|all| all.len() == 2)
    });

    for file in files("config-entries") {
        consul(ips[0], &["config", "write"], &file);
    }
    for file in files("services") {
        let here = net.dir().join("service.hcl");
        fs::write(&here, moved(&fs::read_to_string(&file).unwrap(), net.dir(), ips)).unwrap();
        consul(ips[0], &["services", "register"], &here);
    }
    let kinds = ["service-defaults", "service-resolver", "service-splitter"];
    wait_until("the entries are in both datacenters", SOON, || {
        kinds.iter().all(|kind| {
            let names = |of| -> BTreeSet<_> {
                let entries = read(of, &format!("/v1/config/{kind}")).as_array().cloned().unwrap_or_default();
                entries.iter().map(|entry| entry["Name"].to_string()).collect()
            };
            !names(&aws).is_empty() && names(&aws) == names(&azure)
        })
    });
    let instance = &read(&azure, "/v1/health/service/game?dc=aws&filter=Service.Meta.version==1")[0];
    assert_eq!(instance["Service"]["Weights"], json!({"Passing": 10, "Warning": 1}));
    // Consul's own reading of them: players of azure go to aws.
    let chain = read(&azure, "/v1/discovery-chain/game");
    let targets = &chain["Chain"]["Targets"];
    assert!(targets.get("v1.game.default.aws").is_some(), "{targets}");

    // And of the splitter, which we read as it does.
    let chain = read(&aws, "/v1/discovery-chain/lobby");
    let splits = &chain["Chain"]["Nodes"]["splitter:lobby.default"]["Splits"];
    assert_eq!(
        splits.as_array().map(|all| all.iter().map(|leg| &leg["Weight"]).collect::<Vec<_>>()),
        Some(vec![&json!(90), &json!(10)])
    );
    let config = ConsulConfig {
        address: format!("http://{}:8500", ips[0]),
        token_file: None,
        ca_file: None,
        datacenter: String::new(),
        data_dir: net.dir().join("data"),
    };
    let following = Following::with(&config, lookups([]));
    following.ok().await;
    let policy = parse("services: [{name: lobby, consul: {service: lobby}}]").unwrap();
    let legs = failover::legs(&policy.services[0], &following.source.catalog().borrow());
    let shares: Vec<_> = legs.iter().map(|leg| (leg.to.service.as_str(), leg.weight)).collect();
    assert_eq!(shares, [("lobby", 900_000), ("lobby-next", 100_000)]);

    // Critical until the check has found somebody there, which it does every 3 s.
    let status = || read(&aws, "/v1/health/checks/game")[0]["Status"].clone();
    assert_eq!(status(), "critical");
    let _game = TcpListener::bind((ips[0], 21_001)).unwrap();
    wait_until("the check finds the server", SOON, || status() == "passing");
}
