//! The control plane of Realmgate: from policy and rules to what every Envoy is told.
//!
//! ```text
//!   redis rules     policy store     filter module
//!            \           |            /
//!             v          v           v
//!             source::*  (one task each, publishes its latest value, survives loss)
//!                        |
//!                      mesh          all latest values joined, immutable
//!                        |
//!                     compile        pure: mesh + proxy scope -> named Envoy resources
//!                        |
//!                       xds          versions, subscriptions, order, ACK state, fan-out
//!                        |
//!                      Envoys
//! ```
//! No arrow points back; `api` and `cli` write to the policy source and read status, nothing else.

pub mod api;
pub mod cli;
pub mod compile;
mod connections;
pub mod mesh;
pub mod model;
pub mod serve;
pub mod settings;
pub mod source;
pub mod telemetry;
mod work;
pub mod xds;
