//! End-to-end tests: real Envoys, Redis servers and control planes. One binary, since each links everything.
//!
//! Tests share the machine except those that measure time (`TestNet::alone`). A test's first line makes its
//! place, so that everything else is gone before the place is.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

mod cast;
mod harness;
