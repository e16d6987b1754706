# Programs of the crate registry, which have one way: to be built from it.
# shellcheck shell=bash  # sourced after steps.sh

# `crate_program CRATE VERSION PROGRAM` builds PROGRAM with the lock file that its crate carries, and puts it into .tools/bin by
# a rename. They run for seconds at a time: the time to compile them counts, their own speed does not. --debug compiles
# fastest; without debug information the linker has a tenth of the work.
crate_program() {
  local crate=$1 version=$2 program=$3
  say "building $crate $version (minutes, once)"
  cd "$ROOT" || return 1 # rust-toolchain.toml decides which toolchain is meant
  if ! CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$TOOLS/build-$crate" attempt install \
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET \
    cargo install "$crate" --version "=$version" --locked --debug --bin "$program" --root "$SCRATCH/crate"; then
    tail -n 15 "$SCRATCH/install.log" >&2
    die "cargo could not build $crate $version" "see above; it needs the crate registry and a C compiler"
  fi
  mv -f "$SCRATCH/crate/bin/$program" "$TOOLS/bin/$program"
  rm -rf "$TOOLS/build-$crate"
}
