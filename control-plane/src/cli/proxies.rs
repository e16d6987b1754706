//! `realmgate proxies`: who is connected, in sync, pending or rejecting.

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::Failure;
use super::client::Api;
use super::output::{self, ago, list, table, text};

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
    api.output.print_painted(&answer, describe, paint)
}

/// Colours each proxy's state, the last word of its line.
fn paint(text: &str) -> String {
    let paint = |line: &str| {
        let at = line.trim_end().rfind(' ').map_or(0, |at| at + 1);
        let (rest, state) = line.split_at(at);
        let colour = match state.trim_end() {
            "synced" => "32",
            "pending" => "33",
            "rejecting" | "unsupported" => "31",
            _ => return line.to_owned(),
        };
        format!("{rest}\x1b[{colour}m{state}\x1b[0m")
    };
    text.lines().map(paint).collect::<Vec<_>>().join("\n")
}

fn describe(answer: &Value) -> String {
    if answer.get("proxies").is_none() {
        return "the answer has no list of proxies; --output json shows what it has".to_owned();
    }
    let proxies = list(answer, "/proxies");
    if proxies.is_empty() {
        return "no proxy is connected".to_owned();
    }
    let rows = proxies.iter().map(row);
    let head = ["ID", "ROLE", "DATACENTER", "ADDRESS", "PROXY", "XDS", "CONNECTED", "MODULE", "SYNC"];
    let mut lines = vec![table(head, rows)];
    lines.extend(proxies.iter().flat_map(rejections));
    lines.extend(proxies.iter().filter_map(held));
    lines.extend(proxies.iter().flat_map(problems));
    lines.join("\n")
}

fn row(proxy: &Value) -> [String; 9] {
    let field = |pointer| text(proxy, pointer).to_owned();
    let connected = proxy.get("connected_since_ms").and_then(Value::as_u64).map(Duration::from_millis);
    [
        field("/id"),
        field("/scope/role"),
        field("/scope/datacenter"),
        field("/address"),
        field("/user_agent"),
        field("/variant"),
        ago(connected),
        short(text(proxy, "/module_sha256")).to_owned(),
        field("/sync"),
    ]
}

/// As much of a hash as tells builds apart.
fn short(hash: &str) -> &str {
    match hash.get(..8) {
        Some(start) => start,
        None if hash.is_empty() => "-",
        None => hash,
    }
}

/// What is wrong with a proxy, and what to do.
fn problems(proxy: &Value) -> impl Iterator<Item = String> {
    let id = text(proxy, "/id");
    let problems = list(proxy, "/problems").iter();
    problems.map(move |problem| format!("{id}: {}: {}", text(problem, "/reason"), text(problem, "/message")))
}

/// What a proxy refuses, resource by resource, in its own words.
fn rejections(proxy: &Value) -> impl Iterator<Item = String> {
    let id = text(proxy, "/id");
    list(proxy, "/types").iter().flat_map(move |state| {
        let kind = text(state, "/kind");
        list(state, "/rejections").iter().map(move |rejection| {
            format!("{id} rejects {kind} {}: {}", text(rejection, "/resource"), text(rejection, "/message"))
        })
    })
}

/// What a proxy keeps that the control plane does not know.
fn held(proxy: &Value) -> Option<String> {
    let held = proxy.get("held")?;
    let resources = match held.get("resources").and_then(Value::as_u64) {
        Some(1) => "1 resource that is".to_owned(),
        Some(many) => format!("{many} resources that are"),
        None => "all of its resources, which are".to_owned(),
    };
    Some(format!("{} keeps {resources} not known here: {}", text(proxy, "/id"), text(held, "/reason")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{describe, paint};
    use crate::xds::{Held, ProxyStatus, Rejection, SyncState, TypeStatus};

    fn proxy(id: &str, sync: SyncState, rejections: Vec<Rejection>) -> Value {
        let eds = TypeStatus { kind: "eds", rejected: rejections.len(), rejections, ..TypeStatus::default() };
        let module_sha256 = "0123456789abcdef".to_owned();
        json!(ProxyStatus { sync, module_sha256, types: vec![eds], ..ProxyStatus::example(id) })
    }

    #[test]
    fn lists_proxies_and_what_they_reject() {
        let bad = Rejection {
            resource: "game".to_owned(),
            version: String::new(),
            message: "bad port".to_owned(),
            at_ms: 0,
        };
        let mut proxies = vec![
            proxy("edge-1", SyncState::Synced, vec![]),
            proxy("edge-2", SyncState::Rejecting, vec![bad]),
            proxy("edge-3", SyncState::Unsupported, vec![]),
        ];
        proxies[2]["problems"] = json!([{"reason": "unsupported_envoy", "message": "upgrade it"}]);
        let text = describe(&json!({ "proxies": proxies }));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("ID"), "{text}");
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words[..7], ["edge-1", "edge", "-", "10.0.0.1:4", "envoy", "1.40.0", "delta"], "{text}");
        assert_eq!(words[words.len() - 2..], ["01234567", "synced"], "{text}");
        assert!(lines[3].ends_with("unsupported"), "{text}");
        assert_eq!(
            lines[4..],
            ["edge-2 rejects eds game: bad port", "edge-3: unsupported_envoy: upgrade it"]
        );
    }

    #[test]
    fn says_what_a_proxy_keeps_and_why() {
        let reason = "no policy was ever put; put it again".to_owned();
        let proxies = [Some(7), None].map(|resources| ProxyStatus {
            held: Some(Held { reason: reason.clone(), resources }),
            ..ProxyStatus::example("edge-1")
        });
        let text = describe(&json!({ "proxies": proxies }));
        let lines: Vec<_> = text.lines().skip(3).collect();
        let why = "not known here: no policy was ever put; put it again";
        let kept = ["7 resources that are", "all of its resources, which are"];
        assert_eq!(lines, kept.map(|kept| format!("edge-1 keeps {kept} {why}")));
    }

    #[test]
    fn states_are_coloured_and_nothing_else() {
        let text = "ID  SYNC\na   synced\nb   rejecting\nc rejects eds game: not synced yet";
        let painted = "ID  SYNC\na   \x1b[32msynced\x1b[0m\nb   \x1b[31mrejecting\x1b[0m\nc rejects eds game: not synced yet";
        assert_eq!(paint(text), painted);
    }

    #[test]
    fn an_empty_list_is_not_a_missing_one() {
        assert_eq!(describe(&json!({"proxies": []})), "no proxy is connected");
        assert!(describe(&json!({})).contains("no list of proxies"));
        assert!(describe(&json!({"proxies": [{}]})).lines().any(|line| line.starts_with("-  ")));
    }
}
