//! What an operator says: the policy document, its parts and their validation. Pure.

mod diff;
mod document;
mod duration;
mod effort;
mod endpoint;
mod endpoint_check;
mod endpoint_policy;
mod failover;
#[cfg(test)]
pub(crate) mod growth;
mod health;
mod host_names;
mod intention;
mod numbers;
mod overlap;
mod overlay;
mod own_listeners;
mod parse;
mod player_tls;
mod policy;
mod privacy;
mod problem;
mod removal;
mod resilience;
mod shape;
mod sidecars;
mod validate;
mod warnings;

pub use diff::diff;
pub use document::MAX_BYTES;
pub use duration::Duration;
pub use effort::{Effort, Stopped, Unread};
pub use endpoint::Endpoint;
pub use endpoint_check::{
    RefusedInPolicy, endpoint_problems, listeners, listeners_of_consul, without_refused,
};
pub use endpoint_policy::{
    AddressRanges, EndpointPolicy, EndpointSource, OwnListener, RefusedAddress, RefusedReason, hardened,
};
pub use failover::{Consul, FailBack, Failover, FailoverTarget, Order};
pub use health::{ByteCheck, Check, CheckTimes, HealthCheck, Hex, Ping};
pub use intention::{ANY_SERVICE, Action, Intention};
pub use numbers::{Instances, Numbers, Worlds};
pub use overlap::WorldClass;
pub use overlay::{Overlay, parse_overlay};
pub use own_listeners::OwnListeners;
pub use parse::{EMPTY, is_empty, parse, parse_within};
pub use player_tls::{PlayerTls, TlsVersion};
pub use policy::{
    Backoff, ClusterDelivery, Dns, Limits, Listener, Policy, Route, Service, ServiceTls, Strategy, Target,
};
pub use privacy::{ClientAddresses, Privacy};
pub use problem::{Place, Problem};
pub use removal::{MassRemoval, Taken, mass_removal};
pub use resilience::{Connections, OutlierDetection};
pub use sidecars::Sidecars;
pub use validate::GAME_GATEWAY;
pub use warnings::warnings;
