//! A Redis server of the test's own: killed, stopped, started again, and gone at the end.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, id};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Below the range that the system gives to outgoing connections, so that none of them takes it.
const PORT: u16 = 16_379;

/// The port for TLS, where it has one.
pub(crate) const TLS_PORT: u16 = 16_380;

/// A password, so that every test also proves that it is used and shown to nobody.
pub(crate) const PASSWORD: &str = "correct-horse";

pub(crate) struct RedisServer {
    address: Ipv4Addr,
    directory: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one, with further arguments, on a loopback address that no other test of this machine uses.
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = id().to_be_bytes();
        let address = Ipv4Addr::new(127, high, low, NEXT.fetch_add(1, Ordering::Relaxed));
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { address, directory: directory.to_owned(), arguments, process: None };
        server.restart();
        server
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("")
    }

    /// For another user, whose password is the same.
    pub(crate) fn url_of(&self, user: &str) -> String {
        format!("redis://{user}:{PASSWORD}@{}:{PORT}", self.address)
    }

    /// The same over TLS, by a name that its certificate may have.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://:{PASSWORD}@{}:{TLS_PORT}", self.address)
    }

    /// How many bytes it has sent to anybody.
    pub(crate) async fn sent(&self) -> u64 {
        let stats: String = self.command(&["INFO", "stats"]).await;
        let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        sent.unwrap().trim().parse().unwrap()
    }

    /// Starts it again, empty.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.is_none(), "already running");
        let program = find_program();
        let process = Command::new(&program)
            .args(["--bind", &self.address.to_string(), "--port", &PORT.to_string()])
            .args(["--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir"])
            .arg(&self.directory)
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot run {}: {error}; `make setup` brings it", program.display())
            });
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((self.address, PORT)).is_err() {
            let process = self.process.as_mut().unwrap();
            if let Some(status) = process.try_wait().unwrap() {
                panic!("redis-server ended: {status}; `make setup` brings one that runs");
            }
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The same with further arguments, from now on.
    pub(crate) fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.restart();
    }

    /// The host in its URLs.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops its process (SIGSTOP): connections stay open and nothing answers. `go_on` continues it.
    pub(crate) fn hang(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Runs one command and gives its answer.
    pub(crate) async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let client = redis::Client::open(self.url()).unwrap();
        // Large values take their time.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await.unwrap()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `REDIS_BIN`, or the one that `make setup` brings, or the system's.
fn find_program() -> PathBuf {
    if let Some(program) = std::env::var_os("REDIS_BIN") {
        return program.into();
    }
    let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/redis-server");
    if brought.exists() { brought } else { "redis-server".into() }
}
