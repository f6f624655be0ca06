#!/usr/bin/env bash
# Usage: scripts/build.sh PRESET [cmake --build options]   (presets: cpu cuda asan tsan fuzz)
# Configures and builds into build/PRESET; the binary is build/PRESET/bin/dsv4.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: scripts/build.sh cpu|cuda|asan|tsan|fuzz [cmake --build options]}
shift
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache); fi
mkdir -p build
log=build/configure-$preset.log
if ! cmake --preset "$preset" "${launcher[@]}" >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
cmake --build "build/$preset" "$@"
