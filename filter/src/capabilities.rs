//! What the module needs of a proxy, by the names of the proxy-wasm ABI: the control plane has Envoy give it this and no
//! more, since Envoy calls a module for every event that it has a function for, and not every listener needs all.
//!
//! A call that is missing here is refused by Envoy: a test holds the list against the built module.

/// Events that the filter cannot do without. `proxy_on_delete` is the one that comes at every end of a connection:
/// its `done` and `log` would be two more calls.
pub const EVENTS: [&str; 6] = [
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_downstream_data",
    "proxy_on_new_connection",
    "proxy_on_tick",
];

/// Events that tell who ended a connection: only where its end is [told](crate::config::FilterConfig::access_log).
pub const ENDS: [&str; 2] = ["proxy_on_downstream_connection_close", "proxy_on_upstream_connection_close"];

/// The event that only a listener with translated framing needs.
pub const SERVER_DATA: &str = "proxy_on_upstream_data";

/// Events of a sidecar's guard: no data passes through it.
pub const GUARD_EVENTS: [&str; 4] =
    ["proxy_on_configure", "proxy_on_context_create", "proxy_on_delete", "proxy_on_tick"];

/// What the filter asks of the proxy.
pub const CALLS: [&str; 16] = [
    "clock_time_get",
    "proxy_call_foreign_function",
    "proxy_close_stream",
    "proxy_define_metric",
    "proxy_get_buffer_bytes",
    "proxy_get_current_time_nanoseconds",
    "proxy_get_property",
    "proxy_get_shared_data",
    "proxy_increment_metric",
    "proxy_log",
    "proxy_set_buffer_bytes",
    "proxy_set_effective_context",
    "proxy_set_property",
    "proxy_set_shared_data",
    "proxy_set_tick_period_milliseconds",
    "random_get",
];
