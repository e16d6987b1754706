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
fn wait(admin: &Admin, grace: Time) -> Result<u64, Failure> {
    let start = Instant::now();
    let mut told = None;
    loop {
        let left = connections(&admin.get("/stats?filter=downstream_cx_active$")?);
        if left == 0 || start.elapsed() >= grace {
            return Ok(left);
        }
        if told.replace(left) != Some(left) {
            output::remark(&format!("no new connections; {left} live"));
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
    use super::connections;

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
}
