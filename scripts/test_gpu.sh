#!/usr/bin/env bash
# Usage: scripts/test_gpu.sh [--no-build] [STAGE…]   (stages: tests memcheck racecheck; default: all)
# On a machine with a GPU: builds preset cuda, runs every test labelled gpu, and runs the quick tests of the ops once more under
# compute-sanitizer. --no-build takes build/cuda/bin as it is, e.g. a build with DSV4_STATIC=ON made elsewhere; nothing but the driver and,
# for the last two stages, compute-sanitizer is needed then.
set -euo pipefail
cd "$(dirname "$0")/.."
program=build/cuda/bin/test_cuda

# The sanitizers make a kernel many times slower: whole models, long rows and large caches are left to the plain run.
op_tests='*Gpu.*-EngineGpu.*:ModelGpu.*:MiniOnGpu.*:LoaderGpu.*'
op_tests+=':*AboveFourGiB*:*FullVocabulary*:*ProductionShapes*:*LongRow*:*ManyRows*:*EveryClusterSize*:*HiddenSizes*:*TokenCounts*'
# racecheck follows every access of shared memory: of the tests that repeat a kernel in many sizes, one size is enough. It does not come
# back from replayed graphs, nor from most tests of the two kernels that count in shared memory (sample, topk).
race_tests=$op_tests':*TokensAlone*:*RowsDoNotDependOnTheBatch*:*DotProducts*:*IsExact*:*IsAnFp32Product*:*RoundsTheSum*'
race_tests+=':MhcHeadGpu.MatchesCpu:RouterGpu.ScoredLayers:*Parity*:*KeyCounts*:*WindowOf*:*EveryCode*:*ChunkByChunk*'
race_tests+=':*Recorded*:*GroupsMixFormats*:*ASequenceAlone*'
race_tests+=':SampleGpu.T*:SampleGpu.M*:SampleGpu.A*:SampleGpu.P*:SampleGpu.S*:SampleGpu.B*:SampleGpu.H*:SampleGpu.N*:TopkGpu.*'

stage_tests() {
  if [ "$build" = yes ] && command -v ctest >/dev/null; then
    ctest --test-dir build/cuda -L gpu --output-on-failure --no-tests=error
  else
    "$program"
    if [ -x build/cuda/bin/example_attention ]; then
      build/cuda/bin/example_attention
      tools/check_attention.py || [ $? -eq 77 ] # no NumPy
    fi
  fi
}

sanitize() {
  local sanitizer
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ ! -x "$sanitizer" ]; then
    echo "test_gpu: no compute-sanitizer on this machine (it comes with the CUDA toolkit)" >&2
    return 1
  fi
  "$sanitizer" --tool "$1" --error-exitcode 9 "$program" --gtest_filter="$2"
}
stage_memcheck() { sanitize memcheck "$op_tests"; }
stage_racecheck() { sanitize racecheck "$race_tests"; }

build=yes
stages=()
for argument in "$@"; do
  case $argument in
    --no-build) build=no ;;
    tests | memcheck | racecheck) stages+=("$argument") ;;
    *) echo "usage: scripts/test_gpu.sh [--no-build] [tests|memcheck|racecheck …]" >&2; exit 2 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(tests memcheck racecheck)

# Without a GPU every test would be skipped, which is no success.
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "test_gpu: no GPU on this machine (nvidia-smi finds none)" >&2
  exit 1
fi
if [ "$build" = yes ]; then scripts/build.sh cuda; fi
if [ ! -x "$program" ]; then
  echo "test_gpu: $program is missing: build preset cuda where nvcc is" >&2
  exit 1
fi
for stage in "${stages[@]}"; do
  printf '=== %s\n' "$stage"
  "stage_$stage"
done
printf 'GPU TESTS PASSED: %s\n' "${stages[*]}"
