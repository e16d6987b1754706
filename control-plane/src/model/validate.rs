//! What a policy must say to make sense, beyond the form of its fields.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::intention::check_intentions;
use super::overlap::overlaps;
use super::resilience::{percent, positive};
use super::{Dns, Effort, Listener, Policy, Problem, Route, Service, Stopped, Strategy, Worlds};

/// The listener and the clusters of the old gateway's rules.
pub const GAME_GATEWAY: &str = "game-gateway";

/// Problems that are told; whoever has so many mends these first.
pub(super) const MOST_PROBLEMS: usize = 1000;

/// Every problem of `policy`, up to [`MOST_PROBLEMS`]; none = it can be served.
pub(super) fn validate(policy: &Policy, effort: &Effort<'_>) -> Result<Vec<Problem>, Stopped> {
    let mut problems = Vec::new();
    let found = &mut problems;
    names("listeners", policy.listeners.iter().map(|l| l.name.as_str()), found);
    names("services", policy.services.iter().map(|s| s.name.as_str()), found);
    names("routes", policy.routes.iter().map(|r| r.name.as_str()), found);
    unique(policy.listeners.iter().map(|l| l.bind), found, |i| {
        (format!("listeners[{i}].bind"), "address is taken by another listener".to_owned())
    });
    let go_on = |found: &Vec<Problem>| effort.step().map(|()| found.len() < MOST_PROBLEMS);
    for (i, listener) in policy.listeners.iter().enumerate() {
        check_listener(&format!("listeners[{i}]"), listener, found);
        if !go_on(found)? {
            break;
        }
    }
    for (i, service) in policy.services.iter().enumerate() {
        check_service(&format!("services[{i}]"), service, found);
        if !go_on(found)? {
            break;
        }
    }
    let known = Known::of(policy);
    for (i, route) in policy.routes.iter().enumerate() {
        check_route(&format!("routes[{i}]"), route, &known, found);
        if !go_on(found)? {
            break;
        }
    }
    overlaps(&policy.routes, found, effort)?;
    check_intentions(&policy.intentions, found);
    policy.sidecars.validate(&policy.listeners, found);
    policy.privacy.check(found);
    if found.len() > MOST_PROBLEMS {
        found.truncate(MOST_PROBLEMS);
        found.push(Problem::at(
            "",
            format!("there are more problems than these {MOST_PROBLEMS}; mend them first"),
        ));
    }
    Ok(problems)
}

/// What routes can name.
struct Known<'a> {
    services: HashMap<&'a str, &'a Service>,
    listeners: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    fn of(policy: &'a Policy) -> Self {
        let services = policy.services.iter().map(|service| (service.name.as_str(), service)).collect();
        let listeners = policy.listeners.iter().map(|listener| listener.name.as_str());
        Self { services, listeners: listeners.chain([GAME_GATEWAY]).collect() }
    }
}

fn check_listener(at: &str, listener: &Listener, found: &mut Vec<Problem>) {
    if listener.bind.port() == 0 {
        found.push(Problem::at(format!("{at}.bind"), "port 0 is no port that players can know"));
    }
    if !(1..=10).contains(&listener.connect_attempts) {
        found.push(Problem::at(format!("{at}.connect_attempts"), "must be from 1 to 10"));
    }
    if !listener.trusted_proxies.is_empty() && !listener.proxy_protocol {
        let why = "needs `proxy_protocol: true`: without it nobody speaks for others";
        found.push(Problem::at(format!("{at}.trusted_proxies"), why));
    }
    if let Some(tls) = &listener.tls {
        tls.validate(&format!("{at}.tls"), found);
    }
    let backoff = &listener.connect_backoff;
    positive(&format!("{at}.connect_backoff.base"), backoff.base, found);
    if backoff.max < backoff.base {
        let why = format!("is shorter than base, {}", backoff.base);
        found.push(Problem::at(format!("{at}.connect_backoff.max"), why));
    }
}

fn check_service(at: &str, service: &Service, found: &mut Vec<Problem>) {
    let kinds = [
        ("`endpoints`", !service.endpoints.is_empty()),
        ("`dns`", service.dns.is_some()),
        ("`consul`", service.consul.is_some()),
    ];
    let given: Vec<_> = kinds.iter().filter(|(_, given)| *given).map(|(kind, _)| *kind).collect();
    match given.as_slice() {
        [] => found.push(Problem::at(at, "has neither `endpoints` nor `dns` nor `consul`; one is wanted")),
        [_] => {}
        several => {
            found.push(Problem::at(at, format!("has both {}; one is wanted", several.join(" and "))));
        }
    }
    unique(service.endpoints.iter(), found, |i| {
        (format!("{at}.endpoints[{i}]"), "endpoint is listed twice".to_owned())
    });
    if let Some(dns) = &service.dns {
        check_dns(at, dns, found);
    }
    service.validate_places(at, found);
    service.connections.validate(&format!("{at}.connections"), found);
    service.outlier_detection.validate(&format!("{at}.outlier_detection"), found);
    if let Some(check) = &service.health_check {
        check.validate(&format!("{at}.health_check"), found);
    }
    percent(&format!("{at}.panic_threshold"), 0, service.panic_threshold(), found);
}

fn check_dns(at: &str, dns: &Dns, found: &mut Vec<Problem>) {
    let example = dns.host_of(1);
    if let Err(why) = format!("{example}:{}", dns.port).parse::<super::Endpoint>() {
        found.push(Problem::at(format!("{at}.dns"), why));
    }
    if dns.refresh.as_millis() < 100 {
        found.push(Problem::at(format!("{at}.dns.refresh"), "must be at least 100ms"));
    }
}

fn check_route(at: &str, route: &Route, known: &Known<'_>, found: &mut Vec<Problem>) {
    if route.to.is_empty() {
        found.push(Problem::at(format!("{at}.to"), "names no service"));
    }
    unique(route.to.iter().map(|t| &t.service), found, |i| {
        (format!("{at}.to[{i}].service"), "service is named twice".to_owned())
    });
    for (i, target) in route.to.iter().enumerate() {
        if !(1..=1_000_000).contains(&target.weight) {
            found.push(Problem::at(format!("{at}.to[{i}].weight"), "must be from 1 to 1000000"));
        }
        let place = format!("{at}.to[{i}].service");
        match known.services.get(target.service.as_str()) {
            None => found.push(Problem::at(place, format!("there is no service `{}`", target.service))),
            Some(service) => check_fit(&place, route, service, found),
        }
    }
    for (i, name) in route.listeners.iter().enumerate() {
        if !known.listeners.contains(name.as_str()) {
            found.push(Problem::at(format!("{at}.listeners[{i}]"), format!("there is no listener `{name}`")));
        }
    }
}

/// Whether the route's strategy and worlds can work with the service's kind of endpoints.
fn check_fit(at: &str, route: &Route, service: &Service, found: &mut Vec<Problem>) {
    let compatible = matches!(route.strategy, Strategy::ConsistentHash | Strategy::RealmBased);
    if compatible && (service.dns.is_some() || service.failover().is_some()) {
        let why = "`consistent_hash` and `realm_based` count a fixed list of endpoints, which a service with `dns`, \
                   `consul` or `failover` does not have; use `ring_hash` or `maglev`";
        found.push(Problem::at(at, why));
    }
    if service.dns.as_ref().is_some_and(Dns::is_per_world) && route.worlds == Worlds::Any {
        let why =
            "the service's `{world}` needs a route that lists its worlds; any world would be 32,767 clusters";
        found.push(Problem::at(at, why));
    }
}

fn names<'a>(list: &str, names: impl Iterator<Item = &'a str> + Clone, found: &mut Vec<Problem>) {
    for (i, name) in names.clone().enumerate() {
        let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.is_empty() || name.len() > 63 || !letters {
            let why = format!("`{name}` is not 1 to 63 letters, digits, `-` or `_`");
            found.push(Problem::at(format!("{list}[{i}].name"), why));
        } else if list != "routes" && (name == GAME_GATEWAY || name.starts_with("realmgate")) {
            found.push(Problem::at(format!("{list}[{i}].name"), format!("`{name}` is reserved")));
        }
    }
    unique(names, found, |i| (format!("{list}[{i}].name"), "name is used twice".to_owned()));
}

/// Reports every value that stood before, both places named, as long as there is room.
pub(super) fn unique<T: Eq + Hash>(
    values: impl Iterator<Item = T>,
    found: &mut Vec<Problem>,
    describe: impl Fn(usize) -> (String, String),
) {
    let mut first = HashMap::new();
    for (i, value) in values.enumerate() {
        if found.len() > MOST_PROBLEMS {
            return;
        }
        if let Some(&before) = first.get(&value) {
            let (path, message) = describe(i);
            found.push(Problem::at(path, message).against(describe(before).0));
        } else {
            first.insert(value, i);
        }
    }
}
