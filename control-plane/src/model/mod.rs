//! What an operator says: the policy document, its parts and their validation. Pure.

mod diff;
mod document;
mod duration;
mod endpoint;
mod numbers;
mod overlap;
mod parse;
mod policy;
mod problem;
mod validate;

pub use diff::diff;
pub use document::MAX_BYTES;
pub use duration::Duration;
pub use endpoint::Endpoint;
pub use numbers::{Instances, Numbers, Worlds};
pub use overlap::WorldClass;
pub use parse::parse;
pub use policy::{
    ClusterDelivery, Connections, Dns, Limits, Listener, Policy, Route, Service, Strategy, Target,
};
pub use problem::{Place, Problem};
pub use validate::GAME_GATEWAY;
