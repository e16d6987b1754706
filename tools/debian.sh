# Debian's packages without configuring or changing the machine: a private apt state, downloads, and plain unpacking.
# Nothing here needs root, adds a source, installs a package or starts a service. What comes is what the archive's signed index
# names by its hash. Hashes of our own would name the packages of one release of Debian, on one day: each repair changes them.
# shellcheck shell=bash  # sourced after steps.sh

APT=$SCRATCH/apt

debian_release() { (. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_CODENAME:-}"); }

# The mirror that the machine itself uses for its release, so that a local one is respected.
debian_mirror() {
  # `--no-release-info`: name it even if this machine never ran `apt-get update`.
  # shellcheck disable=SC2016  # apt's own placeholders
  apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 2>/dev/null |
    awk -v release="$(debian_release)" '"debian " $2 == release && $3 == "main" { print $1; exit }'
}

debian_here() { have apt-get && have dpkg-deb && [ -n "$(debian_mirror)" ]; }

# `debian_suites SUITE...` makes these suites, and only these, the private apt's world.
debian_suites() {
  local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=''
  mirror=$(debian_mirror)
  # The archive keyring holds the keys of all live suites. Without it apt's trusted keys decide.
  [ -r "$keyring" ] && signed="[signed-by=$keyring] "
  rm -rf "$APT"
  mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial"
  printf "deb $signed$mirror %s main\n" "$@" >"$APT/sources.list"
  quiet apt-update private_apt apt-get update
}

private_apt() {
  local program=$1
  shift
  # DEP-11 and Contents indices are ten times the size of what is asked for. The sandbox user _apt may be unable to
  # enter .tools; signatures are checked all the same, whatever the machine's own apt lets pass.
  "$program" -q \
    -o Dir::Etc::SourceList="$APT/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::PreferencesParts=/dev/null -o Dir::Etc::Preferences=/dev/null \
    -o Dir::State::Lists="$APT/lists" -o Dir::Cache="$APT/cache" \
    -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none \
    -o Acquire::Retries=3 -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
    -o APT::Get::AllowUnauthenticated=false -o Acquire::AllowInsecureRepositories=false \
    -o Acquire::AllowWeakRepositories=false -o Acquire::AllowDowngradeToInsecureRepositories=false "$@"
}

# `debian_unpack FOLDER PACKAGE` unpacks the package, and those of its dependencies that the machine lacks, into FOLDER.
debian_unpack() {
  local folder=$1 package=$2 deb
  debian_suites "$(debian_release | cut -d" " -f2)" || return 1
  quiet apt-download private_apt apt-get install --yes --download-only --no-install-recommends "$package" || return 1
  if ! compgen -G "$APT/cache/archives/*.deb" >/dev/null; then
    say "apt has $package installed already, though it is not on PATH"
    return 1
  fi
  mkdir -p "$folder"
  for deb in "$APT"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$folder" || return 1; done
}

# `debian_command NAME FOLDER` makes .tools/bin/NAME start the program unpacked in .tools/FOLDER with its libraries.
# `exec` keeps the process id, so that whoever starts it can also stop it.
debian_command() {
  local name=$1 folder=$2 libraries program=usr/bin/$1
  [ -x "$TOOLS/$folder/$program" ] || program=usr/sbin/$name # where services stand
  libraries=$(cd "$TOOLS/$folder" && find . -name '*.so.*' -exec dirname {} \; | sort -u)
  {
    echo '#!/bin/sh'
    echo "here=\$(cd \"\$(dirname \"\$0\")/../$folder\" && pwd)"
    for library in $libraries; do echo "LD_LIBRARY_PATH=\$here/$library\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"; done
    echo 'export LD_LIBRARY_PATH'
    echo "exec \"\$here/$program\" \"\$@\""
  } >"$SCRATCH/$name"
  chmod +x "$SCRATCH/$name"
  mv -f "$SCRATCH/$name" "$TOOLS/bin/$name"
}
