#!/usr/bin/env bash
# Usage: scripts/test.sh [ctest options]
# From a fresh checkout to a tested build: installs missing packages, builds preset cpu, runs every test. The last lines are ctest's
# summary, the exit status is non-zero when anything failed.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install_deps.sh
scripts/build.sh cpu
ctest --test-dir build/cpu --parallel 2 --output-on-failure --no-tests=error "$@"
