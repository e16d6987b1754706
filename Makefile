# The project's commands. `make` alone lists them.

# What setup brings is found before the machine's own; setup puts there only what the machine lacks.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

WASM := wasm32-unknown-unknown

.PHONY: help setup run run-mesh test prove bench fuzz lint build setup-build setup-run setup-bench setup-mesh filter

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## bring everything that is missing: wasm target, Envoy (newest to oldest), Redis, Consul, Node.js, test runner
	@tools/setup

# Building and running need less than testing does, and setting up less is minutes faster on a fresh machine.
setup-build:
	@tools/setup wasm-target
setup-bench:
	@tools/setup haproxy consul
setup-mesh:
	@tools/setup consul
setup-run:
	@tools/setup wasm-target envoy

# Optimised as one: a third smaller, and each call through it counts. Without bulk memory instructions: V8 leaves its code
# for each of them, which costs more than copying the few bytes of a header or a name in a loop.
MODULE := CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=-bulk-memory" \
	CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
	cargo build --release --target $(WASM)

filter: setup-build
	$(MODULE) -p realmgate-filter

build: setup-build filter ## build the release binaries and the filter (target/release, target/wasm32-unknown-unknown/release)
	cargo build --release

run: setup-run build ## start the demo: control plane, Envoy with the filter, game servers and a client; Ctrl-C ends it
	@exec target/release/realmgate-demo

run-mesh: setup-run setup-mesh build ## start the demo of two datacenters with sidecars and Consul: Enter kills one and brings it back; Ctrl-C ends it
	@exec target/release/realmgate-mesh-demo

# Binaries and tests are built by one command, since cargo unites the features of what it builds together: built apart,
# the binaries that the end-to-end tests start would compile many dependencies a second time.
# Tests wait for others more than they work: two for each processor keep it busy.
test: export RUST_TEST_THREADS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) * 2)))
test: setup filter ## run every test: unit, property, golden, end-to-end, and the wire crate as wasm in Node.js
	cargo build --workspace --bins --tests
	cargo test --workspace --no-fail-fast
	CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=wasm-bindgen-test-runner cargo test -p realmgate-wire --target $(WASM)

# They are ignored tests of one target; naming that target alone would build dependencies a second time, see above.
prove: setup filter ## run the long proofs: soaks, thousands of changes, control planes of two versions
	cargo build --workspace --bins --tests
	cargo test --workspace --bins --tests --no-fail-fast -- --ignored prove::

bench: setup-run setup-bench build ## run the benchmarks
	$(MODULE) -p realmgate-least-filter
	cargo run --release -p realmgate-tests --bin realmgate-bench

# Ten minutes for each target; another time by `make fuzz SECONDS=60`.
fuzz: SECONDS := 600
fuzz: ## fuzz every decoder, the sessions and the table of addresses; needs nightly Rust
	@tools/fuzz $(SECONDS)

lint: setup-build ## check formatting, lints (native and wasm), file lengths and shell scripts
	cargo fmt --check
	tools/lint-files
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p realmgate-filter --target $(WASM) -- -D warnings
	cargo clippy --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --no-default-features -- -D warnings
