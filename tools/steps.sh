# How every setup script speaks, times itself and stops.
# shellcheck shell=bash  # sourced, with `set -euo pipefail` in force

# Decimal points in EPOCHREALTIME and untranslated messages of other programs, whatever the user's locale.
export LC_ALL=C

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOOLS=$ROOT/.tools
mkdir -p "$TOOLS/bin"
# Temporary files lie in .tools so that a finished part moves to its place by a rename, within one file system.
SCRATCH=$(mktemp -d "$TOOLS/scratch.XXXXXX")
trap 'rm -rf "$SCRATCH"' EXIT

# shellcheck source=tools/versions.sh
. "$ROOT/tools/versions.sh"

have() { command -v "$1" >/dev/null 2>&1; }

# bash before 5 (macOS) has no EPOCHREALTIME; whole seconds do there.
now() { echo "${EPOCHREALTIME:-$SECONDS.0}"; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f s", b - a }'; }

STARTED=$(now)
part() { PART=$1; }
say() { printf '%-18s %s\n' "$PART" "$*"; }
# The last line of every part: what is there now, by which way, and what it cost.
ready() { say "$* ($(since "$STARTED"))"; }
# `set -e` alone would end a script without a word.
set -E
trap 'echo "$PART: stopped by: $BASH_COMMAND" >&2' ERR
die() {
  printf '%-18s %s\n' "$PART" "error: $1" >&2
  shift
  for line in "$@"; do printf '%-18s %s\n' '' "$line" >&2; done
  exit 1
}

# `attempt NAME COMMAND...` keeps the command's output back in $SCRATCH/NAME.log: what fails may have a fallback.
attempt() {
  local log=$SCRATCH/$1.log
  shift
  "$@" >"$log" 2>&1 </dev/null
}

# The same for what has none: the end of the output is shown if it fails.
quiet() {
  attempt "$@" && return
  tail -n 15 "$SCRATCH/$1.log" | sed 's/^/    /' >&2
  return 1
}

# The first complaint of an attempt, to be told in one line.
complaint() { { grep -m 1 -i '^ *error' "$SCRATCH/$1.log" || tail -n 1 "$SCRATCH/$1.log"; } | cut -c1-160; }

# A way that hangs on a closed network must not eat the time of the fallback. macOS has no timeout(1).
within() {
  local seconds=$1
  shift
  if have timeout; then timeout "$seconds" "$@"; else "$@"; fi
}

# True if version $1 is $2 or newer; compares numbers, `sort -V` is not everywhere.
at_least() {
  awk -v have="$1" -v want="$2" 'BEGIN {
    n = split(want, w, "."); split(have, h, ".")
    for (i = 1; i <= n; i++) { if (h[i] + 0 > w[i] + 0) exit 0; if (h[i] + 0 < w[i] + 0) exit 1 }
  }'
}

# The first program called $1 on PATH that is not the one in .tools, so that what the machine has is told from what we
# brought. Compared as files: the repository may be reached by two names.
on_machine() {
  local found
  while IFS= read -r found; do
    [ "$found" -ef "$TOOLS/bin/$1" ] || { echo "$found"; return; }
  done < <(type -aP "$1")
  return 1
}

# True if FILE has one of these SHA-256, a line each.
pinned() {
  local found
  found=$(sha256sum "$1" | cut -d' ' -f1)
  grep -qx "$found" <<<"$2" && return
  say "${1##*/} has SHA-256 $found, which tools/versions.sh does not name"
  return 1
}
