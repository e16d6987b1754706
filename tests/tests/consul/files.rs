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
use realmgate_tests::consul::run_script;
use realmgate_tests::http::Http;
use realmgate_tests::process::Process;
use realmgate_tests::{GameServer, TestNet, parts, wait_until};
use serde_json::{Value, json};

use super::stage::{Following, lookups};

/// As the harness waits for a server: electing itself takes two seconds, many times that where the disk is busy.
const SOON: Duration = Duration::from_mins(1);

/// All files of this kind in a folder below `consul/`, by name.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = parts::workspace().join("consul").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|of| of == extension));
    // The defaults of a service before what depends on them: the alphabet has it so.
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The files name addresses that a machine has once, and times that a test should not wait for.
fn moved(text: &str, dir: &Path, [aws, azure]: [IpAddr; 2]) -> String {
    let data = dir.join("consul").display().to_string();
    let ping = parts::workspace().join("consul/services/ping.sh").display().to_string();
    text.replace("target/consul", &data)
        .replace("consul/services/ping.sh", &ping)
        .replace("interval = \"3s\"", "interval = \"1s\"")
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
    let here = |file: &Path| {
        let here = net.dir().join(file.file_name().unwrap());
        fs::write(&here, moved(&fs::read_to_string(file).unwrap(), net.dir(), ips)).unwrap();
        here
    };
    // Takes connections for which it never asks, as a process that hangs does.
    let hung = TcpListener::bind((ips[0], 21_001)).unwrap();
    let _sidecar = TcpListener::bind((ips[0], 20_501)).unwrap();
    for (file, services) in files("agents", "hcl").iter().zip([files("services", "hcl"), Vec::new()]) {
        let name = file.file_name().unwrap();
        let mut command = Command::new(parts::CONSUL.find().unwrap());
        command.arg("agent");
        for file in [file].into_iter().chain(&services) {
            command.arg("-config-file").arg(here(file));
        }
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

    for file in files("config-entries", "hcl") {
        consul(ips[0], &["config", "write"], &file);
    }
    for file in files("intentions", "sh") {
        // Again replaces.
        for _ in 0..2 {
            run_script(&format!("http://{}:8500", ips[0]), &file).unwrap();
        }
    }
    wait_until("the intentions hold in both datacenters", SOON, || {
        let allowed = |of, source, destination| {
            let path = format!("/v1/connect/intentions/check?source={source}&destination={destination}");
            read(of, &path)["Allowed"].as_bool()
        };
        [&aws, &azure].into_iter().all(|of| {
            allowed(of, "realmgate-edge", "game") == Some(true)
                && allowed(of, "web", "game") == Some(false)
                && allowed(of, "realmgate-edge", "lobby") == Some(false)
        })
    });
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

    // The ping tells a server that answers from one that only takes connections, and its sidecar is as well as it is.
    let sidecar = || read(&aws, "/v1/health/connect/game")[0].clone();
    assert_eq!(sidecar()["Service"]["Port"], 20_501);
    // Of the agent, which tells others of another output of the same status minutes later.
    let check = || read(&aws, "/v1/agent/checks")["service:game-1"].clone();
    wait_until("the check has found nobody", SOON, || {
        check()["Output"].as_str().is_some_and(|output| output.contains("no answer"))
    });
    assert_eq!(check()["Status"], "critical");
    drop(hung);
    let _game = GameServer::start("game-1", (ips[0], 21_001).into()).await.unwrap();
    wait_until("the check finds the server", SOON, || check()["Status"] == "passing");
    wait_until("and the sidecar is well", SOON, || {
        let sidecar = sidecar();
        let checks = sidecar["Checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        checks.len() >= 3 && checks.iter().all(|check| check["Status"] == "passing")
    });
}
