//! What takes minutes to show: soaks, many changes, another version's control plane. `make prove` runs it; `make test` does
//! not: there they are ignored.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code, of which clippy knows only the functions marked as tests"
)]

/// So that these tests have a name in common, by which `make prove` tells them from others.
#[path = "."]
mod prove {
    mod configurations;
    mod cuts;
    mod endings;
    mod readiness;
    mod redis_memory;
    mod supply;
    mod upgrade;
}
