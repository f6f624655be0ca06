#!/usr/bin/env bash
# Usage: scripts/install_deps.sh [--ci]
# Installs what the build, the tests and the demo need on Debian 12 (or a release like it), if anything is missing; --ci adds what .ci/run
# needs. Needs root or sudo only when a package is missing.
set -euo pipefail
packages=(g++ cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libpcre2-dev libedit-dev
          libgtest-dev libbenchmark-dev)
case "${1:-}" in
  "") ;;
  --ci) packages+=(clang libclang-rt-14-dev clang-format shellcheck python3 python3-venv) ;;
  *) echo "usage: scripts/install_deps.sh [--ci]" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_deps: no dpkg and apt-get here; install the counterparts of these Debian packages by hand: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: missing packages, and neither root nor sudo to install them; as root run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing: ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
