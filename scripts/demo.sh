#!/usr/bin/env bash
# Usage: scripts/demo.sh [PROMPT [dsv4 generate options]]
# From a fresh checkout to text: installs missing packages, builds the binary alone, and continues PROMPT with the model in models/tiny.
# Options replace the demo's own: --raw (no chat encoding) and mild sampling.
set -euo pipefail
cd "$(dirname "$0")/.."
prompt=${1-"And it came to pass"}
[ $# -eq 0 ] || shift
scripts/install_deps.sh

mkdir -p build
log=build/demo-build.log
echo "building dsv4 (some minutes the first time; details in $log)" >&2
if ! scripts/build.sh cpu --target dsv4 >"$log" 2>&1; then
  cat "$log" >&2
  echo "demo: the build failed" >&2
  exit 1
fi
# --prompt=… so that a prompt may begin with a dash.
options=("$@")
[ $# -gt 0 ] || options=(--raw --temperature 0.7 --top-p 0.9 -n 120)
printf '%s' "$prompt"
# Not exec: the time to the first token counts from the start of the process.
build/cpu/bin/dsv4 generate "--prompt=$prompt" "${options[@]}"
