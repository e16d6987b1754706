//! The rim to Envoy: this module and those below it alone know proxy-wasm.
//!
//! ```text
//!   Envoy  <->  abi  <->  contexts  ->  gateway, guard     the events, by the contexts that they are about
//!                ^                          |
//!                 \---- envoy, counts, vm, shared          what the core asks of Envoy
//! ```

mod abi;
mod contexts;
mod counts;
mod envoy;
mod gateway;
mod guard;
mod shared;
mod vm;

use crate::host::HostError;

fn refused<T: std::fmt::Debug>(call: &'static str) -> impl FnOnce(T) -> HostError {
    move |status| HostError { call, reason: format!("{status:?}") }
}
