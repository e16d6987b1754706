//! How a `service-splitter` shares a service's players between subsets and other services.

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
    let mut shares = vec![(1.0, ServiceSubset { service: consul.service.clone(), subset: String::new() })];
    for _ in 0..DEEPEST {
        shares = shares.into_iter().flat_map(|(share, to)| split(share, to, catalog)).collect();
    }
    let mut legs: Vec<Leg> = Vec::new();
    for (share, to) in shares {
        let weight = weight(share);
        match legs.iter_mut().find(|leg| leg.to == to) {
            Some(leg) => leg.weight = leg.weight.saturating_add(weight),
            None => legs.push(Leg { weight, to }),
        }
    }
    legs.retain(|leg| leg.weight > 0);
    legs
}

/// The whole of a split, so that hundredths of a percent of hundredths of a percent are still a number.
const WHOLE: f64 = 1_000_000.0;

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares lie between 0 and 1")]
fn weight(share: f64) -> u32 {
    (share * WHOLE).round() as u32
}

fn split(share: f64, to: ServiceSubset, catalog: &Catalog) -> Vec<(f64, ServiceSubset)> {
    let splitter = catalog.entries.get(&to.service).map(|entries| entries.splitter.as_slice());
    let splitter = splitter.filter(|legs| !legs.is_empty() && to.subset.is_empty()).unwrap_or_default();
    let whole: u32 = splitter.iter().map(|(weight, _)| weight).sum();
    if whole == 0 {
        return vec![(share, to)];
    }
    let leg = |(weight, leg): &(u32, ServiceSubset)| {
        let service = if leg.service.is_empty() { &to.service } else { &leg.service };
        let to = ServiceSubset { service: service.clone(), subset: leg.subset.clone() };
        (share * f64::from(*weight) / f64::from(whole), to)
    };
    splitter.iter().map(leg).collect()
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
