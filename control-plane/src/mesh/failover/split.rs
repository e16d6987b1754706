//! How a `service-splitter` shares a service's players between subsets and other services.

use std::collections::BTreeMap;

use super::super::catalog::{Catalog, ServiceSubset};
use crate::model::Service;

/// One share of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// In proportion to those of the others.
    pub weight: u32,
    /// Who gets it.
    pub to: ServiceSubset,
}

/// Splitters that lead to splitters are followed so far; Consul refuses to store a circle.
const DEEPEST: usize = 4;

/// The shares of a service; none = it is not split. Who names a subset has chosen already.
#[must_use]
pub fn legs(service: &Service, catalog: &Catalog) -> Vec<Leg> {
    let Some(consul) = service.consul.as_ref().filter(|consul| consul.subset.is_empty()) else {
        return Vec::new();
    };
    let is_split = |name: &str| catalog.entries.get(name).is_some_and(|entries| !entries.splitter.is_empty());
    if !is_split(&consul.service) {
        return Vec::new();
    }
    // What is to be split yet, and what is not: by name, so that no splitter is followed twice at a time, and there are never
    // more shares than all splitters together have legs.
    let mut open = BTreeMap::from([(consul.service.clone(), 1.0)]);
    let mut shares: BTreeMap<ServiceSubset, f64> = BTreeMap::new();
    for _ in 0..DEEPEST {
        for (service, share) in std::mem::take(&mut open) {
            for (part, to) in split(&service, catalog) {
                let share = share * part;
                // A leg to its own service is what remains of it; only another one may have a splitter of its own.
                if to.service != service && to.subset.is_empty() && is_split(&to.service) {
                    *open.entry(to.service).or_default() += share;
                } else {
                    *shares.entry(to).or_default() += share;
                }
            }
        }
    }
    for (service, share) in open {
        *shares.entry(ServiceSubset { service, subset: String::new() }).or_default() += share;
    }
    let legs = shares.into_iter().map(|(to, share)| Leg { weight: weight(share), to });
    legs.filter(|leg| leg.weight > 0).collect()
}

/// The whole of a split, so that hundredths of a percent of hundredths of a percent are still a number.
const WHOLE: f64 = 1_000_000.0;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares lie between 0 and 1")]
fn weight(share: f64) -> u32 {
    (share * WHOLE).round() as u32
}

/// The legs of a service's splitter, each with its part of the whole.
fn split<'a>(service: &'a str, catalog: &'a Catalog) -> impl Iterator<Item = (f64, ServiceSubset)> + 'a {
    let splitter = catalog.entries.get(service).map_or(&[][..], |entries| &entries.splitter);
    let whole: u32 = splitter.iter().map(|(weight, _)| weight).sum();
    splitter.iter().map(move |(weight, leg)| {
        let to = if leg.service.is_empty() { service } else { &leg.service };
        let to = ServiceSubset { service: to.to_owned(), subset: leg.subset.clone() };
        (f64::from(*weight) / f64::from(whole.max(1)), to)
    })
}

/// The largest weight that comes out: as large as a policy may say one.
const LARGEST: u64 = 1_000_000;

/// The weights of a route's services in order, of a split one those of its legs: each leg has its share of the
/// service's share.
pub fn weights<'a>(services: impl Iterator<Item = (u32, &'a [Leg])>) -> std::vec::IntoIter<u32> {
    let services: Vec<_> = services.collect();
    if services.iter().all(|(_, legs)| legs.is_empty()) {
        return services.into_iter().map(|(weight, _)| weight).collect::<Vec<_>>().into_iter();
    }
    let mut exact = Vec::new();
    for (weight, legs) in services {
        let weight = u64::from(weight);
        // What the legs have in all is the service's whole.
        let whole: u64 = legs.iter().map(|leg| u64::from(leg.weight)).sum::<u64>().max(1);
        let per = |leg: &Leg| weight * u64::from(leg.weight) * LARGEST / whole;
        if legs.is_empty() {
            exact.push(weight * LARGEST);
        }
        exact.extend(legs.iter().map(per));
    }
    let largest = exact.iter().copied().max().unwrap_or(1).max(1);
    let scaled = |weight: u64| {
        let weight = u128::from(weight) * u128::from(LARGEST) / u128::from(largest);
        u32::try_from(weight).unwrap_or(u32::MAX).max(1)
    };
    exact.into_iter().map(scaled).collect::<Vec<_>>().into_iter()
}
