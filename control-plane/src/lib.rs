//! The control plane of Realmgate.

pub mod model;
pub mod settings;
pub mod source;
pub mod telemetry;
pub mod xds;
