//! The test harness: real Envoys, Redis, Consul and Prometheus servers and control planes as child processes, game servers and
//! clients in process, each test on a loopback address of its own.
//!
//! ```text
//! GameClient --> Envoy (edge) --> GameServer        frame, game_client, game_server: also for load and demo
//!                  ^  ^
//!       admin API -+  +- xDS -- ControlPlane -- Redis, Consul    process children, stopped and reaped on drop
//! ```
//! Whatever starts something returns a [`Failure`] that shows the end of the part's log; whatever looks at
//! something that runs panics, since a test that cannot look has failed.
//!
//! Child processes are waited for by blocking. Tests run on `#[tokio::test(flavor = "multi_thread")]`, whose
//! body has a thread of its own: blocking it never holds up the game servers and clients.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a harness exists to fail tests, says above where it panics, and acts on what it is asked about"
)]

pub mod address;
pub mod bench;
pub mod cast;
pub mod conformance;
pub mod consul;
pub mod control_plane;
pub mod datacenter;
pub mod demo;
pub mod endings;
pub mod envoy;
pub mod failure;
pub mod filter_file;
pub mod fleet;
pub mod frame;
pub mod framing;
pub mod game_client;
pub mod game_process;
pub mod game_server;
pub mod http;
pub mod link;
pub mod load;
pub mod mesh_demo;
pub mod modules;
pub mod netns;
pub mod parts;
pub mod places;
pub mod process;
pub mod prometheus;
pub mod readiness;
pub mod redis;
pub mod scenario;
pub mod sockets;
pub mod stage;
pub mod stopwatch;
pub mod tap;
pub mod upgrade;
pub mod wait;

pub use address::TestNet;
pub use consul::Consul;
pub use control_plane::ControlPlane;
pub use datacenter::{Datacenter, Site};
pub use envoy::Envoy;
pub use failure::Failure;
pub use fleet::Fleet;
pub use frame::Frame;
pub use game_client::GameClient;
pub use game_process::GameProcess;
pub use game_server::GameServer;
pub use link::Link;
pub use prometheus::Prometheus;
pub use redis::Redis;
pub use scenario::{Scenario, load_scenarios};
pub use stage::Stage;
pub use stopwatch::Stopwatch;
pub use tap::Tap;
pub use wait::wait_until;
