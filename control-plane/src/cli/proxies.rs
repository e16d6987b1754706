//! `realmgate proxies`: who is connected, in sync, pending or rejecting.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::Failure;
use super::client::Api;
use super::output::{self, list, table, text};

/// How often `--watch` looks again.
const PERIOD: Duration = Duration::from_secs(2);

/// Clears a terminal and puts the cursor on top.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Look again every two seconds until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    api: Api,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if !arguments.watch {
        return show(&arguments.api);
    }
    loop {
        if io::stdout().is_terminal() {
            output::print(CLEAR)?;
        }
        // A control plane that restarts is what one wants to watch: it is asked again.
        if let Err(failure) = show(&arguments.api) {
            output::remark(&failure.to_string());
        }
        thread::sleep(PERIOD);
    }
}

fn show(api: &Api) -> Result<(), Failure> {
    let answer = api.get("/v1/proxies", &[])?;
    api.output.print(&answer, describe)
}

fn describe(answer: &Value) -> String {
    if answer.get("proxies").is_none() {
        return "the answer has no list of proxies; --output json shows what it has".to_owned();
    }
    let proxies = list(answer, "/proxies");
    if proxies.is_empty() {
        return "no proxy is connected".to_owned();
    }
    let fields = ["/id", "/role", "/datacenter", "/address", "/envoy_version", "/connected_since", "/sync"];
    let rows = proxies.iter().map(|proxy| fields.map(|field| text(proxy, field).to_owned()));
    let head = ["ID", "ROLE", "DATACENTER", "ADDRESS", "ENVOY", "CONNECTED SINCE", "SYNC"];
    let mut lines = vec![table(head, rows)];
    lines.extend(proxies.iter().flat_map(rejections));
    lines.join("\n")
}

/// What a proxy refused, in its own words.
fn rejections(proxy: &Value) -> Vec<String> {
    let types = proxy.get("types").and_then(Value::as_object).into_iter().flatten();
    let rejected =
        types.filter_map(|(name, state)| Some((name, state.get("rejected").filter(|r| !r.is_null())?)));
    let id = text(proxy, "/id");
    let line = |(name, rejected): (&String, &Value)| {
        let (at, message) = (text(rejected, "/at"), text(rejected, "/message"));
        format!("{id} rejects {name} since {at}: {message}")
    };
    rejected.map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::describe;

    #[test]
    fn lists_proxies_and_what_they_reject() {
        let answer = json!({"proxies": [
            {"id": "edge-1", "role": "edge", "datacenter": "", "address": "10.0.0.1:4", "sync": "synced",
             "types": {"cds": {"rejected": null}}},
            {"id": "edge-2", "sync": "rejecting",
             "types": {"eds": {"rejected": {"message": "bad port", "at": "noon"}}}},
        ]});
        let text = describe(&answer);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("ID"), "{text}");
        assert!(lines[1].starts_with("edge-1") && lines[1].contains("synced"), "{text}");
        assert_eq!(lines[3], "edge-2 rejects eds since noon: bad port");
        assert_eq!(describe(&json!({"proxies": []})), "no proxy is connected");
        assert!(describe(&json!({})).contains("no list of proxies"));
    }
}
