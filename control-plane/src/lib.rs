//! The control plane of Realmgate.

pub mod cli;
pub mod model;
pub mod serve;
pub mod settings;
pub mod source;
pub mod telemetry;
pub mod xds;
