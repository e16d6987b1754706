//! Where players of a service go when its first choice fails: Consul's names, targets, their order, the way back.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resilience::percent;
use super::{Duration, Endpoint, Problem, Service};

/// The service as Consul knows it. Its instances, their weights and their health are followed; its `service-resolver`
/// and `service-splitter` hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Consul {
    /// Its name in Consul.
    pub service: String,
    /// Expression that its instances must satisfy, in Consul's filter language. Empty = all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// A subset that its `service-resolver` defines. Empty = that resolver's default subset.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subset: String,
}

/// Where players go when not enough of the service is well. A service with `failover`, and every `consul` service, is
/// checked by every edge, quickly (see `health_check`), and has a `panic_threshold` of 0 unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// Who comes first: the service itself and its targets are ordered alike.
    pub order: Order,
    /// Where else players can go. None given: as the `service-resolver` in Consul says, if it does.
    pub targets: Vec<FailoverTarget>,
    /// Players go on to the next target when less than this share of the endpoints is well, in percent: as many of them as
    /// are missing to it. 0 = only when none is well.
    pub spill_below: u32,
    /// Whether an endpoint that fails its check loses its live connections, so that its players come back and are
    /// served elsewhere.
    pub close_connections: bool,
    /// The way back to a target that was down.
    pub fail_back: FailBack,
}

/// In which order targets are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they are written, the service itself first; the same for every edge.
    #[default]
    Listed,
    /// Those in the edge's own datacenter first, then by the time that Consul measures between datacenters; those
    /// that are not measured stay as they are written.
    LowestLatency,
}

/// One place to go to: a service in Consul or fixed `endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverTarget {
    /// Its datacenter. Empty = the edge's own; with `endpoints` not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    /// Its name in Consul. Empty = as the service's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Its subset. Empty = the default subset there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subset: String,
    /// Fixed addresses, without Consul.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

/// How players go back to a target that was down and is well again. Live connections stay where they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailBack {
    /// How long it has to be well before it is given any: an endpoint by the edge's checks, a whole target by Consul's.
    pub after: Duration,
    /// From then, the time over which its share of new players grows to all, a tenth at a time. Of targets in Consul alone,
    /// since only Consul tells the control plane that a target was down.
    pub over: Duration,
}

impl Default for Failover {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Default for FailBack {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FailBack {
    // Long enough that a link which comes and goes moves nobody twice; a tenth every 3 s lets caches fill.
    const DEFAULT: Self = Self { after: Duration::from_secs(10), over: Duration::from_secs(30) };
}

impl Failover {
    /// What holds where nothing is said.
    const DEFAULT: Self = Self {
        order: Order::Listed,
        targets: Vec::new(),
        // As Consul does. Sessions of a world belong together: part of them elsewhere has to be asked for.
        spill_below: 0,
        // A player on a dead server notices nothing for minutes otherwise.
        close_connections: true,
        fail_back: FailBack::DEFAULT,
    };
}

/// More are no order that anybody can think through; Envoy's own bound is 128.
const MOST_TARGETS: usize = 16;

/// Consul's own bound on a filter is its request size; nobody writes this much by hand.
const LONGEST_FILTER: usize = 1024;

impl Service {
    /// What holds when its first choice fails; `None` = nobody goes elsewhere.
    #[must_use]
    pub fn failover(&self) -> Option<&Failover> {
        static DEFAULT: Failover = Failover::DEFAULT;
        // Entries in Consul may name targets at any time.
        self.failover.as_ref().or_else(|| self.consul.as_ref().map(|_| &DEFAULT))
    }

    /// What it is called in SPIFFE ids and intentions: its name in Consul where it has one.
    #[must_use]
    pub fn mesh_name(&self) -> &str {
        self.consul.as_ref().map_or(&self.name, |consul| &consul.service)
    }

    /// Whether instances may be in this datacenter.
    #[must_use]
    pub fn may_be_in(&self, datacenter: &str) -> bool {
        self.datacenters.is_empty() || self.datacenters.iter().any(|allowed| allowed == datacenter)
    }

    /// Checks all that says where its instances are and where else its players go.
    pub(super) fn validate_places(&self, at: &str, found: &mut Vec<Problem>) {
        if let Some(consul) = &self.consul {
            consul.validate(&format!("{at}.consul"), found);
        }
        name(&format!("{at}.datacenter"), &self.datacenter, found);
        for (i, datacenter) in self.datacenters.iter().enumerate() {
            name(&format!("{at}.datacenters[{i}]"), datacenter, found);
            if datacenter.is_empty() {
                found.push(Problem::at(format!("{at}.datacenters[{i}]"), "is empty"));
            }
        }
        self.resides(&format!("{at}.datacenter"), &self.datacenter, self.consul.is_none(), found);
        let Some(failover) = &self.failover else { return };
        let at = format!("{at}.failover");
        if self.dns.is_some() {
            let why = "a `dns` service cannot have it: its addresses say nothing of datacenters; use `endpoints` or `consul`";
            found.push(Problem::at(&at, why));
        }
        if failover.targets.is_empty() && self.consul.is_none() {
            found.push(Problem::at(
                format!("{at}.targets"),
                "names no target, and there is no Consul to name any",
            ));
        }
        if failover.targets.len() > MOST_TARGETS {
            return found.push(Problem::at(format!("{at}.targets"), format!("are more than {MOST_TARGETS}")));
        }
        percent(&format!("{at}.spill_below"), 0, failover.spill_below, found);
        if self.health_check.as_ref().is_some_and(|check| check.healthy_threshold.is_some()) {
            let why = "`fail_back.after` says when an endpoint is well again; leave `health_check.healthy_threshold` out";
            found.push(Problem::at(format!("{at}.fail_back"), why));
        }
        let mut addresses: HashSet<_> = self.endpoints.iter().collect();
        for (i, target) in failover.targets.iter().enumerate() {
            let at = format!("{at}.targets[{i}]");
            self.validate_target(&at, target, found);
            if failover.targets.iter().take(i).any(|before| before == target) {
                found.push(Problem::at(&at, "target is listed twice"));
            }
            for (j, endpoint) in target.endpoints.iter().enumerate() {
                if !addresses.insert(endpoint) {
                    let why = "endpoint is listed twice: in the service, in another target or in this one";
                    found.push(Problem::at(format!("{at}.endpoints[{j}]"), why));
                }
            }
        }
    }

    fn validate_target(&self, at: &str, target: &FailoverTarget, found: &mut Vec<Problem>) {
        let fixed = !target.endpoints.is_empty();
        name(&format!("{at}.datacenter"), &target.datacenter, found);
        for (field, value) in [("service", &target.service), ("subset", &target.subset)] {
            name(&format!("{at}.{field}"), value, found);
            if fixed && !value.is_empty() {
                let why = "is Consul's word, and the target has `endpoints`; one is wanted";
                found.push(Problem::at(format!("{at}.{field}"), why));
            }
        }
        if !fixed && target.service.is_empty() && self.consul.is_none() {
            found.push(Problem::at(at, "has neither `endpoints` nor a `service` in Consul"));
        }
        if *target == FailoverTarget::default() {
            found.push(Problem::at(at, "says nothing, which is the service itself"));
        }
        self.resides(&format!("{at}.datacenter"), &target.datacenter, fixed, found);
    }

    /// A datacenter that is written must be allowed; fixed endpoints have no other way to say where they are.
    fn resides(&self, at: &str, datacenter: &str, fixed: bool, found: &mut Vec<Problem>) {
        if self.datacenters.is_empty() || (datacenter.is_empty() && !fixed) {
            return;
        }
        if datacenter.is_empty() {
            found.push(Problem::at(at, "is missing: `datacenters` says where instances may be"));
        } else if !self.may_be_in(datacenter) {
            let allowed = self.datacenters.get(..MOST_TARGETS).unwrap_or(&self.datacenters).join(", ");
            found.push(Problem::at(at, format!("`{datacenter}` is not among `datacenters`: {allowed}")));
        }
    }
}

impl Consul {
    fn validate(&self, at: &str, found: &mut Vec<Problem>) {
        if self.service.is_empty() {
            found.push(Problem::at(format!("{at}.service"), "is empty"));
        }
        name(&format!("{at}.service"), &self.service, found);
        name(&format!("{at}.subset"), &self.subset, found);
        if self.filter.len() > LONGEST_FILTER {
            found.push(Problem::at(format!("{at}.filter"), format!("is longer than {LONGEST_FILTER} bytes")));
        }
    }
}

/// Consul's names: those of services may have dots.
fn name(at: &str, name: &str, found: &mut Vec<Problem>) {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if name.len() > 63 || !letters {
        found.push(Problem::at(
            at,
            format!("`{name}` is not a name of letters, digits, `-`, `_` and `.`, 63 at most"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use crate::model::parse;

    fn service(text: &str) -> String {
        format!("services:\n  - {{name: a, {text}}}\n")
    }

    const OWN: &str = "endpoints: ['10.0.0.1:1']";

    #[test]
    fn every_way_to_say_where_players_go_is_read_and_written() {
        for text in [
            "consul: {service: game}",
            "consul: {service: game, filter: 'Service.Meta.ready == yes', subset: v2}",
            "consul: {service: game}, datacenter: aws, datacenters: [aws, azure]",
            "consul: {service: game}, failover: {fail_back: {after: 0, over: 1m}}",
            "consul: {service: game}, failover: {order: lowest_latency, targets: [{datacenter: azure, subset: v2}, \
             {service: standby}]}",
            "endpoints: ['10.0.0.1:1'], datacenter: aws, datacenters: [aws, azure], failover: {targets: \
             [{datacenter: azure, endpoints: ['10.1.0.1:1']}]}",
            "endpoints: ['10.0.0.1:1'], failover: {targets: [{service: game}], spill_below: 70, close_connections: \
             false}",
        ] {
            let policy = parse(&service(text)).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
            let json = serde_json::to_string(&policy).unwrap();
            assert_eq!(parse(&json).unwrap(), policy, "{json}");
        }
    }

    #[test]
    fn names_what_is_wrong_and_where() {
        let there = "targets: [{endpoints: ['10.1.0.1:1']}]";
        for (text, why) in [
            ("consul: {service: ''}".to_owned(), "services[0].consul.service: is empty"),
            ("consul: {service: 'a/b'}".to_owned(), "services[0].consul.service: `a/b` is not a name"),
            (format!("{OWN}, consul: {{service: a}}"), "services[0]: has both `endpoints` and `consul`"),
            (format!("{OWN}, failover: {{}}"), "failover.targets: names no target"),
            (
                format!("{OWN}, failover: {{targets: [{{datacenter: azure}}]}}"),
                "targets[0]: has neither `endpoints`",
            ),
            ("consul: {service: a}, failover: {targets: [{}]}".to_owned(), "targets[0]: says nothing"),
            (
                "consul: {service: a}, failover: {targets: [{service: b}, {service: b}]}".to_owned(),
                "targets[1]: target is listed twice",
            ),
            (
                format!("{OWN}, failover: {{targets: [{{service: b, endpoints: ['10.1.0.1:1']}}]}}"),
                "targets[0].service: is Consul's word",
            ),
            (
                format!("{OWN}, failover: {{targets: [{{{OWN}}}]}}"),
                "targets[0].endpoints[0]: endpoint is listed twice",
            ),
            (
                format!("dns: {{host: a.example, port: 1}}, failover: {{{there}}}"),
                "failover: a `dns` service cannot have it",
            ),
            (
                format!(
                    "{OWN}, datacenter: aws, datacenters: [aws], failover: {{targets: [{{datacenter: azure, service: b}}]}}"
                ),
                "targets[0].datacenter: `azure` is not among `datacenters`: aws",
            ),
            (
                format!("{OWN}, datacenter: aws, datacenters: [aws], failover: {{{there}}}"),
                "targets[0].datacenter: is missing",
            ),
            (format!("{OWN}, datacenters: [aws]"), "services[0].datacenter: is missing"),
            ("consul: {service: a}, datacenter: eu, datacenters: [aws]".to_owned(), "`eu` is not among"),
            (format!("{OWN}, failover: {{{there}, spill_below: 101}}"), "spill_below: must be a percentage"),
            (
                format!("{OWN}, failover: {{{there}}}, health_check: {{healthy_threshold: 2}}"),
                "failover.fail_back: `fail_back.after` says",
            ),
            (
                format!("{OWN}, failover: {{{there}, order: random}}"),
                "`random` is none of `listed`, `lowest_latency`",
            ),
        ] {
            let problems = parse(&service(&text)).expect_err(&text);
            let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(text.contains(why) && text.starts_with("line 2"), "{why} not in {text}");
        }
        let many: Vec<_> = (1..=17).map(|n| format!("{{service: b{n}}}")).collect();
        let text = service(&format!("consul: {{service: a}}, failover: {{targets: [{}]}}", many.join(", ")));
        assert!(parse(&text).unwrap_err()[0].to_string().contains("more than 16"));
    }

    #[test]
    fn places_need_a_strategy_that_counts_no_fixed_list() {
        for (place, strategy, ok) in [
            ("consul: {service: a}", "maglev", true),
            ("consul: {service: a}", "realm_based", false),
            ("endpoints: ['10.0.0.1:1'], failover: {targets: [{service: b}]}", "ring_hash", true),
            ("endpoints: ['10.0.0.1:1'], failover: {targets: [{service: b}]}", "consistent_hash", false),
        ] {
            let text = format!(
                "{}routes: [{{name: r, server_type: 1, strategy: {strategy}, to: [{{service: a}}]}}]",
                service(place)
            );
            match parse(&text) {
                Ok(_) => assert!(ok, "{text}"),
                Err(problems) => {
                    assert!(!ok && problems[0].to_string().contains("count a fixed list"), "{problems:?}");
                }
            }
        }
    }
}
