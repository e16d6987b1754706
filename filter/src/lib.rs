//! Realmgate's Envoy filter: reads the first 8 bytes of a game connection, chooses the upstream cluster by
//! the realm they name, and stays out of the way from then on.

pub mod config;
pub mod ranges;
