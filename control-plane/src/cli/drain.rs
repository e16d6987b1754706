//! `realmgate drain`: takes an Envoy out of service over its admin interface. Asked to end by a signal, Envoy closes
//! everything at once; this runs before.

use std::thread;
use std::time::{Duration as Time, Instant};

use ureq::Agent;

use super::{Failure, output};
use crate::model::{Duration, Endpoint};

/// How often the sessions are counted.
const PERIOD: Time = Time::from_millis(250);

/// Longest that one answer of the admin interface may take.
const ANSWER: Time = Time::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The Envoy's admin interface.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9901")]
    admin: Endpoint,
    /// Time between `/ready` saying no and the first refused connection, for load balancers to look.
    #[arg(long, value_name = "TIME", default_value = "5s")]
    notice: Duration,
    /// Time for live sessions to end, from the first refused connection on.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    grace: Duration,
    /// Then end the Envoy, and with it the sessions that are left.
    #[arg(long)]
    quit: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let admin = Admin::new(&arguments.admin);
    admin.post("/healthcheck/fail")?;
    output::remark(&format!("not ready; new connections are taken for {} more", arguments.notice));
    thread::sleep(arguments.notice.get());
    // The listeners of players alone: /health, /ready and /metrics go on.
    admin.post("/drain_listeners?inboundonly")?;
    let left = wait(&admin, arguments.grace.get())?;
    if arguments.quit {
        admin.post("/quitquitquit")?;
    }
    if left > 0 {
        let fate = if arguments.quit { "were closed" } else { "go on until the Envoy ends" };
        return Err(Failure::failed(format!("after {} {left} connections {fate}", arguments.grace)));
    }
    output::remark("drained");
    Ok(())
}

/// Waits until no connection is left, or for so long; gives how many are.
///
/// An Envoy that does not answer now is asked again: ended early, this would end live sessions early.
fn wait(admin: &Admin, grace: Time) -> Result<u64, Failure> {
    let start = Instant::now();
    let mut told = None;
    loop {
        let left = admin.get("/stats?filter=downstream_cx_active$").map(|stats| connections(&stats));
        if matches!(left, Ok(0)) || start.elapsed() >= grace {
            return left;
        }
        let now = match left {
            Ok(left) => format!("no new connections; {left} live"),
            Err(failure) => failure.to_string(),
        };
        if told.as_ref() != Some(&now) {
            output::remark(&now);
            told = Some(now);
        }
        thread::sleep(PERIOD.min(grace.saturating_sub(start.elapsed())));
    }
}

/// Connections to all listeners but Envoy's own admin interface and the edge's health listener.
fn connections(stats: &str) -> u64 {
    let active = |line: &str| {
        let (name, count) = line.split_once(": ")?;
        let listener = name.strip_prefix("listener.")?.strip_suffix(".downstream_cx_active")?;
        let spared = ["admin", crate::compile::HEALTH_LISTENER].contains(&listener);
        let part = listener.contains(".worker_") || listener.ends_with(".main_thread");
        if spared || part { None } else { count.trim().parse::<u64>().ok() }
    };
    stats.lines().filter_map(active).sum()
}

struct Admin {
    agent: Agent,
    base: String,
}

impl Admin {
    fn new(admin: &Endpoint) -> Self {
        let agent = Agent::config_builder().timeout_global(Some(ANSWER)).proxy(None).build().into();
        Self { agent, base: format!("http://{admin}") }
    }

    fn get(&self, path: &str) -> Result<String, Failure> {
        let url = format!("{}{path}", self.base);
        let failed = |error| Failure::failed(format!("{url}: {error}"));
        self.agent.get(&url).call().map_err(failed)?.body_mut().read_to_string().map_err(failed)
    }

    fn post(&self, path: &str) -> Result<(), Failure> {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.post(&url).send_empty();
        answer.map(drop).map_err(|error| Failure::failed(format!("{url}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::{Admin, connections, wait};

    #[test]
    fn counts_the_connections_of_players_and_each_once() {
        let stats = "http.admin.downstream_cx_active: 1\n\
                     listener.admin.downstream_cx_active: 1\n\
                     listener.admin.main_thread.downstream_cx_active: 1\n\
                     listener.realmgate-health.downstream_cx_active: 4\n\
                     listener.realmgate-health.worker_0.downstream_cx_active: 4\n\
                     listener.edge.downstream_cx_active: 3\n\
                     listener.edge.worker_0.downstream_cx_active: 1\n\
                     listener.edge.worker_1.downstream_cx_active: 2\n\
                     listener.127.0.0.1_7000.downstream_cx_active: 2\n";
        assert_eq!(connections(stats), 5);
        assert_eq!(connections(""), 0);
    }

    #[test]
    fn an_envoy_that_does_not_answer_for_a_moment_keeps_its_grace() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let admin = Admin::new(&listener.local_addr().unwrap().to_string().parse().unwrap());
        let answers = ["503 Busy", "200 OK", "200 OK"].into_iter().zip([
            "",
            "listener.edge.downstream_cx_active: 1",
            "",
        ]);
        let envoy = thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines();
                assert!(lines.map_while(Result::ok).any(|line| line.is_empty()), "a whole request");
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                )
                .unwrap();
            }
        });
        assert_eq!(wait(&admin, Duration::from_secs(20)).ok(), Some(0));
        envoy.join().unwrap();
    }
}
