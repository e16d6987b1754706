//! What changes between two policies, and what each change does to live connections.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::intention::Action;
use super::{FailBack, Failover, Limits, PlayerTls, Policy, Service};

/// Differences in words, a line each: `+` added, `-` removed, `~` changed.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Vec<String> {
    let mut changes = Vec::new();
    section(
        "service",
        &old.services,
        &new.services,
        |s| &s.name,
        &mut changes,
        |old, new| {
            // Endpoints go by EDS, which keeps the cluster; anything else makes it anew.
            if with_places_of(new, old) == *old {
                ""
            } else {
                " (for new connections; live ones stay and count to its limits no more)"
            }
        },
    );
    section("route", &old.routes, &new.routes, |r| &r.name, &mut changes, |_, _| "");
    section(
        "listener",
        &old.listeners,
        &new.listeners,
        |l| &l.name,
        &mut changes,
        |old, new| {
            let mut spared = old.clone();
            // All but this one belong to filters that are exchanged without touching the listener.
            spared.limits = Limits { idle_timeout: old.limits.idle_timeout, ..new.limits.clone() };
            // Files are named by secrets of their own.
            if let (Some(spared), Some(new)) = (&mut spared.tls, &new.tls)
                && spared.client_ca_file.is_some() == new.client_ca_file.is_some()
            {
                *spared = PlayerTls { min_version: spared.min_version, ..new.clone() };
            }
            if spared == *new { "" } else { " (replaces the listener: its live connections drain)" }
        },
    );
    if old.sidecars != new.sidecars {
        let fields = changed_fields(&old.sidecars, &new.sidecars).join(", ");
        let drains = old.sidecars.replaces_listeners(&new.sidecars);
        let effect =
            if drains { " (replaces the listeners of sidecars: their live connections drain)" } else { "" };
        changes.push(format!("~ sidecars: {fields}{effect}"));
    }
    changes.extend(old.privacy.differences(&new.privacy));
    intentions(old, new, &mut changes);
    changes
}

/// Who may connect to whom, and whether that is enforced on connections that are open.
fn intentions(old: &Policy, new: &Policy, changes: &mut Vec<String>) {
    type Pair<'a> = (&'a str, &'a str);
    fn by_pair(policy: &Policy) -> BTreeMap<Pair<'_>, Action> {
        policy
            .intentions
            .iter()
            .map(|of| ((of.source.as_str(), of.destination.as_str()), of.action))
            .collect()
    }
    let word = |action: Action| if action == Action::Allow { "allow" } else { "deny" };
    let (before, after) = (by_pair(old), by_pair(new));
    for ((source, destination), action) in before.iter().filter(|(pair, _)| !after.contains_key(*pair)) {
        changes.push(format!("- intention {source} -> {destination} ({})", word(*action)));
    }
    for ((source, destination), action) in &after {
        match before.get(&(*source, *destination)) {
            None => changes.push(format!("+ intention {source} -> {destination}: {}", word(*action))),
            Some(was) if was != action => {
                let (was, is) = (word(*was), word(*action));
                changes.push(format!("~ intention {source} -> {destination}: {was} becomes {is}"));
            }
            Some(_) => {}
        }
    }
    if old.default_intention != new.default_intention {
        let [was, is] = [old, new].map(|policy| policy.default_intention.map_or("none", word));
        changes.push(format!("~ default_intention: {was} becomes {is}"));
    }
    if old.intentions_close != new.intentions_close {
        changes.push(format!("~ intentions_close: {}", new.intentions_close));
    }
}

/// `new` with everything of `old` that is about which endpoints there are, and in which order.
fn with_places_of(new: &Service, old: &Service) -> Service {
    let mut mixed = new.clone();
    mixed.endpoints.clone_from(&old.endpoints);
    mixed.datacenter.clone_from(&old.datacenter);
    mixed.datacenters.clone_from(&old.datacenters);
    if let (Some(new), Some(old)) = (&mut mixed.consul, &old.consul) {
        new.clone_from(old);
    }
    if let (Some(new), Some(old)) = (&mut mixed.failover, &old.failover) {
        *new = Failover {
            close_connections: new.close_connections,
            fail_back: FailBack { after: new.fail_back.after, ..old.fail_back.clone() },
            ..old.clone()
        };
    }
    mixed
}

fn section<'a, T: PartialEq + Serialize>(
    kind: &str,
    old: &'a [T],
    new: &'a [T],
    name: impl Fn(&T) -> &String,
    changes: &mut Vec<String>,
    effect: impl Fn(&T, &T) -> &'static str,
) {
    let by_name = |items: &'a [T]| items.iter().map(|item| (name(item), item)).collect::<HashMap<_, _>>();
    let (before, after) = (by_name(old), by_name(new));
    for item in old.iter().filter(|item| !after.contains_key(name(item))) {
        let effect = if kind == "listener" { " (its live connections drain)" } else { "" };
        changes.push(format!("- {kind} {}{effect}", name(item)));
    }
    for item in new {
        match before.get(name(item)) {
            None => changes.push(format!("+ {kind} {}", name(item))),
            Some(before) if *before != item => {
                let fields = changed_fields(before, item).join(", ");
                changes.push(format!("~ {kind} {}: {fields}{}", name(item), effect(before, item)));
            }
            Some(_) => {}
        }
    }
}

/// The names of the fields that differ.
fn changed_fields(old: &impl Serialize, new: &impl Serialize) -> Vec<String> {
    let fields = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, new) = (fields(serde_json::to_value(old)), fields(serde_json::to_value(new)));
    let mut names: Vec<_> =
        old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    #[test]
    fn names_what_changes_and_what_it_costs() {
        let old = parse("listeners: [{name: a, bind: 127.0.0.1:1}, {name: b, bind: 127.0.0.1:2}, {name: c, bind: 127.0.0.1:3}, {name: d, bind: 127.0.0.1:4}]").unwrap();
        let new = parse(
            "listeners: [{name: a, bind: 127.0.0.1:9}, {name: b, bind: 127.0.0.1:2, limits: {header_timeout: 1s}},\n\
             {name: d, bind: 127.0.0.1:4, clusters: on_demand}]\n\
             services: [{name: s, endpoints: [\"127.0.0.1:5\"]}]",
        )
        .unwrap();
        assert_eq!(
            diff(&old, &new),
            [
                "+ service s",
                "- listener c (its live connections drain)",
                "~ listener a: bind (replaces the listener: its live connections drain)",
                "~ listener b: limits",
                "~ listener d: clusters (replaces the listener: its live connections drain)",
            ]
        );
        assert!(diff(&new, &new).is_empty());
    }

    #[test]
    fn says_who_may_connect_to_whom() {
        let policy = |text: &str| parse(text).unwrap();
        let old = policy(
            "intentions: [{source: a, destination: b, action: allow}, {source: c, destination: b, action: deny}]",
        );
        let new = policy(
            "{intentions: [{source: a, destination: b, action: deny}, {source: '*', destination: d, action: allow}],\n\
             default_intention: allow, intentions_close: true}",
        );
        assert_eq!(
            diff(&old, &new),
            [
                "- intention c -> b (deny)",
                "+ intention * -> d: allow",
                "~ intention a -> b: allow becomes deny",
                "~ default_intention: none becomes allow",
                "~ intentions_close: true",
            ]
        );
        assert!(diff(&new, &new).is_empty());
    }

    #[test]
    fn says_what_a_service_changed_and_that_sessions_stay() {
        let policy = |more: &str| parse(&format!("services: [{{name: s, {more}}}]")).unwrap();
        let old = policy("endpoints: [\"127.0.0.1:5\"]");
        assert_eq!(diff(&old, &policy("endpoints: [\"127.0.0.1:6\"]")), ["~ service s: endpoints"]);
        let effect = "(for new connections; live ones stay and count to its limits no more)";
        for (more, fields) in [
            ("connections: {max: 5}", "connections"),
            ("health_check: {}, panic_threshold: 0", "health_check, panic_threshold"),
            ("outlier_detection: {interval: 1s}", "outlier_detection"),
        ] {
            let new = policy(&format!("endpoints: [\"127.0.0.1:5\"], {more}"));
            assert_eq!(diff(&old, &new), [format!("~ service s: {fields} {effect}")]);
        }
        let failover = |more: &str| policy(&format!("consul: {{service: a}}, failover: {{{more}}}"));
        let old = failover("targets: [{datacenter: aws}]");
        let places = failover("targets: [{datacenter: azure}], order: lowest_latency, fail_back: {over: 1m}");
        assert_eq!(diff(&old, &places), ["~ service s: failover"]);
        let closing = failover("targets: [{datacenter: aws}], close_connections: false");
        assert_eq!(diff(&old, &closing), [format!("~ service s: failover {effect}")]);
    }
}
