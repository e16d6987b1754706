//! Changes that take so much away that somebody has to confirm them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::{Policy, Worlds};

/// Fewer of a kind may go as they like: of a handful, half is one or two.
const MANY: usize = 10;

/// Names that are told of each kind.
const MOST_NAMED: usize = 5;

/// What a change would take away, beyond what goes without being confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MassRemoval {
    /// By kind: `listeners`, `services`, `routes`, `worlds`.
    pub taken: Vec<Taken>,
}

/// What a change would take away of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// `listeners`, `services`, `routes` or `worlds`.
    pub kind: &'static str,
    /// How many would go.
    pub gone: usize,
    /// Of how many.
    pub of: usize,
    /// The first of them.
    pub names: Vec<String>,
}

/// Whether this change takes away the last listener, or the last route of a policy with listeners, without either of which
/// no edge is ready, or more than half of ten or more listeners, services, routes or worlds.
///
/// A policy without listeners of its own has its routes over those of a game-gateway, which go on without them.
/// Listeners, services and routes are told apart by name. A world is a server type and a number that some route lists; it
/// goes when no route lists it any more and none of its server type takes any world.
#[must_use]
pub fn mass_removal(before: &Policy, after: &Policy) -> Option<MassRemoval> {
    let listeners = gone("listeners", &before.listeners, &after.listeners, |l| &l.name);
    let services = gone("services", &before.services, &after.services, |s| &s.name);
    let routes = gone("routes", &before.routes, &after.routes, |r| &r.name);
    let all = [listeners, services, routes, gone_worlds(before, after)];
    let no_routes = after.routes.is_empty() && !before.listeners.is_empty();
    let nothing_left = [("listeners", after.listeners.is_empty()), ("routes", no_routes)];
    let is_last = |taken: &Taken| taken.of > 0 && nothing_left.contains(&(taken.kind, true));
    let is_mass = |taken: &Taken| taken.of >= MANY && taken.gone > taken.of / 2 || is_last(taken);
    let taken: Vec<_> = all.into_iter().filter(is_mass).collect();
    (!taken.is_empty()).then_some(MassRemoval { taken })
}

fn gone<T>(kind: &'static str, before: &[T], after: &[T], name: impl Fn(&T) -> &String) -> Taken {
    let kept: BTreeSet<_> = after.iter().map(&name).collect();
    let gone = before.iter().map(&name).filter(|name| !kept.contains(name));
    let names = gone.clone().take(MOST_NAMED).cloned().collect();
    Taken { kind, gone: gone.count(), of: before.len(), names }
}

fn gone_worlds(before: &Policy, after: &Policy) -> Taken {
    let (before, after) = (worlds(before), worlds(after));
    let taken = |(server_type, world): &(u8, u16)| {
        after.get(server_type).is_some_and(|after| after.any || after.takes(*world))
    };
    let listed = before.iter().flat_map(|(server_type, of)| of.listed().map(|world| (*server_type, world)));
    let gone = listed.clone().filter(|world| !taken(world));
    let words = |(server_type, world): (u8, u16)| format!("{world} of server type {server_type}");
    let names = gone.clone().take(MOST_NAMED).map(words).collect();
    Taken { kind: "worlds", gone: gone.count(), of: listed.count(), names }
}

/// The worlds of one server type that routes take.
#[derive(Clone, Default)]
struct Listed {
    any: bool,
    /// Whether a route lists the world, by its number.
    listed: Vec<bool>,
}

impl Listed {
    fn takes(&self, world: u16) -> bool {
        self.listed.get(usize::from(world)).copied().unwrap_or_default()
    }

    fn listed(&self) -> impl Iterator<Item = u16> + Clone {
        (0..).zip(&self.listed).filter(|(_, listed)| **listed).map(|(world, _)| world)
    }
}

fn worlds(policy: &Policy) -> BTreeMap<u8, Listed> {
    // Routes of other listeners or instances may list the same worlds: each is marked once.
    let mut ranges = BTreeMap::<u8, (bool, Vec<(u16, u16)>)>::new();
    for route in &policy.routes {
        let (any, of_type) = ranges.entry(route.server_type).or_default();
        match &route.worlds {
            Worlds::Any => *any = true,
            Worlds::Listed(ranges) => of_type.extend(ranges),
        }
    }
    let marked = |(any, mut ranges): (bool, Vec<(u16, u16)>)| {
        ranges.sort_unstable();
        let mut listed = Vec::new();
        for (low, high) in ranges {
            let (low, high) = (usize::from(low), usize::from(high));
            listed.resize(listed.len().max(low), false);
            listed.resize(listed.len().max(high + 1), true);
        }
        Listed { any, listed }
    };
    ranges.into_iter().map(|(server_type, of_type)| (server_type, marked(of_type))).collect()
}

impl fmt::Display for MassRemoval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it takes away ")?;
        for (number, taken) in self.taken.iter().enumerate() {
            let and = if number == 0 { "" } else { ", " };
            let Taken { kind, gone, of, names } = taken;
            if (*gone, *of) == (1, 1) {
                write!(f, "{and}the last {} ({})", kind.trim_end_matches('s'), names.join(", "))?;
                continue;
            }
            let all = if gone == of { "all " } else { "" };
            let more = if names.len() < *gone { ", ..." } else { "" };
            write!(f, "{and}{all}{gone} of {of} {kind} ({}{more})", names.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse;
    use super::*;

    /// So many of each kind, of which these first ones are left out; routes list a world each.
    fn policy(of: usize, without: usize) -> Policy {
        let range = || without..of;
        let listeners = range().map(|i| format!("{{name: l{i}, bind: '127.0.0.1:{}'}}", i + 1));
        let services = (0..of).map(|i| format!("{{name: s{i}, endpoints: ['127.0.0.1:1']}}"));
        let routes = range()
            .map(|i| format!("{{name: r{i}, server_type: 1, worlds: {}, to: [{{service: s{i}}}]}}", i + 1));
        let list = |all: &mut dyn Iterator<Item = String>| all.collect::<Vec<_>>().join(", ");
        let [mut listeners, mut services, mut routes]: [Box<dyn Iterator<Item = String>>; 3] =
            [Box::new(listeners), Box::new(services), Box::new(routes)];
        let text = format!(
            "listeners: [{}]\nservices: [{}]\nroutes: [{}]",
            list(&mut listeners),
            list(&mut services),
            list(&mut routes)
        );
        parse(&text).unwrap()
    }

    fn kinds(removal: Option<MassRemoval>) -> Vec<&'static str> {
        removal.into_iter().flat_map(|removal| removal.taken).map(|taken| taken.kind).collect()
    }

    #[test]
    fn more_than_half_of_ten_or_a_last_listener_or_route_is_much() {
        assert!(kinds(mass_removal(&policy(10, 0), &policy(10, 5))).is_empty(), "half");
        let removal = mass_removal(&policy(10, 0), &policy(10, 6)).unwrap();
        let expected = "it takes away 6 of 10 listeners (l0, l1, l2, l3, l4, ...), 6 of 10 routes (r0, r1, r2, r3, r4, ...), \
            6 of 10 worlds (1 of server type 1, 2 of server type 1, 3 of server type 1, 4 of server type 1, 5 of server type 1, ...)";
        assert_eq!(removal.to_string(), expected);
        assert!(kinds(mass_removal(&policy(9, 0), &policy(9, 8))).is_empty(), "fewer than ten");
        assert_eq!(kinds(mass_removal(&policy(3, 0), &policy(3, 3))), ["listeners", "routes"], "the last");
        let without_routes = Policy { routes: vec![], ..policy(3, 0) };
        let removal = mass_removal(&policy(3, 0), &without_routes).unwrap();
        assert_eq!(removal.to_string(), "it takes away all 3 of 3 routes (r0, r1, r2)");
        assert_eq!(mass_removal(&without_routes, &without_routes), None, "there was none");
        let all = mass_removal(&policy(12, 0), &Policy::default());
        assert_eq!(kinds(all), ["listeners", "services", "routes", "worlds"]);
        let last = mass_removal(&policy(1, 0), &Policy::default()).unwrap();
        assert_eq!(last.to_string(), "it takes away the last listener (l0), the last route (r0)");
    }

    #[test]
    fn a_world_that_another_route_takes_is_not_gone() {
        let route = |name: &str, server_type: u8, worlds: &str| {
            format!("{{name: {name}, server_type: {server_type}, worlds: {worlds}, to: [{{service: s}}]}}")
        };
        let policy = |routes: &[String]| {
            let routes = routes.join(", ");
            parse(&format!("services: [{{name: s, endpoints: ['10.0.0.1:1']}}]\nroutes: [{routes}]")).unwrap()
        };
        let before = policy(&[route("a", 200, "['1-20']")]);
        assert_eq!(kinds(mass_removal(&before, &policy(&[route("a", 200, "['1-9']")]))), ["worlds"]);
        assert!(kinds(mass_removal(&before, &policy(&[route("a", 200, "['1-10']")]))).is_empty());
        assert!(kinds(mass_removal(&before, &policy(&[route("b", 200, "any")]))).is_empty());
        let other_type = [route("b", 201, "any"), route("c", 201, "['1-20']")];
        assert_eq!(kinds(mass_removal(&before, &policy(&other_type))), ["worlds"]);
        let turned = |server_type: u8| {
            let routes = (1..=20).map(|i| route(&format!("r{i}"), server_type, &format!("[{i}]")));
            policy(&routes.collect::<Vec<_>>())
        };
        let removal = mass_removal(&turned(200), &turned(201)).unwrap();
        assert!(removal.to_string().starts_with("it takes away all 20 of 20 worlds ("), "{removal}");
        let in_parts = [route("a", 200, "[7, '1-6']"), route("b", 200, "['8-20']")];
        assert_eq!(mass_removal(&before, &policy(&in_parts)), None);
    }

    proptest! {
        #[test]
        fn nothing_goes_where_all_stays_or_nothing_was(of in 0..30_usize, without in 0..30_usize) {
            let whole = policy(of, 0);
            let part = policy(of, without.min(of));
            prop_assert_eq!(mass_removal(&whole, &whole), None);
            prop_assert_eq!(mass_removal(&part, &whole), None, "more is not less");
            prop_assert_eq!(mass_removal(&Policy::default(), &whole), None);
            let gone = without.min(of);
            let much = gone > 0 && gone == of || of >= 10 && gone * 2 > of;
            prop_assert_eq!(mass_removal(&whole, &part).is_some(), much);
            for taken in mass_removal(&whole, &part).into_iter().flat_map(|removal| removal.taken) {
                prop_assert!(taken.gone <= taken.of && taken.names.len() <= MOST_NAMED.min(taken.gone));
            }
        }

        #[test]
        fn order_says_nothing(of in 1..30_usize, without in 0..30_usize, seed in 0..7_usize) {
            let (whole, part) = (policy(of, 0), policy(of, without.min(of)));
            let turned = |policy: &Policy| {
                let mut turned = policy.clone();
                turned.listeners.reverse();
                let (routes, services) = (turned.routes.len().max(1), turned.services.len().max(1));
                turned.routes.rotate_left(seed % routes);
                turned.services.rotate_left(seed % services);
                turned
            };
            prop_assert_eq!(
                kinds(mass_removal(&whole, &part)),
                kinds(mass_removal(&turned(&whole), &turned(&part)))
            );
        }
    }
}
