# The sources as they stand, committed or not, without what is built.
# shellcheck shell=bash  # sourced, in the root of the repository

# `copy_sources FOLDER` puts a copy there.
copy_sources() {
  mkdir -p "$1"
  # What was removed and not committed is still listed.
  git ls-files -z --cached --others --exclude-standard --deduplicate | while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then printf '%s\0' "$file"; fi
  done | tar -c --null --files-from - | tar -x -C "$1"
}
