//! The endpoints of a policy held against what may be one.

use std::collections::{HashMap, HashSet};

use super::document::Document;
use super::endpoint_policy::{EndpointPolicy, EndpointSource, OwnListener, RefusedAddress, RefusedReason};
use super::parse::located;
use super::{Effort, Endpoint, GAME_GATEWAY, Listener, Policy, Problem, Service};

/// An endpoint of a policy that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedInPolicy {
    /// Name of its service.
    pub service: String,
    /// The field, from the service on: `endpoints[1]`.
    pub field: String,
    /// The endpoint as it is written.
    pub endpoint: String,
    /// Why.
    pub why: RefusedAddress,
}

/// What a policy that is written now has in it that may be no endpoint, each with its line. Documents that are in force already
/// are held against the same, but serve with what is left of them.
#[must_use]
pub fn endpoint_problems(text: &str, policy: &Policy, rules: &EndpointPolicy) -> Vec<Problem> {
    let checks = Checks::new(policy, rules);
    let mut problems = Vec::new();
    for (i, service) in policy.services.iter().enumerate() {
        // Most are: a large policy is not copied for it.
        if checks.is_good(service) {
            continue;
        }
        let (_, refused) = checks.without_refused(service);
        let problem = |refused: RefusedInPolicy| {
            Problem::at(format!("services[{i}].{}", refused.field), refused.why.to_string())
        };
        problems.extend(refused.into_iter().map(problem));
    }
    if problems.is_empty() {
        return problems;
    }
    match Document::load(text, &Effort::endless()) {
        Ok(document) => located(&document, problems),
        Err(_) => problems,
    }
}

/// The policy without endpoints that are none, and those; `None` = all are good.
#[must_use]
pub fn without_refused(policy: &Policy, rules: &EndpointPolicy) -> Option<(Policy, Vec<RefusedInPolicy>)> {
    let checks = Checks::new(policy, rules);
    if policy.services.iter().all(|service| checks.is_good(service)) {
        return None;
    }
    let mut all = Vec::new();
    let services = policy.services.iter().map(|service| {
        let (service, refused) = checks.without_refused(service);
        all.extend(refused);
        service
    });
    let policy = Policy { services: services.collect(), ..policy.clone() };
    Some((policy, all))
}

/// The listeners of a policy and of the old gateway's rules, as places to which nobody is led back.
#[must_use]
pub fn listeners(policy: &Policy, rules: &EndpointPolicy) -> Vec<OwnListener> {
    let of_policy = policy.listeners.iter().map(player_listener);
    of_policy.chain(rules.gateway.map(|at| led_back(GAME_GATEWAY, at))).collect()
}

/// Those of them whose players are led to services that Consul knows. Others may be edges behind edges, which Consul may know.
#[must_use]
pub fn listeners_of_consul(policy: &Policy, rules: &EndpointPolicy) -> Vec<OwnListener> {
    let checks = Checks::new(policy, rules);
    let asks = |service: &&Service| {
        let targets = service.failover.iter().flat_map(|failover| &failover.targets);
        service.consul.is_some() || targets.into_iter().any(|target| target.endpoints.is_empty())
    };
    let services = policy.services.iter().filter(asks);
    let mut listeners: Vec<_> = services
        .filter_map(|service| checks.listeners.get(service.name.as_str()))
        .flatten()
        .cloned()
        .collect();
    listeners.sort_by_key(|own| own.at);
    listeners.dedup();
    listeners
}

fn player_listener(listener: &Listener) -> OwnListener {
    led_back(&listener.name, listener.bind)
}

fn led_back(name: &str, at: std::net::SocketAddr) -> OwnListener {
    OwnListener {
        at,
        what: format!("where the listener `{name}` listens, whose players it would lead back there"),
    }
}

struct Checks<'a> {
    rules: &'a EndpointPolicy,
    /// By service, the listeners whose routes lead there.
    listeners: HashMap<&'a str, Vec<OwnListener>>,
}

impl<'a> Checks<'a> {
    fn new(policy: &'a Policy, rules: &'a EndpointPolicy) -> Self {
        let all = listeners(policy, rules);
        let names: Vec<_> =
            policy.listeners.iter().map(|listener| listener.name.as_str()).chain([GAME_GATEWAY]).collect();
        let mut led = HashSet::new();
        let mut listeners: HashMap<_, Vec<_>> = HashMap::new();
        for route in &policy.routes {
            for target in &route.to {
                for (name, own) in names.iter().zip(&all) {
                    let leads = route.listeners.is_empty() || route.listeners.iter().any(|l| l == name);
                    if leads && led.insert((target.service.as_str(), *name)) {
                        listeners.entry(target.service.as_str()).or_default().push(own.clone());
                    }
                }
            }
        }
        Self { rules, listeners }
    }

    fn check(&self, service: &Service, endpoint: &Endpoint) -> Result<(), RefusedAddress> {
        let listeners = self.listeners.get(service.name.as_str()).map_or(&[][..], Vec::as_slice);
        self.rules.check(EndpointSource::Policy, endpoint, listeners)
    }

    fn check_dns(&self, service: &Service) -> Result<(), RefusedAddress> {
        let Some(dns) = &service.dns else { return Ok(()) };
        let host = dns.host_of(1);
        match format!("{host}:{}", dns.port).parse::<Endpoint>() {
            Ok(endpoint) if dns.is_per_world() && endpoint.ip().is_some() => Err(RefusedAddress::new(
                RefusedReason::Denied,
                format!(
                    "`{}` would be another address for each world; write a name with `{{world}}` in it",
                    dns.host
                ),
            )),
            Ok(endpoint) => self.check(service, &endpoint),
            // Other checks have their word on that.
            Err(_) => Ok(()),
        }
    }

    fn is_good(&self, service: &Service) -> bool {
        let targets = service.failover.iter().flat_map(|failover| &failover.targets);
        let mut endpoints = service.endpoints.iter().chain(targets.flat_map(|target| &target.endpoints));
        endpoints.all(|endpoint| self.check(service, endpoint).is_ok()) && self.check_dns(service).is_ok()
    }

    /// The service without what is refused.
    fn without_refused(&self, service: &Service) -> (Service, Vec<RefusedInPolicy>) {
        let mut refused = Vec::new();
        let mut keep = |field: &str, endpoints: &[Endpoint]| {
            let kept = endpoints.iter().enumerate().filter(|(i, endpoint)| {
                let why = self.check(service, endpoint).err();
                let good = why.is_none();
                refused.extend(why.map(|why| RefusedInPolicy {
                    service: service.name.clone(),
                    field: format!("{field}[{i}]"),
                    endpoint: endpoint.to_string(),
                    why,
                }));
                good
            });
            kept.map(|(_, endpoint)| endpoint.clone()).collect::<Vec<_>>()
        };
        let mut left = service.clone();
        left.endpoints = keep("endpoints", &service.endpoints);
        if let Some(failover) = &mut left.failover {
            let targets = std::mem::take(&mut failover.targets);
            for (i, mut target) in targets.into_iter().enumerate() {
                let is_fixed = !target.endpoints.is_empty();
                target.endpoints = keep(&format!("failover.targets[{i}].endpoints"), &target.endpoints);
                // Without endpoints it would be a service in Consul.
                if !is_fixed || !target.endpoints.is_empty() {
                    failover.targets.push(target);
                }
            }
        }
        if let (Some(dns), Err(why)) = (&service.dns, self.check_dns(service)) {
            left.dns = None;
            let endpoint = format!("{}:{}", dns.host, dns.port);
            refused.push(RefusedInPolicy {
                service: service.name.clone(),
                field: "dns".to_owned(),
                endpoint,
                why,
            });
        }
        (left, refused)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const POLICY: &str = r#"
listeners:
  - {name: outer, bind: 0.0.0.0:7000}
  - {name: inner, bind: 10.0.0.9:7001}
services:
  - {name: good, endpoints: ["10.0.0.1:1", "127.0.0.1:2"]}
  - name: mixed
    endpoints: ["10.0.0.1:1", "169.254.169.254:80"]
    failover: {targets: [{endpoints: ["0.0.0.0:1"]}, {endpoints: ["10.0.0.2:1", "255.255.255.255:1"]}]}
  - {name: looped, endpoints: ["127.0.0.1:7000", "10.0.0.9:7001"]}
  - {name: tier, endpoints: ["10.0.0.9:7001"]}
  - {name: named, dns: {host: localhost, port: 7000}}
  - {name: worlds, dns: {host: "w{world}.example.com", port: 7000}}
  - {name: counted, dns: {host: "{world}.254.169.254", port: 80}}
routes:
  - {name: a, server_type: 1, to: [{service: looped}, {service: named}, {service: good}, {service: mixed}]}
  - {name: b, server_type: 2, to: [{service: tier}], listeners: [outer]}
  - {name: c, server_type: 3, worlds: [1], to: [{service: worlds}]}
"#;

    #[test]
    fn each_endpoint_that_is_none_is_named_and_the_others_stay() {
        let policy = parse(POLICY).unwrap();
        let rules = EndpointPolicy::default();
        let problems: Vec<_> =
            endpoint_problems(POLICY, &policy, &rules).iter().map(ToString::to_string).collect();
        for (nth, place) in [
            "line 8, services[1].endpoints[1]: `169.254.169.254:80` is a link-local",
            "line 9, services[1].failover.targets[0].endpoints[0]: `0.0.0.0:1`",
            "line 9, services[1].failover.targets[1].endpoints[1]: `255.255.255.255:1`",
            "line 10, services[2].endpoints[0]: `127.0.0.1:7000` is where the listener `outer` listens",
            "line 10, services[2].endpoints[1]: `10.0.0.9:7001` is where the listener `inner` listens",
            "line 12, services[4].dns: `localhost:7000` leads to loopback",
            "line 14, services[6].dns: `{world}.254.169.254` would be another address",
        ]
        .iter()
        .enumerate()
        {
            assert!(problems[nth].starts_with(place), "{problems:#?}");
        }
        assert_eq!(problems.len(), 7, "{problems:#?}");

        let (left, refused) = without_refused(&policy, &rules).unwrap();
        assert_eq!(refused.len(), 7);
        let endpoints =
            |nth: usize| left.services[nth].endpoints.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(endpoints(0), ["10.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(endpoints(1), ["10.0.0.1:1"]);
        let targets = &left.services[1].failover.as_ref().unwrap().targets;
        assert_eq!(targets.iter().map(|target| target.endpoints.len()).collect::<Vec<_>>(), [1]);
        assert!(endpoints(2).is_empty() && left.services[4].dns.is_none());
        assert_eq!(endpoints(3), ["10.0.0.9:7001"], "another edge's listener is no loop");
        assert_eq!(without_refused(&left, &rules), None);
        assert_eq!(endpoint_problems("", &left, &rules), []);
    }
}
