//! The control plane of Realmgate.

pub mod model;
pub mod source;
pub mod xds;
