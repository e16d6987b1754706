//! End-to-end tests: real Envoys, Redis servers and control planes. One binary, since each links everything.
//!
//! Tests share the machine except those that measure time (`TestNet::alone`). A test makes its place first; its
//! address is not given out again in this process, so what ends a moment after the place disturbs nobody.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

mod access_log;
mod api;
mod api_abuse;
mod conformance;
mod consul;
mod dashboards;
mod demo;
mod drain;
mod edges;
mod endings;
mod failover;
mod filter_file;
mod fleet;
mod framing;
mod harness;
mod health_checks;
mod health_listener;
mod identity;
mod lazy_worlds;
mod limits;
mod live_sessions;
mod load;
mod lost_state;
mod many_worlds;
mod matrix;
mod mesh_tls;
mod migration;
mod parity;
mod player_tls;
mod reach;
mod readiness;
mod readme;
mod redis_rules;
mod resilience;
mod routing;
mod scenarios;
mod security_doc;
mod serve;
mod slots;
mod strategies;
mod switches;
mod upgrade;
mod warming;
mod weights;

use realmgate_tests::cast;
