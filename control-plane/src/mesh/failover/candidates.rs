//! Every place that players of a service might go to, as policy and Consul's entries name them, before anybody is
//! asked who is there.

use std::collections::BTreeSet;

use super::super::catalog::{Catalog, FailoverTarget, Lookup, Resolver, ServiceSubset};
use super::{Leg, legs};
use crate::model::{self as policy, Consul, Endpoint, Policy, Service, ServiceTls};

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) datacenter: String,
    pub(super) place: Place,
    pub(super) why: String,
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Fixed(Vec<Endpoint>),
    Consul { lookup: Lookup, subset: String, only_passing: bool },
}

/// What is asked for before redirects.
struct Asked<'a> {
    datacenter: &'a str,
    service: &'a str,
    subset: &'a str,
    filter: &'a str,
    /// Whether its sidecars are asked for.
    sidecars: bool,
}

/// Redirects lead on for so long at most; a circle ends here. Consul refuses to store one.
const MOST_REDIRECTS: usize = 8;

/// Everything that Consul has to be asked for. An edge's datacenter counts where the policy names it; the control plane's
/// always.
#[must_use]
pub fn wanted(policy: &Policy, catalog: &Catalog) -> BTreeSet<Lookup> {
    let mut homes: BTreeSet<&str> = policy.services.iter().flat_map(named).collect();
    homes.insert(&catalog.local);
    let of_consul = policy.services.iter().filter(|service| asks_consul(service));
    let mut wanted = BTreeSet::new();
    for service in of_consul {
        let legs = legs(service, catalog);
        let legs = legs.iter().map(Some).chain(legs.is_empty().then_some(None));
        for leg in legs {
            for home in &homes {
                wanted.extend(lookups(service, leg, home, catalog));
            }
        }
    }
    wanted
}

fn named(service: &Service) -> impl Iterator<Item = &str> {
    let targets = service.failover.iter().flat_map(|failover| &failover.targets);
    let names =
        targets.map(|target| &target.datacenter).chain([&service.datacenter]).chain(&service.datacenters);
    names.map(String::as_str).filter(|name| !name.is_empty())
}

fn asks_consul(service: &Service) -> bool {
    let by_name = service.failover.iter().flat_map(|f| &f.targets).any(|target| target.endpoints.is_empty());
    service.consul.is_some() || by_name
}

/// What is asked for an edge at `home`.
pub(super) fn lookups(service: &Service, leg: Option<&Leg>, home: &str, catalog: &Catalog) -> Vec<Lookup> {
    let (candidates, _) = candidates(service, leg, home, catalog);
    let lookups = candidates.into_iter().filter_map(|candidate| match candidate.place {
        Place::Fixed(_) => None,
        Place::Consul { lookup, .. } => Some(lookup),
    });
    lookups.collect()
}

/// The places for an edge at `home` in the order in which they are written, without those that residency forbids, and
/// words about these.
pub(super) fn candidates(
    service: &Service,
    leg: Option<&Leg>,
    home: &str,
    catalog: &Catalog,
) -> (Vec<Candidate>, Vec<String>) {
    let own = service.consul.as_ref().map(|consul| own(service, consul, leg, home));
    let mut found = vec![match &own {
        Some(own) => resolve(own, catalog, "the service itself"),
        None => Ok(fixed(&service.datacenter, &service.endpoints, "the service itself")),
    }];
    let targets = service.failover.as_ref().map(|failover| failover.targets.as_slice()).unwrap_or_default();
    for target in targets {
        let why = "a target of the policy";
        found.push(if target.endpoints.is_empty() {
            resolve(&asked_of(service, target, own.as_ref(), home), catalog, why)
        } else {
            Ok(fixed(&target.datacenter, &target.endpoints, why))
        });
    }
    if let Some(own) = own.filter(|_| targets.is_empty()) {
        found.extend(of_resolver(&own, catalog));
    }
    let (mut allowed, mut refused) = (Vec::<Candidate>::new(), Vec::new());
    for candidate in found {
        match candidate {
            Err(why) => refused.push(why),
            Ok(Candidate { datacenter, why, .. }) if !service.may_be_in(&datacenter) => {
                let shown = if datacenter.is_empty() { "an unknown datacenter" } else { &datacenter };
                refused.push(format!("{shown} ({why}): not among the service's `datacenters`"));
            }
            Ok(candidate) if allowed.iter().any(|before| before.place.is_same(&candidate.place)) => {}
            Ok(candidate) => allowed.push(candidate),
        }
    }
    (allowed, refused)
}

impl Place {
    /// Whether the same instances are there.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Consul { lookup: one, .. }, Self::Consul { lookup: two, .. }) => one == two,
            (one, two) => one == two,
        }
    }
}

fn fixed(datacenter: &str, endpoints: &[Endpoint], why: &str) -> Candidate {
    let place = Place::Fixed(endpoints.to_vec());
    Candidate { datacenter: datacenter.to_owned(), place, why: why.to_owned() }
}

/// The service itself; a leg of its split names what it wants.
fn own<'a>(service: &'a Service, consul: &'a Consul, leg: Option<&'a Leg>, home: &'a str) -> Asked<'a> {
    let (name, subset) =
        leg.map_or((&consul.service, &consul.subset), |leg| (&leg.to.service, &leg.to.subset));
    let datacenter = if service.datacenter.is_empty() { home } else { &service.datacenter };
    let sidecars = service.tls == ServiceTls::Mesh;
    Asked { datacenter, service: name, subset, filter: &consul.filter, sidecars }
}

/// A target of the policy; what it does not say is as in the service itself.
fn asked_of<'a>(
    service: &Service,
    target: &'a policy::FailoverTarget,
    own: Option<&Asked<'a>>,
    home: &'a str,
) -> Asked<'a> {
    let datacenter = if target.datacenter.is_empty() { home } else { &target.datacenter };
    let same = own.filter(|own| target.service.is_empty() || target.service == own.service);
    let subset = match same {
        Some(own) if target.subset.is_empty() => own.subset,
        _ => &target.subset,
    };
    // The filter is about the service's own instances; what others look like it cannot know.
    Asked {
        datacenter,
        service: same.map_or(target.service.as_str(), |own| own.service),
        subset,
        filter: same.map_or("", |own| own.filter),
        sidecars: service.tls == ServiceTls::Mesh,
    }
}

/// Where redirects lead to.
struct Followed<'a> {
    datacenter: &'a str,
    service: &'a str,
    subset: &'a str,
    /// Words about the way.
    way: String,
}

fn follow<'a>(asked: &Asked<'a>, catalog: &'a Catalog) -> Followed<'a> {
    let &Asked { mut datacenter, mut service, mut subset, .. } = asked;
    let mut way = String::new();
    for _ in 0..MOST_REDIRECTS {
        let Some(redirect) = resolver(catalog, service).and_then(|r| r.redirect.as_ref()) else { break };
        let (from, to) = (service, &redirect.to);
        way.push_str(", redirected by the service-resolver of ");
        way.push_str(service);
        if !to.service.is_empty() {
            service = &to.service;
            subset = &to.subset;
        } else if !to.subset.is_empty() {
            subset = &to.subset;
        }
        if !redirect.datacenter.is_empty() {
            datacenter = &redirect.datacenter;
        }
        if service == from {
            break;
        }
    }
    let unless_named = resolver(catalog, service).map(|resolver| resolver.default_subset.as_str());
    if subset.is_empty() {
        subset = unless_named.unwrap_or_default();
    }
    Followed { datacenter, service, subset, way }
}

/// Follows redirects and puts the subset's filter to the asked one. A subset that nobody defines is refused: all instances
/// would be the wrong ones.
fn resolve(asked: &Asked<'_>, catalog: &Catalog, why: &str) -> Result<Candidate, String> {
    let Followed { datacenter, service, subset, way } = follow(asked, catalog);
    let why = format!("{why}{way}");
    let defined = resolver(catalog, service).and_then(|resolver| resolver.subsets.get(subset));
    if defined.is_none() && !subset.is_empty() {
        return Err(format!(
            "{service} in {datacenter} ({why}): no service-resolver defines its subset `{subset}`"
        ));
    }
    let of_subset = defined.map(|subset| subset.filter.as_str()).unwrap_or_default();
    let only_passing = defined.is_some_and(|subset| subset.only_passing);
    let filter = match (asked.filter, of_subset) {
        ("", one) | (one, "") => one.to_owned(),
        (one, two) => format!("({one}) and ({two})"),
    };
    let lookup = Lookup {
        datacenter: datacenter.to_owned(),
        service: service.to_owned(),
        sidecars: asked.sidecars,
        filter,
    };
    let subset = subset.to_owned();
    let place = Place::Consul { lookup, subset, only_passing };
    Ok(Candidate { datacenter: datacenter.to_owned(), place, why })
}

fn resolver<'a>(catalog: &'a Catalog, service: &str) -> Option<&'a Resolver> {
    catalog.entries.get(service)?.resolver.as_ref()
}

/// Where the `service-resolver` of the service itself sends players whose first choice fails.
fn of_resolver(own: &Asked<'_>, catalog: &Catalog) -> Vec<Result<Candidate, String>> {
    let Followed { datacenter, service, subset, .. } = follow(own, catalog);
    let Some(resolver) = resolver(catalog, service) else { return Vec::new() };
    let Some(targets) = resolver.failover.get(subset).or_else(|| resolver.failover.get("*")) else {
        return Vec::new();
    };
    let target = |target: &FailoverTarget| {
        let ServiceSubset { service: to, subset: to_subset } = &target.to;
        let other = !to.is_empty() && to != service;
        let asked = Asked {
            datacenter: if target.datacenter.is_empty() { datacenter } else { &target.datacenter },
            service: if other { to } else { service },
            subset: if other || !to_subset.is_empty() { to_subset } else { subset },
            filter: if other { "" } else { own.filter },
            sidecars: own.sidecars,
        };
        resolve(&asked, catalog, &format!("a failover target of the service-resolver of {service}"))
    };
    targets.iter().map(target).collect()
}
