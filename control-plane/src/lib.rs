//! The control plane of Realmgate.

pub mod compile;
pub mod mesh;
pub mod model;
pub mod source;
pub mod xds;
