#!/usr/bin/env bash
# Installs what the build, the tests and the demo need on Debian 12, if anything is missing. Needs root or sudo only then.
set -euo pipefail
packages=(g++ cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libpcre2-dev libedit-dev
          libgtest-dev libbenchmark-dev)
# Extra packages for the checks of continuous integration.
if [ "${1:-}" = "--ci" ]; then packages+=(clang libclang-rt-14-dev clang-format python3 python3-venv); fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
echo "installing: ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
