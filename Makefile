# The project's commands. `make` alone lists them.

# What setup brings is found before the machine's own; setup puts there only what the machine lacks.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

WASM := wasm32-unknown-unknown

.PHONY: help setup run run-mesh test prove bench fuzz lint build sbom filter setup-build setup-run setup-bench setup-mesh setup-lint \
	setup-sbom

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## bring everything that is missing: Rust, wasm target, Envoy (newest to oldest), Redis, Consul, Node.js, test runner
	@tools/setup

# Building and running need less than testing does, and setting up less is minutes faster on a fresh machine.
setup-build:
	@tools/setup toolchain wasm-target
setup-bench:
	@tools/setup haproxy consul
setup-mesh:
	@tools/setup consul
setup-run:
	@tools/setup toolchain wasm-target envoy
setup-lint: setup-build
	@tools/setup cargo-deny
setup-sbom: setup-build
	@tools/setup cargo-cyclonedx

filter: setup-build
	tools/cargo-release --module build -p realmgate-filter

build: setup-build filter ## build the release binaries and the filter (target/release, target/wasm32-unknown-unknown/release)
	tools/cargo-release build

sbom: setup-sbom build ## list what is in the release binaries and the filter, and their hashes (target/sbom)
	tools/sbom

run: setup-run build ## start the demo: control plane, Envoy with the filter, game servers and a client; Ctrl-C ends it
	@exec target/release/realmgate-demo

run-mesh: setup-run setup-mesh build ## start the demo of two datacenters with sidecars and Consul: Enter kills one and brings it back; Ctrl-C ends it
	@exec target/release/realmgate-mesh-demo

# Binaries and tests are built by one command, since cargo unites the features of what it builds together: built apart,
# the binaries that the end-to-end tests start would compile many dependencies a second time.
# Tests wait for others more than they work: two for each processor keep it busy.
test: export RUST_TEST_THREADS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) * 2)))
test: setup filter ## run every test: unit, property, golden, end-to-end, and the wire crate as wasm in Node.js
	cargo build --locked --workspace --bins --tests
	cargo test --locked --workspace --no-fail-fast
	CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=wasm-bindgen-test-runner cargo test --locked -p realmgate-wire --target $(WASM)

# They are ignored tests of one target; naming that target alone would build dependencies a second time, see above.
prove: setup filter ## run the long proofs: soaks, thousands of changes, control planes of two versions
	cargo build --locked --workspace --bins --tests
	cargo test --locked --workspace --bins --tests --no-fail-fast -- --ignored prove::

bench: setup-run setup-bench build ## run the benchmarks
	tools/cargo-release --module build -p realmgate-least-filter
	tools/cargo-release run -p realmgate-tests --bin realmgate-bench

# Ten minutes for each target; another time by `make fuzz SECONDS=60`.
fuzz: SECONDS := 600
fuzz: ## fuzz every decoder, the sessions and the table of addresses; needs nightly Rust
	@tools/fuzz $(SECONDS)

lint: setup-lint ## check formatting, lints (native and wasm), file lengths, shell scripts, licences and advisories of all crates
	cargo fmt --check
	tools/lint-files
	tools/lint-supply
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p realmgate-filter --target $(WASM) -- -D warnings
	cargo clippy --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --no-default-features -- -D warnings
