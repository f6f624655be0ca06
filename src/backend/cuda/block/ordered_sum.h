// Sums over a row in the order of the CPU backend's dot product, so that norms agree with it bit for bit.
#pragma once

#include "backend/cuda/block/formats.h"

namespace dsv4::cuda {

// Σ values[i], or Σ values[i]² (products rounded), over a row in shared memory, by one whole warp; the same in every lane. Element i is
// added to lane i mod 32, i ascending; the lanes are then added 8, 4, 2, 1 and 16 apart. count: a multiple of 32.
template <bool kSquare>
__device__ __forceinline__ float warp_ordered_sum(const Bf16* values, int count) {
  float sum = 0.0f;
#pragma unroll 8
  for (int i = threadIdx.x % 32; i < count; i += 32) {
    const float value = bf16_to_float(values[i]);
    sum = __fadd_rn(sum, kSquare ? __fmul_rn(value, value) : value);
  }
#pragma unroll
  for (const int distance : {8, 4, 2, 1, 16}) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, distance));
  return sum;
}

// The factor of an RMS norm: 1/√(sum/dim + eps), each step rounded.
__device__ __forceinline__ float rms_factor(float sum_of_squares, int dim, float eps) {
  const float mean = __fdiv_rn(sum_of_squares, static_cast<float>(dim));
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}

}  // namespace dsv4::cuda
