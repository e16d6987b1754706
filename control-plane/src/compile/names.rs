//! How clusters are called. The filter makes the same names from its templates, so all of them are here.
//!
//! | what | name |
//! |---|---|
//! | a policy service | `<service>`, with another strategy than round robin `<service>/<strategy>` |
//! | a leg of a service that Consul splits | `<the above>/split/<service in Consul>[/<subset>]` |
//! | one world of a `{world}` service | `<the above>/world/<world>` |
//! | a rule of the old gateway | `game-gateway/<service>/<server type>/<world or any>` |
//! | one endpoint of the compatible hashes | `<any of the above>/pick/<index>` |
//!
//! No dots: Envoy's statistics take a name up to its first dot. Braces would be templates.

use std::fmt::Write;

use crate::mesh::failover::Leg;
use crate::model::{Dns, GAME_GATEWAY, Service, Strategy};
use crate::source::gateway_rules::{GatewayRule, RuleOrigin};

/// The cluster of a policy service under a strategy; a template in `{world}` for a service per world.
pub(super) fn policy_cluster(service: &Service, strategy: Strategy) -> String {
    let mut name = service.name.clone();
    name.push_str(match strategy {
        // What the compatible hashes do not decide goes round robin.
        Strategy::RoundRobin | Strategy::ConsistentHash | Strategy::RealmBased => "",
        Strategy::LeastRequest => "/least_request",
        Strategy::RingHash => "/ring_hash",
        Strategy::Maglev => "/maglev",
    });
    if service.dns.as_ref().is_some_and(Dns::is_per_world) {
        name.push_str("/world/{world}");
    }
    name
}

/// The cluster of one leg of a service's split; `None` = it has none.
pub(super) fn leg_cluster(service: &Service, strategy: Strategy, leg: Option<&Leg>) -> String {
    let mut name = policy_cluster(service, strategy);
    if let Some(leg) = leg {
        name.push_str("/split/");
        name.push_str(&escape(&leg.to.service));
        if !leg.to.subset.is_empty() {
            name.push('/');
            name.push_str(&escape(&leg.to.subset));
        }
    }
    name
}

/// The cluster of an old gateway's rule; `world` is the number or its placeholder.
pub(super) fn rule_cluster(rule: &GatewayRule, world: &str) -> String {
    let world = if rule.world.is_some() { world } else { "any" };
    match rule.origin {
        RuleOrigin::Rules => {
            format!("{GAME_GATEWAY}/{}/{}/{world}", escape(&rule.service), rule.server_type)
        }
        RuleOrigin::RealmMapping => format!("{GAME_GATEWAY}/realm/{world}"),
    }
}

/// What the access log calls the route of an old gateway's rule; the same for all worlds of a service.
pub(super) fn rule_route(rule: &GatewayRule) -> String {
    match rule.origin {
        RuleOrigin::Rules => format!("{GAME_GATEWAY}/{}", escape(&rule.service)),
        RuleOrigin::RealmMapping => format!("{GAME_GATEWAY}/realm"),
    }
}

/// The cluster of one endpoint of `cluster`; `pick` is its index or the placeholder.
pub(super) fn pick_cluster(cluster: &str, pick: &str) -> String {
    format!("{cluster}/pick/{pick}")
}

/// The cluster of one world.
pub(super) fn of_world(template: &str, world: u16) -> String {
    template.replace("{world}", &world.to_string())
}

/// Service names come from Redis or Consul and may be anything: all but letters, digits, `-` and `_` is written `%XX`.
fn escape(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}
