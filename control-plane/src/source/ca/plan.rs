//! When roots are made and go, and when leaves are renewed. The time and the dice are given: nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::authority::Authority;
use crate::mesh::identity::{Identities, Leaf};

/// What the authority is for, and how long what it makes is good.
#[derive(Clone, Debug)]
pub struct CaConfig {
    /// What every SPIFFE id begins with.
    pub trust_domain: String,
    /// The datacenter in the ids.
    pub datacenter: String,
    /// Of a leaf; renewed at a random 60 to 90 % of it.
    pub leaf_lifetime: Duration,
    /// Of a root, at least twice a leaf's; the next one is made at two thirds of it.
    pub root_lifetime: Duration,
}

/// Longest time for which a new root is known to all before it signs: proxies that were away come back meanwhile.
const LONGEST_OVERLAP: Duration = Duration::from_hours(1);

impl CaConfig {
    /// For how long a new root is published before it signs.
    fn overlap(&self) -> Duration {
        (self.root_lifetime / 10).min(LONGEST_OVERLAP)
    }
}

/// A leaf and when its time comes.
#[derive(Clone, Debug)]
struct Issued {
    leaf: Arc<Leaf>,
    at: SystemTime,
    /// The root that signed it.
    by: String,
    /// From 0 to 1, so that leaves which were made together are not renewed together.
    spread: f64,
}

/// The roots, oldest first, and the leaves.
#[derive(Clone, Debug)]
pub(super) struct Ca {
    config: CaConfig,
    roots: Vec<Authority>,
    leaves: BTreeMap<String, Issued>,
}

impl Ca {
    pub(super) fn new(config: CaConfig, roots: Vec<Authority>) -> Self {
        Self { config, roots, leaves: BTreeMap::new() }
    }

    /// The roots that there should be now, if they are not those that there are. They are put in force with
    /// [`Self::set_roots`] once they are kept safe.
    pub(super) fn next_roots(&self, now: SystemTime) -> Result<Option<Vec<Authority>>, rcgen::Error> {
        let mut roots = self.roots.clone();
        if let Some(signs_from) = self.signing(now).map(|root| self.signs_from(root)) {
            // Whatever an older one signed has expired.
            let gone = now >= signs_from + self.config.leaf_lifetime;
            roots.retain(|root| !gone || self.signs_from(root) >= signs_from);
        }
        roots.retain(|root| now < root.expires);
        if roots.last().is_none_or(|newest| now >= self.succeeded_at(newest)) {
            roots.push(Authority::create(&self.config.trust_domain, now, self.config.root_lifetime)?);
        }
        Ok((roots != self.roots).then_some(roots))
    }

    pub(super) const fn has_roots(&self) -> bool {
        !self.roots.is_empty()
    }

    pub(super) fn set_roots(&mut self, roots: Vec<Authority>) {
        self.roots = roots;
    }

    /// Makes the leaves that are missing or have come of age, and drops what nobody wants. How many were made.
    pub(super) fn renew(
        &mut self,
        wanted: &BTreeSet<String>,
        now: SystemTime,
        dice: &mut dyn FnMut() -> f64,
    ) -> Result<usize, rcgen::Error> {
        let mut made = 0;
        self.leaves.retain(|service, _| wanted.contains(service));
        let Some(signing) = self.signing(now).cloned() else { return Ok(0) };
        for service in wanted {
            let current = |issued: &Issued| now < self.renewed_at(issued, &signing);
            if self.leaves.get(service).is_some_and(current) {
                continue;
            }
            let CaConfig { trust_domain, datacenter, leaf_lifetime, .. } = &self.config;
            let domain = Identities { trust_domain: trust_domain.clone(), ..Identities::default() };
            // Who cannot be in a certificate gets none; the policy has no such names.
            let Some(uri) = domain.uri(datacenter, service) else { continue };
            let leaf = signing.issue(&uri, now, *leaf_lifetime)?;
            let issued = Issued { leaf: Arc::new(leaf), at: now, by: signing.name.clone(), spread: dice() };
            self.leaves.insert(service.clone(), issued);
            made += 1;
        }
        Ok(made)
    }

    /// When there is something to do next.
    pub(super) fn wakes_at(&self, now: SystemTime) -> Option<SystemTime> {
        let signing = self.signing(now)?;
        let retires = (self.roots.len() > 1).then(|| self.signs_from(signing) + self.config.leaf_lifetime);
        let roots =
            self.roots.iter().flat_map(|root| [self.signs_from(root), self.succeeded_at(root), root.expires]);
        let leaves = self.leaves.values().map(|issued| self.renewed_at(issued, signing));
        roots.chain(retires).filter(|at| *at > now).chain(leaves).min()
    }

    /// What is published.
    pub(super) fn identities(&self) -> Identities {
        let leaf = |(service, issued): (&String, &Issued)| (service.clone(), Arc::clone(&issued.leaf));
        Identities {
            trust_domain: self.config.trust_domain.clone(),
            datacenter: self.config.datacenter.clone(),
            roots: self.roots.iter().map(|root| root.certificate.clone()).collect(),
            leaves: self.leaves.iter().map(leaf).collect(),
            unproven: false,
        }
    }

    /// The newest root that all proxies know by now. The first of all has nobody to wait for.
    fn signing(&self, now: SystemTime) -> Option<&Authority> {
        let known = self.roots.iter().rev().find(|root| now >= self.signs_from(root));
        known.or(self.roots.first())
    }

    fn signs_from(&self, root: &Authority) -> SystemTime {
        root.created + self.config.overlap()
    }

    fn succeeded_at(&self, root: &Authority) -> SystemTime {
        root.created + self.config.root_lifetime * 2 / 3
    }

    fn renewed_at(&self, issued: &Issued, signing: &Authority) -> SystemTime {
        // The last that a root signs live as long as it does, not as long as others.
        let life = issued.leaf.not_after.duration_since(issued.at).unwrap_or_default();
        let by_age = issued.at + life.mul_f64(0.6 + 0.3 * issued.spread);
        if issued.by == signing.name {
            by_age
        } else {
            by_age.min(self.signs_from(signing) + self.config.overlap().mul_f64(issued.spread))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn config() -> CaConfig {
        CaConfig {
            trust_domain: "test.internal".to_owned(),
            datacenter: "aws".to_owned(),
            leaf_lifetime: 72 * HOUR,
            root_lifetime: 1000 * HOUR,
        }
    }

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 500_000 * HOUR
    }

    fn wanted() -> BTreeSet<String> {
        ["game", "realmgate-edge"].map(str::to_owned).into()
    }

    /// What the task does at one moment.
    fn step(ca: &mut Ca, now: SystemTime) -> usize {
        if let Some(roots) = ca.next_roots(now).unwrap() {
            ca.set_roots(roots);
        }
        let mut dice = [0.0, 0.999].into_iter().cycle();
        ca.renew(&wanted(), now, &mut || dice.next().unwrap()).unwrap()
    }

    fn common_name(pem: &str) -> (String, String) {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        (certificate.subject().to_string(), certificate.issuer().to_string())
    }

    #[test]
    fn every_wanted_service_has_a_leaf_for_its_id_and_others_have_none() {
        let mut ca = Ca::new(config(), Vec::new());
        assert_eq!(step(&mut ca, start()), 2);
        let identities = ca.identities();
        assert_eq!(identities.leaves.keys().cloned().collect::<BTreeSet<_>>(), wanted());
        let leaf = &identities.leaves["game"];
        assert_eq!(leaf.uri, "spiffe://test.internal/ns/default/dc/aws/svc/game");
        let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.chain.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(format!("{:?}", names.value.general_names).contains(&leaf.uri));
        assert_eq!(ca.renew(&BTreeSet::new(), start(), &mut || 0.0).unwrap(), 0);
        assert!(ca.identities().leaves.is_empty());
    }

    #[test]
    fn leaves_are_renewed_at_sixty_to_ninety_percent_of_their_life() {
        let mut ca = Ca::new(config(), Vec::new());
        step(&mut ca, start());
        let (early, late) = (start() + 72 * HOUR * 6 / 10, start() + 72 * HOUR * 9 / 10);
        assert_eq!(ca.wakes_at(start() + 101 * HOUR).unwrap(), early);
        assert_eq!(step(&mut ca, early - HOUR), 0);
        assert_eq!(step(&mut ca, early), 1);
        assert_eq!(step(&mut ca, late), 1);
    }

    #[test]
    fn a_new_root_is_known_for_a_while_before_it_signs_and_the_old_stays_while_its_leaves_live() {
        let mut ca = Ca::new(config(), Vec::new());
        let mut now = start();
        step(&mut ca, now);
        let (first, mut before) = (ca.identities().roots[0].clone(), ca.identities());
        let mut seen = BTreeMap::new();
        while now < start() + 1500 * HOUR {
            now = ca.wakes_at(now).unwrap();
            step(&mut ca, now);
            let identities = ca.identities();
            for root in &*identities.roots {
                seen.entry(common_name(root).0).or_insert(now);
            }
            assert!(identities.roots.len() <= 2);
            for leaf in identities.leaves.values() {
                assert!(leaf.not_after > now, "a leaf has expired");
                let by = common_name(&leaf.chain).1;
                assert!(identities.roots.iter().any(|root| common_name(root).0 == by), "its root is gone");
            }
            // What a proxy that has not heard of the latest step shows is believed by those that have, and the reverse.
            for (shown, believed) in [(&before, &identities), (&identities, &before)] {
                for leaf in shown.leaves.values().filter(|leaf| leaf.not_after > now) {
                    let by = common_name(&leaf.chain).1;
                    assert!(believed.roots.iter().any(|root| common_name(root).0 == by), "at {now:?}");
                }
            }
            for leaf in identities.leaves.values().filter(|leaf| !before.leaves.values().any(|b| b == *leaf))
            {
                let by = common_name(&leaf.chain).1;
                assert!(by == common_name(&first).0 || now >= seen[&by] + HOUR, "it signs too early");
            }
            before = identities;
        }
        assert!(seen.len() >= 3 && !before.roots.contains(&first), "{seen:?}");
    }

    #[test]
    fn an_authority_that_slept_through_everything_starts_over() {
        let mut ca = Ca::new(config(), Vec::new());
        step(&mut ca, start());
        let later = start() + 5000 * HOUR;
        assert_eq!(step(&mut ca, later), 2);
        assert_eq!(ca.identities().roots.len(), 1);
        assert!(ca.identities().leaves.values().all(|leaf| leaf.not_after > later));
    }
}
