//! The endpoints of a policy held against what may be one.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use realmgate_wire::ServerId;

use super::document::Document;
use super::endpoint_policy::{EndpointPolicy, EndpointSource, OwnListener, RefusedAddress};
use super::parse::located;
use super::validate::MOST_PROBLEMS;
use super::{Effort, Endpoint, GAME_GATEWAY, OwnListeners, Policy, Problem, Route, Service};

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
    let of_routes = Checks::of_routes(policy);
    let checks = Checks::new(policy, rules, &of_routes);
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
    problems.truncate(MOST_PROBLEMS);
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
    let of_routes = Checks::of_routes(policy);
    let checks = Checks::new(policy, rules, &of_routes);
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
pub fn listeners(policy: &Policy, rules: &EndpointPolicy) -> OwnListeners {
    named(policy, rules).map(|(name, at)| led_back(name, at)).collect()
}

/// Those of them whose players are led to services that Consul knows. Others may be edges behind edges, which Consul may know.
#[must_use]
pub fn listeners_of_consul(policy: &Policy, rules: &EndpointPolicy) -> OwnListeners {
    let asks = |service: &&Service| {
        let targets = service.failover.iter().flat_map(|failover| &failover.targets);
        service.consul.is_some() || targets.into_iter().any(|target| target.endpoints.is_empty())
    };
    let services: HashSet<_> = policy.services.iter().filter(asks).map(|service| &service.name).collect();
    let leads = |route: &&Route| route.to.iter().any(|target| services.contains(&target.service));
    let routes: Vec<_> = policy.routes.iter().filter(leads).collect();
    let all = routes.iter().any(|route| route.listeners.is_empty());
    let some: HashSet<_> = routes.iter().flat_map(|route| &route.listeners).map(String::as_str).collect();
    let led = named(policy, rules).filter(|(name, _)| all || some.contains(name));
    led.map(|(name, at)| led_back(name, at)).collect()
}

fn named<'a>(
    policy: &'a Policy,
    rules: &EndpointPolicy,
) -> impl Iterator<Item = (&'a str, SocketAddr)> + use<'a> {
    let of_policy = policy.listeners.iter().map(|listener| (listener.name.as_str(), listener.bind));
    of_policy.chain(rules.gateway.map(|at| (GAME_GATEWAY, at)))
}

fn led_back(name: &str, at: SocketAddr) -> OwnListener {
    OwnListener {
        at,
        what: format!("where the listener `{name}` listens, whose players it would lead back there"),
    }
}

struct Checks<'a> {
    rules: &'a EndpointPolicy,
    listeners: OwnListeners,
    names: HashMap<SocketAddr, &'a str>,
    /// By service, the routes that lead there.
    routes: HashMap<&'a str, Vec<&'a RouteListeners<'a>>>,
    /// Which listeners those are, of services that have an endpoint where one is.
    led: RefCell<HashMap<String, Leading<'a>>>,
}

/// Which listeners lead to a service.
enum Leading<'a> {
    All,
    These(HashSet<&'a str>),
    /// Those of its routes, route by route: there are few, which name many.
    ByRoute,
}

/// The listeners that a route names; none = all.
type RouteListeners<'a> = HashSet<&'a str>;

impl<'a> Checks<'a> {
    fn new(policy: &'a Policy, rules: &'a EndpointPolicy, of_routes: &'a [RouteListeners<'a>]) -> Self {
        let mut routes: HashMap<&str, Vec<_>> = HashMap::new();
        for (route, listeners) in policy.routes.iter().zip(of_routes) {
            for target in &route.to {
                routes.entry(target.service.as_str()).or_default().push(listeners);
            }
        }
        let names = named(policy, rules).map(|(name, at)| (at, name)).collect();
        let led = RefCell::default();
        Self { rules, listeners: listeners(policy, rules), names, routes, led }
    }

    fn of_routes(policy: &Policy) -> Vec<RouteListeners<'_>> {
        policy.routes.iter().map(|route| route.listeners.iter().map(String::as_str).collect()).collect()
    }

    /// Whether players of this listener are led to this service.
    fn leads(&self, own: &OwnListener, service: &Service) -> bool {
        let Some(name) = self.names.get(&own.at) else { return false };
        let Some(routes) = self.routes.get(service.name.as_str()) else { return false };
        let mut known = self.led.borrow_mut();
        let led = known.entry(service.name.clone()).or_insert_with(|| {
            let targets = service.failover.iter().flat_map(|failover| &failover.targets);
            let endpoints =
                service.endpoints.len() + targets.map(|target| target.endpoints.len()).sum::<usize>();
            if routes.iter().any(|listeners| listeners.is_empty()) {
                Leading::All
            } else if routes.iter().map(|listeners| listeners.len()).sum::<usize>()
                <= routes.len() * endpoints
            {
                Leading::These(routes.iter().flat_map(|listeners| listeners.iter().copied()).collect())
            } else {
                Leading::ByRoute
            }
        });
        match led {
            Leading::All => true,
            Leading::These(listeners) => listeners.contains(name),
            Leading::ByRoute => routes.iter().any(|listeners| listeners.contains(name)),
        }
    }

    fn check(&self, service: &Service, endpoint: &Endpoint) -> Result<(), RefusedAddress> {
        let led = |ip, port| self.listeners.reached(ip, port).find(|own| self.leads(own, service));
        self.rules.check(EndpointSource::Policy, endpoint, &led)
    }

    fn check_dns(&self, service: &Service) -> Result<(), RefusedAddress> {
        let Some(dns) = &service.dns else { return Ok(()) };
        // Other checks have their word on what is no endpoint.
        let at = |world| format!("{}:{}", dns.host_of(world), dns.port).parse::<Endpoint>().ok();
        let check = |endpoint: Endpoint| self.check(service, &endpoint);
        let Some(first) = at(1) else { return Ok(()) };
        let each = first.ip().is_some() || dns.host.to_ascii_lowercase().starts_with("localhost");
        if dns.is_per_world() && each {
            // Each world has an address of its own, or a name that means one.
            return (1..=ServerId::MAX_WORLD).filter_map(at).try_for_each(check);
        }
        check(first)
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
            "line 14, services[6].dns: `169.254.169.254:80` is a link-local",
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
