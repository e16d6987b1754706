//! What an operator says: the policy document, its parts and their validation. Pure.

mod diff;
mod document;
mod duration;
mod endpoint;
mod failover;
mod health;
mod intention;
mod numbers;
mod overlap;
mod overlay;
mod parse;
mod player_tls;
mod policy;
mod problem;
mod removal;
mod resilience;
mod shape;
mod validate;

pub use diff::diff;
pub use document::MAX_BYTES;
pub use duration::Duration;
pub use endpoint::Endpoint;
pub use failover::{Consul, FailBack, Failover, FailoverTarget, Order};
pub use health::{ByteCheck, Check, CheckTimes, HealthCheck, Hex, Ping};
pub use intention::{ANY_SERVICE, Action, Intention};
pub use numbers::{Instances, Numbers, Worlds};
pub use overlap::WorldClass;
pub use overlay::{Overlay, parse_overlay};
pub use parse::{EMPTY, is_empty, parse};
pub use player_tls::{PlayerTls, TlsVersion};
pub use policy::{
    Backoff, ClusterDelivery, Dns, Limits, Listener, Policy, Route, Service, ServiceTls, Strategy, Target,
};
pub use problem::{Place, Problem};
pub use removal::{MassRemoval, Taken, mass_removal};
pub use resilience::{Connections, OutlierDetection};
pub use validate::GAME_GATEWAY;
