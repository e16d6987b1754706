//! An xDS conformance suite that knows no implementation: scripts of what a client says and what it must be
//! told, run against whatever stands behind a [`Subject`].
//!
//! ```text
//!  script ──► Run ──► Client ──► wire (both variants, all services) ──► any server
//!               └───► Subject: "serve this World"  ────────────────────────┘
//! ```
//! A script is named after the statement that it holds a server to, and runs over every variant and service for
//! which the statement has a meaning. The statements:
//!
//! | | about | scripts |
//! |---|---|---|
//! | 1-3 | streams: node, a proxy's order of asking, nonces | [`streams`](scripts::streams) |
//! | 4-8 | state of the world: stale nonces, full state, added names, wildcard, repeated requests | [`sotw`](scripts::sotw), [`wildcard`](scripts::wildcard) |
//! | 9-13 | delta: nonces, repeated and absent names, unsubscribing, reconnecting | [`delta`](scripts::delta) |
//! | 14-16, 22 | order: endpoints behind clusters, make before break | [`order`](scripts::order) |
//! | 17-19 | refusals | [`refusal`](scripts::refusal) |
//! | 20, 21, 23-27 | what is in a response, and when there is none | [`content`](scripts::content) |
//! | | input that no proxy would send | [`bad_input`](scripts::bad_input) |
//!
//! Statements (3), (5), (16), (20), (21), (24) and (26) are besides checked on every response of every script.
//! Some say what a proxy does, and no server can be tested for it; of these a script plays the proxy: that it asks
//! for listeners late (2), repeats requests (8), withholds acknowledgements (14), applies refused responses in part
//! (18), warms listeners (25).
//!
//! Silence is not waited for but proved: something that must be answered is asked or shown, and the answer is the
//! next response ([`Client::fence`]).

mod client;
mod fence;
mod proxy;
mod response;
pub mod scripts;
mod subject;
mod wire;
mod world;

pub use client::{Client, Memory, SOON};
pub use proxy::{Held, Proxy, has_all};
pub use response::{Payload, Response};
pub use subject::{Limits, Run, Subject, Suite};
pub use wire::{Channel, Request, Service, Variant};
pub use world::{Cluster, FENCES, Kind, Listener, World};
