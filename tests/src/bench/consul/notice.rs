//! Consul's own notification: a blocking query on one service, as quick as can be.

use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use ureq::Agent;

use crate::Consul;
use crate::fleet::moment;

/// How long a query waits, and so how long the thread may outlive its receiver.
const WAIT: &str = "10s";
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer that Consul gave.
#[derive(Debug)]
pub(super) struct Notice {
    /// When it was read.
    pub(super) at: Duration,
    /// Whether an instance is critical.
    pub(super) critical: bool,
}

/// Every answer about this service from now on, until nobody listens or Consul is gone.
pub(super) fn follow(consul: &Consul, service: &str) -> UnboundedReceiver<Notice> {
    let url = format!("{}/v1/health/service/{service}?wait={WAIT}", consul.url());
    let (notices, listener) = unbounded_channel();
    thread::spawn(move || listen(&url, &notices));
    listener
}

fn listen(url: &str, notices: &UnboundedSender<Notice>) -> Option<()> {
    let agent: Agent = Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).build().into();
    let mut index = 0_u64;
    loop {
        let mut answer = agent.get(format!("{url}&index={index}")).call().ok()?;
        index = answer.headers().get("x-consul-index")?.to_str().ok()?.parse().ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        let at = moment();
        notices.send(Notice { at, critical: text.contains("\"critical\"") }).ok()?;
    }
}
