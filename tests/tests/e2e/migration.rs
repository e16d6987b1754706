//! `docs/migration.md`, command by command: a fleet of the old gateway's rules moves to Envoy, into a policy, and back.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use realmgate_filter::config::Framing;
use realmgate_tests::http::Http;
use realmgate_tests::stage::port;
use realmgate_tests::{Redis, TestNet, parts, wait_until};
use serde_json::json;

use crate::cast::{LIMIT, game, lands, servers_speaking, until_lands};

/// Where the page puts the edges' listener, and the server of its policy.
const EDGE: u16 = 8081;
const MOVED_TO: &str = "10.0.0.7:19711";

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect()
}

/// A shell that does what the page says, section by section, and ends what it started.
struct Reader {
    shell: Child,
    orders: Option<ChildStdin>,
    dir: PathBuf,
    section: usize,
}

impl Reader {
    /// Puts the page's files in `dir` and sits down before the first section.
    fn sits_down(page: &str, dir: &Path, api: SocketAddr) -> Self {
        for file in blocks(page, "yaml") {
            let name =
                file.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a file has a name");
            fs::write(dir.join(name), file).unwrap();
        }
        symlink(parts::workspace().join("prometheus"), dir.join("prometheus")).unwrap();
        let programs = [parts::REALMGATE, parts::ENVOY, parts::PROMTOOL].map(|part| part.find().unwrap());
        let mut path: Vec<_> =
            programs.iter().filter_map(|program| program.parent()).map(Path::to_owned).collect();
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let sections = page.split("\n## ").skip(1).map(|section| blocks(section, "sh").concat());
        let read =
            sections.enumerate().map(|(n, commands)| format!("read go\n{commands}touch done-{}\n", n + 1));
        let script = format!("trap 'kill $(jobs -p); wait' EXIT\n{}read go\n", read.collect::<String>());
        let log = File::create(dir.join("reader.log")).unwrap();
        let mut shell = Command::new("bash")
            .args(["-exc", &script])
            .current_dir(dir)
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("REALMGATE_API", format!("http://{api}"))
            .env("REALMGATE_FILTER_PATH", parts::FILTER.find().unwrap())
            .env("REALMGATE_DATA_DIR", dir.join("data"))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let orders = shell.stdin.take();
        Self { shell, orders, dir: dir.to_owned(), section: 0 }
    }

    /// Does what the next section says.
    fn reads_on(&mut self) {
        self.section += 1;
        writeln!(self.orders.as_ref().unwrap()).unwrap();
        let done = self.dir.join(format!("done-{}", self.section));
        let mut ended = None;
        wait_until(&format!("section {} is done", self.section), 2 * LIMIT, || {
            ended = self.shell.try_wait().unwrap();
            done.exists() || ended.is_some()
        });
        assert!(ended.is_none(), "section {}: {}", self.section, self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("reader.log")).unwrap()
    }
}

impl Drop for Reader {
    /// With nothing more to read the shell ends, and takes its jobs along.
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.shell.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_moves_a_fleet_there_and_back() {
    let net = TestNet::new();
    let servers = servers_speaking(Framing::Server, &net, 2, 0).await;
    let redis = Redis::start(net.dir(), net.at(port::REDIS)).unwrap();
    let rule = json!({"server_type": 200, "service_name": "game", "strategy": "round_robin",
        "endpoints": [servers[0].address().to_string()]});
    redis.set("game-gateway:routing:rules", &json!({"200": rule}).to_string());

    let page = fs::read_to_string(parts::workspace().join("docs/migration.md")).unwrap();
    assert!(page.contains(MOVED_TO));
    let page =
        page.replace("127.0.0.1", &net.ip().to_string()).replace(MOVED_TO, &servers[1].address().to_string());
    let dir = net.dir().join("reader");
    fs::create_dir(&dir).unwrap();
    let mut reader = Reader::sits_down(&page, &dir, net.at(port::API));
    let edge = net.at(EDGE);

    reader.reads_on();
    assert!(reader.log().contains("game-gateway/game/200/any"), "no explanation in {}", reader.log());
    reader.reads_on();
    assert!(reader.log().contains("synced"), "no proxies in {}", reader.log());
    assert_eq!(lands(edge, game(7, 1)).await.unwrap(), "game-1");
    reader.reads_on();
    reader.reads_on();
    reader.reads_on();
    until_lands(edge, game(7, 1), Some("game-2"), Instant::now()).await;
    assert_eq!(lands(edge, game(8, 1)).await.unwrap(), "game-1");
    reader.reads_on();
    until_lands(edge, game(7, 1), Some("game-1"), Instant::now()).await;
    reader.reads_on();
    let ready = Http::new(net.at(port::HEALTH)).get("/ready").unwrap().0;
    assert_eq!(ready, 503, "an edge that is to go says so");
    assert!(lands(edge, game(7, 1)).await.is_err(), "a drained edge takes a player");
}
