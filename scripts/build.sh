#!/usr/bin/env bash
# Usage: scripts/build.sh PRESET [-DNAME=VALUE…] [cmake --build options]   (presets: cpu cuda asan tsan fuzz)
# Configures and builds into build/PRESET; the binary is build/PRESET/bin/dsv4. What -D sets stays set in that folder, as cmake keeps it.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: scripts/build.sh cpu|cuda|asan|tsan|fuzz [-DNAME=VALUE…] [cmake --build options]}
shift
configure=()
build=()
for option in "$@"; do
  case $option in
    -D?*) configure+=("$option") ;;
    *) build+=("$option") ;;
  esac
done
if command -v ccache >/dev/null; then configure+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache); fi
mkdir -p build
log=build/configure-$preset.log
if ! cmake --preset "$preset" "${configure[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
cmake --build "build/$preset" "${build[@]}"
