// Walsh–Hadamard rotation of vectors that lie in neighbouring lanes, eight values each (spec 2.6).
#pragma once

#include "backend/cuda/block/bf16x8.h"
#include "ops/hadamard.h"

namespace dsv4::cuda {

inline constexpr int kMaxWarpHadamardDim = 32 * kChunk;

// x ← bf(x·M·scale) over each aligned group of num_lanes lanes (a power of two), M the Sylvester matrix in natural order, scale = 1/√dim.
// Distances ascend as on the CPU, so the sums round alike. All lanes of the warp take part.
__device__ __forceinline__ void hadamard(float (&x)[kChunk], int num_lanes, float scale) {
#pragma unroll
  for (int half = 1; half < kChunk; half *= 2) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if ((i & half) != 0) continue;
      const float low = x[i], high = x[i + half];
      x[i] = __fadd_rn(low, high);
      x[i + half] = __fsub_rn(low, high);
    }
  }
  for (int distance = 1; distance < num_lanes; distance *= 2) {
    const bool upper = (threadIdx.x & distance) != 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float other = __shfl_xor_sync(0xffffffffu, x[i], distance);
      x[i] = upper ? __fsub_rn(other, x[i]) : __fadd_rn(x[i], other);
    }
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = round_to_bf16(__fmul_rn(x[i], scale));
}

}  // namespace dsv4::cuda
