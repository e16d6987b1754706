# Programs of the crate registry, which have one way: to be built from it.
# shellcheck shell=bash  # sourced after steps.sh

# They run for seconds at a time: the time to compile them counts, their own speed does not. --debug compiles fastest; without
# debug information the linker has a tenth of the work.
install_crate() {
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$TOOLS/build-$crate" attempt install \
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET \
    cargo install --locked --debug --bin "$program" --root "$SCRATCH/crate" "$@"
}

# A registry mirror that lags lacks the newest versions that a crate's own lock file names. Another one, of ours, then says which
# versions are meant, with their hashes: tools/pin-lock writes it.
install_by_our_lock() {
  local lock=$ROOT/tools/locks/$crate-$version.lock source
  grep -q 'failed to select a version' "$SCRATCH/install.log" || return 1
  if [ ! -f "$lock" ]; then
    say "this crate registry lacks a version of the crate's lock file: see 'tools/pin-lock $crate $version'"
    return 1
  fi
  say "this crate registry lacks a version of the crate's lock file: building by ${lock#"$ROOT/"}"
  source=$(crate_source "$crate" "$version") || return 1
  cp -r "$source" "$SCRATCH/source"
  cp "$lock" "$SCRATCH/source/Cargo.lock"
  echo '[workspace]' >>"$SCRATCH/source/Cargo.toml" # it is no member of ours, though it lies within
  install_crate --path "$SCRATCH/source"
}

# Where cargo has unpacked a crate that it was asked for.
crate_source() {
  local folder
  for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$1-$2"; do
    [ ! -d "$folder" ] || { echo "$folder"; return; }
  done
  return 1
}

# `crate_program CRATE VERSION PROGRAM` builds PROGRAM by a lock file and puts it into .tools/bin by a rename.
crate_program() {
  local crate=$1 version=$2 program=$3
  say "building $crate $version (minutes, once)"
  cd "$ROOT" || return 1 # rust-toolchain.toml decides which toolchain is meant
  if ! install_crate "$crate" --version "=$version" && ! install_by_our_lock; then
    tail -n 15 "$SCRATCH/install.log" >&2
    die "cargo could not build $crate $version" "see above; it needs the crate registry and a C compiler"
  fi
  mv -f "$SCRATCH/crate/bin/$program" "$TOOLS/bin/$program"
  rm -rf "$TOOLS/build-$crate"
}
