//! `realmgate policy`: read, check and change the policy.

pub(super) mod document;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::Failure;
use super::client::{Api, Refusal};
use super::output::{self, list, number, text};
use crate::model::{self, Problem};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the policy in force.
    Show {
        #[command(flatten)]
        api: Api,
    },
    /// Check a policy document without a running control plane.
    Validate {
        /// The document, YAML or JSON; `-` reads the standard input.
        file: PathBuf,
    },
    /// Make a document the policy, or with --dry-run say what that would change.
    Apply(Apply),
}

#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// The document, YAML or JSON; `-` reads the standard input.
    #[arg(required_unless_present = "empty")]
    file: Option<PathBuf>,
    /// Make the empty policy the policy, which routes nothing: the same as the document `{}`.
    #[arg(long, conflicts_with = "file")]
    empty: bool,
    /// Confirm that the last listener or route goes, or more than half of ten or more listeners, services, routes or worlds.
    #[arg(long)]
    force: bool,
    /// Change nothing, only say what would change.
    #[arg(long)]
    dry_run: bool,
    /// Apply only if the policy in force still has this etag (see `policy show`).
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    /// Why, for the history.
    #[arg(long, short)]
    message: Option<String>,
    /// Wait until every connected proxy has it, up to 60s, and fail if one refuses it or time is over; 10s unless given. It is in
    /// force all the same.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "10s")]
    #[arg(conflicts_with = "dry_run")]
    wait: Option<model::Duration>,
    #[command(flatten)]
    api: Api,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Show { api } => show(api),
        Command::Validate { file } => validate(file),
        Command::Apply(arguments) => apply(arguments),
    }
}

fn show(api: &Api) -> Result<(), Failure> {
    let policy = api.get("/v1/policy", &[])?;
    // The document alone goes to the standard output, to be edited and applied again.
    if api.output.is_table() {
        let (version, etag) = (number(&policy, "/version"), text(&policy, "/etag"));
        let updated = policy.get("updated").and_then(Value::as_u64).map(Duration::from_secs);
        let (author, updated) = (text(&policy, "/author"), output::ago(updated));
        // No document, not even an empty one: whoever redirects this into a file has to hear of it.
        if version == "0" {
            return Err(Failure::failed("no policy was ever put; `realmgate policy apply FILE` puts one"));
        }
        output::remark(&format!("version {version}, etag {etag}, by {author}, {updated}"));
    }
    api.output.print_text(&policy, "/text")
}

fn validate(file: &Path) -> Result<(), Failure> {
    let policy = document::check(file, &document::read(file)?)?;
    let counts = [
        (policy.listeners.len(), "listeners"),
        (policy.services.len(), "services"),
        (policy.routes.len(), "routes"),
    ];
    for warning in model::warnings(&policy) {
        output::remark(&format!("warning: {warning}"));
    }
    let counts = counts.map(|(count, what)| format!("{count} {what}")).join(", ");
    output::print(&format!("{}: valid: {counts}", document::name(file)))
}

fn apply(arguments: &Apply) -> Result<(), Failure> {
    let Apply { file, empty: _, force, dry_run, if_match, message, wait, api } = arguments;
    // Without a file it is the empty policy that is meant.
    let (file, body) = match file {
        Some(file) => (file.as_path(), document::read(file)?),
        None => (Path::new("{}"), "{}\n".to_owned()),
    };
    let mut query = Vec::new();
    for (name, set) in [("dry_run", dry_run), ("force", force)] {
        if *set {
            query.push((name, "true"));
        }
    }
    if let Some(message) = message {
        query.push(("message", message));
    }
    let timeout = wait.map(|time| time.to_string());
    if let Some(timeout) = &timeout {
        query.extend([("wait", "applied"), ("timeout", timeout)]);
    }
    let outcome = api.put("/v1/policy", &query, if_match.as_deref(), &body);
    let outcome = outcome.map_err(|refusal| match refusal {
        Refusal::Answer { status: 422, body } => invalid(file, &body),
        Refusal::Answer { status: 409, body } if text(&body, "/error") == "mass_removal" => {
            Failure::failed(format!("{}: {}", document::name(file), text(&body, "/message")))
        }
        Refusal::Answer { status: 409 | 412, body } => Failure::failed(format!(
            "{}: the policy in force is another one by now; read it with `realmgate policy show`",
            text(&body, "/message")
        )),
        other => other.into(),
    })?;
    api.output.print(&outcome, summary)?;
    if wait.is_some() { applied(&outcome) } else { Ok(()) }
}

/// Whether all proxies have it.
fn applied(outcome: &Value) -> Result<(), Failure> {
    if outcome.pointer("/applied/complete").and_then(Value::as_bool).unwrap_or_default() {
        return Ok(());
    }
    let of = |pointer| list(outcome, pointer).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    let said =
        [("refused by", of("/applied/rejecting")), ("not acknowledged in time by", of("/applied/pending"))];
    let said = said.iter().filter(|(_, ids)| !ids.is_empty()).map(|(what, ids)| format!("{what} {ids}"));
    let said = said.collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { "not compiled in time".to_owned() } else { said };
    Err(Failure::failed(format!("the policy is stored, but {said}; `realmgate proxies` says why")))
}

/// What the server found wrong with the document.
fn invalid(file: &Path, body: &Value) -> Failure {
    let problems = body.get("problems").cloned().unwrap_or_default();
    match serde_json::from_value::<Vec<Problem>>(problems) {
        Ok(problems) if !problems.is_empty() => document::invalid(file, &problems),
        _ => Failure::invalid(format!("{}: {}", document::name(file), text(body, "/message"))),
    }
}

/// What applying did, or would do.
fn summary(outcome: &Value) -> String {
    let flag = |name| outcome.get(name).and_then(Value::as_bool).unwrap_or_default();
    let mut lines = vec![format!("version {}, etag {}", number(outcome, "/version"), text(outcome, "/etag"))];
    let changes = outcome.get("changes").and_then(Value::as_array);
    let changes = changes.into_iter().flatten().filter_map(Value::as_str);
    lines.extend(changes.map(|change| format!("  {change}")));
    if lines.len() == 1 && outcome.get("changed").is_some() && !flag("changed") {
        lines.push("  nothing changes".to_owned());
    }
    let warnings = list(outcome, "/warnings").iter().filter_map(Value::as_str);
    lines.extend(warnings.map(|warning| format!("  warning: {warning}")));
    if outcome.get("mass_removal").is_some() {
        lines.push(format!("  It has to be confirmed with --force: {}.", taken(outcome)));
    }
    if flag("dry_run") {
        lines.push("This was a dry run: nothing was stored.".to_owned());
    }
    lines.join("\n")
}

/// What would go, as `12 of 20 routes (a, b, ...)`.
fn taken(outcome: &Value) -> String {
    let one = |taken: &Value| {
        let names: Vec<_> = list(taken, "/names").iter().filter_map(Value::as_str).collect();
        let (gone, of, kind) = (number(taken, "/gone"), number(taken, "/of"), text(taken, "/kind"));
        let more = if gone == names.len().to_string() { "" } else { ", ..." };
        format!("{gone} of {of} {kind} ({}{more})", names.join(", "))
    };
    let all = list(outcome, "/mass_removal/taken").iter().map(one).collect::<Vec<_>>().join(", ");
    format!("it takes away {all}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_lists_the_changes() {
        let outcome = json!({"version": 4, "etag": "ab", "dry_run": true, "changed": true,
            "changes": ["+ cluster game", "~ listener edge"]});
        let expected = "version 4, etag ab\n  + cluster game\n  ~ listener edge\nThis was a dry run: nothing was stored.";
        assert_eq!(summary(&outcome), expected);
        let unchanged = json!({"version": 4, "etag": "ab", "changed": false});
        assert_eq!(summary(&unchanged), "version 4, etag ab\n  nothing changes");
        assert_eq!(summary(&json!({})), "version -, etag -");
        let taken = json!({"kind": "routes", "gone": 12, "of": 20, "names": ["a", "b"]});
        let much = json!({"version": 4, "etag": "ab", "changed": true, "mass_removal": {"taken": [taken], "etag": "ab"}});
        let expected = "  It has to be confirmed with --force: it takes away 12 of 20 routes (a, b, ...).";
        assert_eq!(summary(&much).lines().nth(1), Some(expected));
    }
}
