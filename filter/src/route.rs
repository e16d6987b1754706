//! The router: from a server id to a route, a destination, a cluster name and a hash key. Pure; the control
//! plane's `explain` runs the same code.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;

use realmgate_wire::{ServerId, consistent_hash, realm_based};

use crate::config::{self, FilterConfig, Framing, HashKey, PickStrategy, RouteConfig, Split};
use crate::host::{Host, HostError};
use crate::privacy::ClientAddress;
use crate::ranges::NumberSet;
use crate::segments::{Claim, Segments};
use crate::template::{Allowed, Template};
use crate::validate::{ConfigError, Fault, MAX_DESTINATIONS, MAX_ROUTES, MAX_WEIGHT, check_numbers, fault};

/// Where a connection goes, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Index in [`FilterConfig::routes`].
    pub route: usize,
    /// Index in that route's [`to`](crate::config::RouteConfig::to).
    pub destination: usize,
    /// The endpoint index that a compatible hash picked, where the destination has one and it applied.
    pub pick: Option<u32>,
    /// Name of the cluster.
    pub cluster: String,
    /// What its game servers speak.
    pub framing: Framing,
    /// Meaningful only when `has_key`; apart from it to keep the allocation.
    key: String,
    has_key: bool,
    /// Scratch space of the session, here to be reused.
    pub(crate) source_address: String,
}

impl Decision {
    /// What the cluster's load balancer hashes, where the route asks for it and it is known.
    #[must_use]
    pub fn hash_key(&self) -> Option<&str> {
        self.has_key.then_some(self.key.as_str())
    }
}

/// A route that matched, from [`Router::find`].
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    index: usize,
    route: &'a Route,
}

/// A configuration made ready for lookups.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Route>,
    /// By server type.
    types: Vec<Segments>,
    max_message_bytes: u32,
    header_timeout_ms: u32,
    is_logged: bool,
    client_address: Option<ClientAddress>,
    warned: Cell<bool>,
}

impl Found<'_> {
    /// Whether the route's hash key is the client's address.
    #[must_use]
    pub fn wants_source_ip(self) -> bool {
        self.route.hash_key == Some(HashKey::SourceIp)
    }

    /// Chooses destination, cluster and hash key of it, into `decision`.
    ///
    /// `source_ip` is without port and brackets; `random` is asked at most once, evenly distributed over all
    /// `u64`.
    pub fn settle(
        self,
        id: ServerId,
        source_ip: Option<&str>,
        random: impl FnOnce() -> u64,
        decision: &mut Decision,
    ) {
        let Self { index, route } = self;
        decision.route = index;
        decision.key.clear();
        decision.has_key = true;
        // Writing to a string never fails.
        let _ = match (route.hash_key, source_ip) {
            (Some(HashKey::Instance), _) => write!(decision.key, "{}", id.instance()),
            (Some(HashKey::WorldInstance), _) => write!(decision.key, "{}/{}", id.world(), id.instance()),
            (Some(HashKey::SourceIp), Some(ip)) => decision.key.write_str(ip),
            (Some(HashKey::SourceIp), None) | (None, _) => {
                decision.has_key = false;
                Ok(())
            }
        };
        decision.destination = if route.destinations.len() < 2 {
            0
        } else {
            let point = match (route.split, decision.hash_key()) {
                (Split::Sticky, Some(key)) => sticky_point(key),
                _ => random(),
            };
            let share = scale(point, route.total_weight);
            route.destinations.partition_point(|destination| destination.below <= share)
        };
        decision.pick = None;
        // A validated route has a destination, and `share` is below the total weight.
        let Some(destination) = route.destinations.get(decision.destination) else { return };
        decision.framing = destination.framing;
        if let Some(pick) = &destination.pick {
            decision.pick = match pick.strategy {
                PickStrategy::ConsistentHash => consistent_hash(id.instance(), pick.of),
                PickStrategy::RealmBased => realm_based(id.world(), id.instance(), pick.of),
            };
            if let Some(index) = decision.pick {
                pick.cluster.render(id, index, &mut decision.cluster);
                return;
            }
        }
        destination.cluster.render(id, 0, &mut decision.cluster);
    }

    /// The route's name; empty where it has none.
    #[must_use]
    pub fn name(&self) -> Rc<str> {
        Rc::clone(&self.route.name)
    }
}

#[derive(Debug)]
struct Route {
    /// Shared with the sessions, which outlive a configuration.
    name: Rc<str>,
    instances: NumberSet,
    hash_key: Option<HashKey>,
    split: Split,
    destinations: Vec<Destination>,
    total_weight: u64,
}

#[derive(Debug)]
struct Destination {
    cluster: Template,
    /// Sum of the weights up to and including this one.
    below: u64,
    pick: Option<Pick>,
    framing: Framing,
}

#[derive(Debug)]
struct Pick {
    strategy: PickStrategy,
    of: u32,
    cluster: Template,
}

impl Route {
    fn new(config: &RouteConfig) -> Result<Self, Fault> {
        let RouteConfig { worlds, instances, to, .. } = config;
        check_numbers("worlds", worlds, ServerId::MAX_WORLD)?;
        check_numbers("instances", instances, u16::from(u8::MAX))?;
        if to.is_empty() {
            return Err(fault("to", "a route needs at least one destination"));
        }
        if to.len() > MAX_DESTINATIONS {
            let message = format!("{} destinations, at most {MAX_DESTINATIONS} are allowed", to.len());
            return Err(fault("to", message));
        }
        let mut total_weight = 0;
        let mut destinations = Vec::with_capacity(to.len());
        for (j, to) in to.iter().enumerate() {
            let destination = Destination::new(to, total_weight)
                .map_err(|(field, message)| fault(format!("to[{j}].{field}"), message))?;
            total_weight = destination.below;
            destinations.push(destination);
        }
        Ok(Self {
            name: Rc::from(config.name.as_str()),
            instances: instances.clone(),
            hash_key: config.hash_key,
            split: config.split,
            destinations,
            total_weight,
        })
    }
}

impl Destination {
    /// The one that follows destinations of this weight in all.
    fn new(config: &config::Destination, before: u64) -> Result<Self, Fault> {
        if config.weight == 0 || config.weight > MAX_WEIGHT {
            return Err(fault("weight", format!("{} is not from 1 to {MAX_WEIGHT}", config.weight)));
        }
        Ok(Self {
            cluster: Template::parse(&config.cluster, Allowed::Header).map_err(|m| fault("cluster", m))?,
            below: before + u64::from(config.weight),
            pick: config.pick.as_ref().map(Pick::new).transpose()?,
            framing: config.framing,
        })
    }
}

impl Pick {
    fn new(config: &config::Pick) -> Result<Self, Fault> {
        if config.of == 0 {
            return Err(fault("pick.of", "0 endpoints leave nothing to pick"));
        }
        let cluster = Template::parse(&config.cluster, Allowed::HeaderAndPick);
        let cluster = cluster.map_err(|message| fault("pick.cluster", message))?;
        Ok(Self { strategy: config.strategy, of: config.of, cluster })
    }
}

impl Router {
    /// Makes a configuration ready, and checks what its types cannot say: bounds and cluster-name templates. It keeps
    /// nothing of `config`.
    ///
    /// # Errors
    /// [`ConfigError`] with the first fault and its place.
    pub fn new(config: &FilterConfig) -> Result<Self, ConfigError> {
        if config.routes.len() > MAX_ROUTES {
            let message = format!("{} routes, at most {MAX_ROUTES} are allowed", config.routes.len());
            return Err(ConfigError::at("routes", message));
        }
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut claims: Vec<Vec<Claim<'_>>> = vec![Vec::new(); 256];
        for (i, route) in config.routes.iter().enumerate() {
            let ready = Route::new(route)
                .map_err(|(field, message)| ConfigError::at(format!("routes[{i}].{field}"), message))?;
            routes.push(ready);
            if let (Some(of_type), Ok(index)) =
                (claims.get_mut(usize::from(route.server_type)), u32::try_from(i))
            {
                of_type.push(Claim { route: index, worlds: &route.worlds, instances: &route.instances });
            }
        }
        Ok(Self {
            routes,
            types: claims.iter().map(|claims| Segments::build(claims)).collect(),
            max_message_bytes: config.max_message_bytes,
            header_timeout_ms: config.header_timeout_ms,
            is_logged: config.access_log,
            client_address: config.client_address.clone(),
            warned: Cell::new(false),
        })
    }

    /// Largest body that a first message may announce; 0 = no limit.
    #[must_use]
    pub const fn max_message_bytes(&self) -> u32 {
        self.max_message_bytes
    }

    /// How long a header may take; 0 = for ever.
    #[must_use]
    pub const fn header_timeout_ms(&self) -> u32 {
        self.header_timeout_ms
    }

    /// Whether anybody reads the access log.
    #[must_use]
    pub const fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// The connection's client as the access log may show it; `None` where the proxy shows it, or nobody reads.
    #[must_use]
    pub fn shown_client(&self, host: &mut impl Host) -> Option<Rc<str>> {
        let how = self.client_address.as_ref().filter(|_| self.is_logged)?;
        let mut address = String::new();
        let known = host.source_address(&mut address).is_ok();
        Some(if known { how.shown(&address) } else { String::new() }.into())
    }

    /// The first route that takes this server id. Two binary searches, no allocation.
    #[must_use]
    pub fn find(&self, id: ServerId) -> Option<Found<'_>> {
        let candidates = self.types.get(usize::from(id.server_type()))?.candidates(id.world());
        candidates.iter().find_map(|&index| {
            let index = usize::try_from(index).ok()?;
            let route = self.routes.get(index)?;
            route.instances.contains(u16::from(id.instance())).then_some(Found { index, route })
        })
    }

    /// [`Self::find`] and [`Found::settle`] in one, for those who decide once; `None` = no route.
    #[must_use]
    pub fn decide(
        &self,
        id: ServerId,
        source_ip: Option<&str>,
        random: impl FnOnce() -> u64,
    ) -> Option<Decision> {
        let mut decision = Decision::default();
        self.find(id)?.settle(id, source_ip, random, &mut decision);
        Some(decision)
    }

    /// Warns of the first error only: what fails for one connection fails for ten thousand a second, and they
    /// are counted.
    pub(crate) fn warn_once(&self, error: &HostError, host: &mut impl Host) {
        if !self.warned.replace(true) {
            host.warn(&format!("{error}; connections are refused (reported once per configuration)"));
        }
    }
}

/// Where a hash key falls on the whole range of `u64`: FNV-1a, then mixed (the finalizer of `SplitMix64`),
/// because the high bits decide and FNV leaves them poor for short keys. Part of the contract: another hash
/// would move players.
pub(crate) fn sticky_point(key: &str) -> u64 {
    let mut hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Brings `point` from the range of `u64` to `0..total`, keeping the order: when weights change, only the
/// keys between the old and the new threshold move.
fn scale(point: u64, total: u64) -> u64 {
    u64::try_from((u128::from(point) * u128::from(total)) >> 64).unwrap_or(0)
}
