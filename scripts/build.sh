#!/usr/bin/env bash
# Usage: scripts/build.sh PRESET [cmake --build options]   (presets: cpu cuda asan tsan fuzz)
# Configures and builds into build/PRESET; the binary is build/PRESET/bin/dsv4.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:?usage: scripts/build.sh cpu|cuda|asan|tsan|fuzz}
shift
launcher=()
if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache); fi
cmake --preset "$preset" "${launcher[@]}" >"/tmp/dsv4-configure-$$.log" 2>&1 || { cat "/tmp/dsv4-configure-$$.log" >&2; rm -f "/tmp/dsv4-configure-$$.log"; exit 1; }
rm -f "/tmp/dsv4-configure-$$.log"
cmake --build "build/$preset" "$@"
