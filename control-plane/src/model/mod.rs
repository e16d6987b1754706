//! What an operator says: the policy document, its parts and their validation. Pure.

mod duration;
mod endpoint;
mod numbers;
mod parse;
mod policy;

pub use duration::Duration;
pub use endpoint::Endpoint;
pub use numbers::{Instances, Numbers, Worlds};
pub use parse::{Problem, parse};
pub use policy::{Connections, Dns, Limits, Listener, Policy, Route, Service, Strategy, Target};
